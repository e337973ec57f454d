"""The directory of configfs-tsm itself: the system calls of `vtpm.guest.tsm.Tsm`."""

import os
from pathlib import Path
from typing import Final

REPORTS: Final = Path("/sys/kernel/config/tsm/report")
"""Where Linux has it."""


class ConfigfsTsm:
    """configfs-tsm in the directory `reports`. Every call may raise `OSError`."""

    def __init__(self, reports: Path = REPORTS) -> None:
        self._reports = reports

    def make(self, entry: str) -> None:
        """Make an entry; the kernel puts its attributes there."""
        (self._reports / entry).mkdir()

    def write(self, entry: str, attribute: str, data: bytes) -> None:
        """Write an attribute in one call: the kernel takes each call for a whole value, and counts it."""
        descriptor = self._open(entry, attribute, os.O_WRONLY | os.O_TRUNC)
        try:
            written = os.write(descriptor, data)
        finally:
            os.close(descriptor)
        if written != len(data):
            raise OSError(f"{written} of {len(data)} bytes were taken")

    def read(self, entry: str, attribute: str, most: int) -> bytes:
        """The first `most` bytes of an attribute."""
        data = b""
        descriptor = self._open(entry, attribute, os.O_RDONLY)
        try:
            while len(data) < most and (piece := os.read(descriptor, most - len(data))):
                data += piece
        finally:
            os.close(descriptor)
        return data

    def remove(self, entry: str) -> None:
        """Remove an entry."""
        (self._reports / entry).rmdir()

    def _open(self, entry: str, attribute: str, flags: int) -> int:
        return os.open(self._reports / entry / attribute, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
