"""Files of the CA's directory: durable writing, and permissions that are checked, not assumed."""

import os
import stat
from pathlib import Path

from ca_service.judgment import BadRequest, NotFound

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
PUBLIC_FILE = 0o644
PUBLIC_DIRECTORY = 0o755


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Create a file that does not exist yet, with exactly these permissions, and flush it to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def make_directory(path: Path, mode: int) -> None:
    """Create a directory with exactly these permissions."""
    path.mkdir(mode=mode)
    path.chmod(mode)


def flush_directory(path: Path) -> None:
    """Make the directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(root: Path) -> None:
    """Make all directories below and including `root` durable, the inner ones first."""
    for directory, _, _ in os.walk(root, topdown=False):
        flush_directory(Path(directory))


def require_private(path: Path) -> None:
    """Refuse a secret's file or directory that others than its owner may touch.

    Raises:
        NotFound: it is not there.
        BadRequest: its permissions or its owner are wrong (code ``permissions``).
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist") from None
    directory = stat.S_ISDIR(status.st_mode)
    if not (directory or stat.S_ISREG(status.st_mode)):
        raise BadRequest(str(path), "must be a file or directory, not a link", code="permissions")
    if status.st_mode & 0o077:
        raise BadRequest(
            str(path),
            "may be accessed by others than its owner",
            code="permissions",
            remedy=f"chmod {'700' if directory else '600'} {path}",
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise BadRequest(str(path), "belongs to another user", code="permissions")


def read_private(path: Path) -> bytes:
    """Read a secret's file after checking it and its directory; raises as `require_private`."""
    require_private(path.parent)
    require_private(path)
    return path.read_bytes()


def read_public(path: Path) -> bytes:
    """Read a public file of the CA's directory.

    Raises:
        NotFound: it is not there.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{path} does not exist", remedy="Is this the directory of a CA?") from None
