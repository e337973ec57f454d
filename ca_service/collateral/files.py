"""Files and directories of a bundle: read without trust in what lies there, written to last."""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ca_service.collateral.items import Kind, kind_of_name

_LASTING: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO})
"""Errors that stay until somebody changes the file."""

Mark = tuple[int, ...]
"""What changes with a file or directory; the two times, in nanoseconds, stand last."""


def mark_of(status: os.stat_result) -> Mark:
    """The mark of a file or directory."""
    return (
        status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )  # fmt: skip


def listed(path: Path) -> Iterator[tuple[str, Kind, Mark]]:
    """The things in a directory that have a name as the files of a bundle, in the order of their names."""
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            kind = kind_of_name(entry.name)
            if kind is None:
                continue
            with contextlib.suppress(FileNotFoundError):  # taken away since
                yield entry.name, kind, mark_of(entry.stat(follow_symlinks=False))


def content_of(path: Path, most: int) -> bytes | None:
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


def is_file(path: Path) -> bool:
    """Whether there is a regular file, not a link to one; False if that cannot be told."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def content_or_none(path: Path, most: int) -> bytes | None:
    """As `content_of`, and None for a reason that may pass too."""
    try:
        return content_of(path, most)
    except OSError:
        return None


def holds(path: Path, content: bytes) -> bool:
    """Whether a file has exactly this content."""
    found = content_or_none(path, len(content))
    return found is not None and hashlib.sha256(found).digest() == hashlib.sha256(content).digest()


def make_directory(path: Path) -> None:
    """Make a directory, durably, if it is not there."""
    if path.is_dir():
        return
    path.mkdir(mode=0o755, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _give(descriptor, path.parent)
    finally:
        os.close(descriptor)
    flush(path.parent)


def _give(descriptor: int, folder: Path) -> None:
    """What root leaves behind belongs to whom the folder belongs: the server's user must be able to work on.

    By descriptor, for that user could put a link in the place of a name meanwhile.
    """
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is new, readable for all, on disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        # The server's umask is for secrets; these are none.
        os.fchmod(descriptor, 0o644)
        _give(descriptor, path.parent)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def flush(path: Path) -> None:
    """Bring the names in a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
