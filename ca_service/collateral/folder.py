"""The bundle on disk: a directory of files that each hold one certificate or revocation list in DER.

A file's name states kind and SHA-256, so two writers of the same thing write the same file and nothing is ever
changed in place. Whatever else lies in the directory is not read.
"""

import contextlib
import fcntl
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ca_service.collateral.files import (
    Mark,
    content_of,
    content_or_none,
    flush,
    holds,
    is_file,
    listed,
    make_directory,
    mark_of,
    write_durably,
)
from ca_service.collateral.items import Item, Kind, collateral_of, kind_of_name, read_item
from ca_service.evidence.snp import Collateral
from ca_service.judgment import Unavailable
from ca_service.logger import logger

FOLDER: Final = "collateral"
"""The bundle's name inside a CA's directory."""

TEMPORARY: Final = ".new-"
"""How the name of a file begins that is being written; one that is left over holds nothing that counts."""

_TEMPORARY: Final = re.compile(re.escape(TEMPORARY) + r"[0-9a-f]{16}\Z")

_SETTLED_S: Final = 2.0
"""How long after a change a directory may change again without another time of change, on any file system."""

_REREAD_S: Final = 60.0
"""After how long files are looked at again though the directory seems unchanged: for changes within a file."""

_LOCK_S: Final = 10.0
"""How long a writer waits for another one, which needs milliseconds unless it hangs."""

_LOCK_STEP_S: Final = 0.05


@dataclass(frozen=True)
class Added:
    """What an addition did, as file names: those written, and those that were there already."""

    written: tuple[str, ...]
    present: tuple[str, ...]


@dataclass(frozen=True)
class Stored:
    """A file as it was found: its bytes, None if they cannot be read or are too many."""

    name: str
    content: bytes | None


class CollateralFolder:
    """A bundle, kept in memory and read again when it changes; for use by several threads.

    Args:
        path: the directory; a missing one is an empty bundle.
        wall: the time as files are stamped with it, in seconds since 1970.
        monotonic: time that only goes forward, in seconds.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.path = path
        self._wall = wall
        self._monotonic = monotonic
        self._sleep = sleep
        self._guard = threading.Lock()
        self._current: Collateral | None = None
        self._items: Mapping[str, tuple[Mark, Item | None]] = {}
        self._mark: Mark | None = None
        self._seen_at = 0.0
        self._complaint = ""

    def current(self) -> Collateral:
        """What the bundle holds now.

        A damaged certificate is left out, which can only refuse. A damaged revocation list, or a bundle that can no
        longer be read, must not turn what is revoked valid again: the last good value stays in force.

        Raises:
            Unavailable: that happens before there ever was a good value.
        """
        with self._guard:
            try:
                self._refresh()
            except OSError as error:
                self._keep_last(f"the collateral bundle {self.path} cannot be read: {error.strerror}")
            except Unavailable as error:
                self._keep_last(error.detail)
            else:
                self._complaint = ""
            if self._current is None:
                raise Unavailable(
                    self._complaint,
                    code="collateral",
                    remedy="`vtpm-ca collateral verify` says what is wrong with it.",
                )
            return self._current

    def _keep_last(self, complaint: str) -> None:
        if complaint != self._complaint and self._current is not None:
            logger(__name__).warning("collateral bundle not renewed", reason=complaint)
        self._complaint = complaint

    def _refresh(self) -> None:
        begun, wall = self._monotonic(), self._wall()
        try:
            mark = mark_of(self.path.stat())
        except FileNotFoundError:
            if self._mark is not None:
                # A bundle that was there is not given up by accident, with all the lists in it.
                raise
            self._current = self._current or Collateral()
            return
        if mark == self._mark and begun - self._seen_at < _REREAD_S:
            return
        found: dict[str, tuple[Mark, Item | None]] = {}
        for name, kind, file_mark in listed(self.path):
            known = self._items.get(name)
            if known is not None and known[0] == file_mark:
                found[name] = known
                continue
            content = content_of(self.path / name, kind.most)
            item = None if content is None else read_item(name, content)
            if item is None and kind is Kind.CRL:
                raise Unavailable(f"the revocation list {name} of the bundle is damaged", code="collateral")
            found[name] = (file_mark, item)
        if self._current is None or found != self._items:
            self._current = collateral_of(item for _, item in found.values() if item is not None)
        self._items, self._seen_at = found, begun
        # Time stamps are coarse: a change right after this look may leave the same one. Then look again next time.
        changed_at = max(mark[-2:]) / 1e9
        self._mark = mark if wall - changed_at > _SETTLED_S else (0, *mark)

    def add(self, items: Iterable[Item]) -> Added:
        """Put items into the bundle, durable when this returns. Whether they may go there is for others to judge.

        What is written at all is written whole; one after the other becomes visible, revocation lists and authorities
        first. Several processes may do this at the same time.

        Raises:
            Unavailable: the directory cannot be made or written, or another writer holds it for too long; then
                nothing was added, or only whole files.
        """
        unique = {item.name: item for item in items}.values()
        ordered = [item for kind in Kind for item in unique if item.kind is kind]
        try:
            make_directory(self.path)
            with self._locked():
                present = tuple(item.name for item in ordered if holds(self.path / item.name, item.der))
                missing = [item for item in ordered if item.name not in present]
                self._write(missing)
        except OSError as error:
            raise Unavailable(
                f"the collateral bundle {self.path} cannot be written: {error.strerror}", code="storage"
            ) from error
        return Added(tuple(item.name for item in missing), present)

    def _write(self, items: list[Item]) -> None:
        temporary: list[tuple[Path, Path]] = []
        try:
            for item in items:
                path = self.path / f"{TEMPORARY}{secrets.token_hex(8)}"
                temporary.append((path, self.path / item.name))
                write_durably(path, item.der)
            for path, final in temporary:
                path.replace(final)
        finally:
            for path, _ in temporary:
                path.unlink(missing_ok=True)
        flush(self.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only writer, and clear away what killed ones have left."""
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._lock(directory)
            for left_over in filter(_is_left_over, self.path.iterdir()):
                # What cannot be cleared away is in nobody's way.
                with contextlib.suppress(OSError):
                    left_over.unlink()
            yield
        finally:
            os.close(directory)

    def _lock(self, directory: int) -> None:
        deadline = self._monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._monotonic() >= deadline:
                    raise Unavailable(
                        f"another process has been writing to {self.path} for {_LOCK_S:.0f} seconds",
                        code="storage",
                        remedy="See which one holds a lock on the folder (`lsof`), and whether it hangs.",
                    ) from None
                self._sleep(_LOCK_STEP_S)
            else:
                return

    def readable(self) -> Collateral:
        """What can be read of the bundle just now, damaged or not; for repair and inspection, not for decisions.

        Raises:
            Unavailable: the directory is there and cannot be read.
        """
        stored, _ = self.files()
        items = (read_item(file.name, file.content) for file in stored if file.content is not None)
        return collateral_of(item for item in items if item is not None)

    def files(self) -> tuple[list[Stored], list[str]]:
        """All files of the bundle as they are on disk, and the names of those that do not belong there.

        Raises:
            Unavailable: the directory is there and cannot be read.
        """
        try:
            names = sorted(path.name for path in self.path.iterdir())
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise Unavailable(
                f"the collateral bundle {self.path} cannot be read: {error.strerror}", code="storage"
            ) from error
        kinds = {name: kind_of_name(name) for name in names if not _is_left_over(self.path / name)}
        stored = [
            Stored(name, content_or_none(self.path / name, kind.most))
            for name, kind in kinds.items()
            if kind is not None
        ]
        return stored, [name for name, kind in kinds.items() if kind is None]


def _is_left_over(path: Path) -> bool:
    """Whether this is a file that a writer is at work on, or was. Others may have a folder under such a name."""
    return bool(_TEMPORARY.match(path.name)) and is_file(path)
