"""Whole-file replacement that survives a crash at any point, and the lock that keeps a second opener out."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from vtpm.volume.errors import VolumeLocked, VolumeMissing, VolumeWriteError

_NEW = ".new"
_LOCK = ".lock"


def acquire(path: Path) -> int:
    """Lock a volume for this process; the lock is let go when the descriptor is closed.

    The lock is a file beside the volume, because each transaction replaces the volume's own file.

    Raises:
        VolumeLocked: somebody else has it.
        VolumeMissing: the folder does not exist or cannot be written.
    """
    try:
        descriptor = os.open(
            _beside(path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
    except OSError as error:
        raise VolumeMissing(f"the volume {path.name} cannot be locked: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise VolumeLocked(f"the volume {path.name} is in use") from error
    return descriptor


def load(path: Path, most: int) -> bytes:
    """Content of a file; raises `VolumeMissing` if it cannot be read or is larger than `most` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise VolumeMissing(f"the volume {path.name} cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise VolumeMissing(f"the volume {path.name} is larger than any that this program writes")
    return data


def replace(path: Path, data: bytes) -> None:
    """Replace a file's content durably: a crash leaves the old content or the new one, never a mixture.

    Order: new file written and flushed, renamed over the old one, folder flushed.

    Raises:
        VolumeWriteError: a step failed; which of the two contents the disk will have is not known then.
    """
    new = _beside(path, _NEW)
    try:
        with suppress(FileNotFoundError):
            new.unlink()  # left over by a crash
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise VolumeWriteError(f"the volume {path.name} cannot be written: {error.strerror}") from error


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
