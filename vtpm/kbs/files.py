"""Durable files of the KBS's directory.

Every write is one step: a temporary file is filled and flushed, then linked or renamed to its name, then the
directory is flushed. Whoever dies in between leaves the old state, or the new one, and at most a temporary file
that the next writer removes. Writers hold the directory's lock; readers need none.
"""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from vtpm.kbs.errors import KbsError

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
_TEMPORARY = ".new-"
_LOCK = "lock"


def make_private_directory(path: Path) -> None:
    """Make a directory for its owner alone, with its parents; an existing one is checked.

    Raises:
        KbsError: others may enter it, or it belongs to somebody else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=PRIVATE_DIRECTORY)
    except FileExistsError:
        check_private(path)
    else:
        flush_directory(path.parent)


def check_private(path: Path) -> None:
    """Refuse a file or directory that others than its owner may touch.

    Raises:
        KbsError: it is missing, a link, somebody else's, or open to others.
    """
    try:
        status = path.lstat()
    except OSError as error:
        raise KbsError(f"{path}: {error.strerror}") from error
    is_directory = stat.S_ISDIR(status.st_mode)
    if not (is_directory or stat.S_ISREG(status.st_mode)):
        raise KbsError(f"{path} must be a file or a directory")
    if status.st_uid != os.geteuid():
        raise KbsError(f"{path} belongs to another user")
    if status.st_mode & 0o077:
        raise KbsError(
            f"{path} may be accessed by others than its owner",
            remedy=f"chmod {'700' if is_directory else '600'} {path}",
        )


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Be the directory's only writer, among threads and processes; leftovers of dead writers are removed."""
    descriptor = os.open(
        directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for left in directory.rglob(_TEMPORARY + "*"):
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def write_once(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet; the caller holds the lock.

    Raises:
        FileExistsError: it exists; it is left as it is.
    """
    temporary = _temporary(path, data)
    try:
        # link, not rename: it never replaces what is there.
        os.link(temporary, path)
    finally:
        os.unlink(temporary)  # noqa: PTH108 - os throughout, as for the steps before
    flush_directory(path.parent)


def write_over(path: Path, data: bytes) -> None:
    """Write a file whether or not it exists; the caller holds the lock."""
    os.replace(_temporary(path, data), path)  # noqa: PTH105 - os throughout
    flush_directory(path.parent)


def read_private(path: Path) -> bytes:
    """Read a file that is its owner's alone.

    Raises:
        FileNotFoundError: there is none.
        KbsError: others may touch it, or it cannot be read.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(path)
    check_private(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise KbsError(f"{path}: {error.strerror}") from error


def _temporary(path: Path, data: bytes) -> Path:
    temporary = path.parent / (_TEMPORARY + secrets.token_hex(8))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), PRIVATE_FILE)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def flush_directory(path: Path) -> None:
    """Make the directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
