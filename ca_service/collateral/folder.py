"""The bundle on disk: a directory of files that each hold one certificate or revocation list in DER.

A file's name states kind and SHA-256, so two writers of the same thing write the same file and nothing is ever
changed in place. Whatever else lies in the directory is not read.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from ca_service.collateral.items import Item, Kind, collateral_of, kind_of_name, read_item
from ca_service.evidence.snp import Collateral
from ca_service.judgment import Unavailable

FOLDER: Final = "collateral"
"""The bundle's name inside a CA's directory."""

TEMPORARY: Final = ".new-"
"""How the name of a file begins that is being written; one that is left over holds nothing that counts."""

_SETTLED_S: Final = 2.0
"""How long after a change a directory may change again without another time of change, on any file system."""

_REREAD_S: Final = 60.0
"""After how long files are looked at again though the directory seems unchanged: for changes within a file."""

_LASTING: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO})
"""Errors that stay until somebody changes the file."""

_Mark = tuple[int, ...]


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
    """

    def __init__(
        self,
        path: Path,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._wall = wall
        self._monotonic = monotonic
        self._guard = threading.Lock()
        self._current: Collateral | None = None
        self._items: Mapping[str, tuple[_Mark, Item | None]] = {}
        self._mark: _Mark | None = None
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
            structlog.get_logger(__name__).warning("collateral bundle not renewed", reason=complaint)
        self._complaint = complaint

    def _refresh(self) -> None:
        begun, wall = self._monotonic(), self._wall()
        try:
            mark = _mark(self.path.stat())
        except FileNotFoundError:
            if self._mark is not None:
                # A bundle that was there is not given up by accident, with all the lists in it.
                raise
            self._current = self._current or Collateral()
            return
        if mark == self._mark and begun - self._seen_at < _REREAD_S:
            return
        found: dict[str, tuple[_Mark, Item | None]] = {}
        for name, kind, file_mark in _listed(self.path):
            known = self._items.get(name)
            if known is not None and known[0] == file_mark:
                found[name] = known
                continue
            content = _content(self.path / name, kind.most)
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
            Unavailable: the directory cannot be made or written; then nothing was added, or only whole files.
        """
        unique = {item.name: item for item in items}.values()
        ordered = [item for kind in Kind for item in unique if item.kind is kind]
        try:
            _make(self.path)
            with self._locked():
                present = tuple(item.name for item in ordered if _holds(self.path / item.name, item.der))
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
                _write_durably(path, item.der)
            for path, final in temporary:
                path.replace(final)
        finally:
            for path, _ in temporary:
                path.unlink(missing_ok=True)
        _flush(self.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only writer, and clear away what killed ones have left."""
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            for left_over in self.path.glob(f"{TEMPORARY}*"):
                left_over.unlink(missing_ok=True)
            yield
        finally:
            os.close(directory)

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
        kinds = {name: kind_of_name(name) for name in names if not name.startswith(TEMPORARY)}
        stored = [
            Stored(name, _content_or_none(self.path / name, kind.most))
            for name, kind in kinds.items()
            if kind is not None
        ]
        return stored, [name for name, kind in kinds.items() if kind is None]


def _mark(status: os.stat_result) -> _Mark:
    """What changes with a file or directory; the two times, in nanoseconds, stand last."""
    return (
        status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )  # fmt: skip


def _listed(path: Path) -> Iterator[tuple[str, Kind, _Mark]]:
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            kind = kind_of_name(entry.name)
            if kind is None:
                continue
            with contextlib.suppress(FileNotFoundError):  # taken away since
                yield entry.name, kind, _mark(entry.stat(follow_symlinks=False))


def _content(path: Path, most: int) -> bytes | None:
    """A regular file's bytes; None if it is none, is gone, may not be read, or is longer than `most`.

    Raises:
        OSError: for a reason that may pass, so that the file is not taken for a bad one.
    """
    try:
        # Without O_NONBLOCK a pipe under such a name would hold up everybody.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _LASTING:
            return None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(most + 1)
    return content if len(content) <= most else None


def _content_or_none(path: Path, most: int) -> bytes | None:
    try:
        return _content(path, most)
    except OSError:
        return None


def _holds(path: Path, content: bytes) -> bool:
    found = _content_or_none(path, len(content))
    return found is not None and hashlib.sha256(found).digest() == hashlib.sha256(content).digest()


def _make(path: Path) -> None:
    if path.is_dir():
        return
    path.mkdir(mode=0o755, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _give(descriptor, path.parent)
    finally:
        os.close(descriptor)
    _flush(path.parent)


def _give(descriptor: int, folder: Path) -> None:
    """What root leaves behind belongs to whom the folder belongs: the server's user must be able to work on.

    By descriptor, for that user could put a link in the place of a name meanwhile.
    """
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _write_durably(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        # The server's umask is for secrets; these are none.
        os.fchmod(descriptor, 0o644)
        _give(descriptor, path.parent)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
