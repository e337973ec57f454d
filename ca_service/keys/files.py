"""Files of the CA's directory: durable writing, and permissions that are checked, not assumed."""

import contextlib
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ca_service.judgment import BadRequest, NotFound, Unavailable

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
PUBLIC_FILE = 0o644
PUBLIC_DIRECTORY = 0o755

_PATIENCE_S = 10.0
_PAUSE_S = 0.05


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Create a file that does not exist yet, with exactly these permissions, and flush it to the disk.

    A file of root's would lock the CA's own user out, so it gets the owner of the folder that it lies in.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        _give_to_owner(file.fileno(), path.parent)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Put `data` into the place of what `path` holds, if anything: durable, and old or new at every moment."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    try:
        write_new(beside, data, mode)
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)


def write_directory(path: Path, contents: Mapping[str, bytes]) -> None:
    """Create a private directory with these files: durable, and whole or not there at all.

    It gets the owner of the folder that it lies in. What a try that ended half-way has left is taken away.
    """
    beside = path.with_name(f".{path.name}.new")
    if beside.exists():
        shutil.rmtree(beside)
    make_directory(beside, PRIVATE_DIRECTORY)
    descriptor = os.open(beside, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _give_to_owner(descriptor, path.parent)
        for name, data in contents.items():
            write_new(beside / name, data, PRIVATE_FILE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    beside.rename(path)
    flush_directory(path.parent)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on a file, made if need be.

    Raises:
        Unavailable: another process holds it and does not let go within ten seconds (code ``busy``).
    """
    deadline = time.monotonic() + _PATIENCE_S
    with path.open("a") as file:
        _give_to_owner(file.fileno(), path.parent)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Unavailable(
                        "another process works on this CA's keys",
                        code="busy",
                        remedy=f"See who holds {path}.",
                    ) from None
                time.sleep(_PAUSE_S)
        yield


def make_directory(path: Path, mode: int) -> None:
    """Create a directory with exactly these permissions; its entry in the parent is durable."""
    path.mkdir(mode=mode)
    path.chmod(mode)
    flush_directory(path.parent)


def make_parents(path: Path) -> None:
    """Make the directories above `path` that are missing, each one durable.

    Nobody but their owner may write them, whatever the umask: who can rename what lies in one can exchange a CA.
    """
    missing = [parent for parent in path.parents if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(PUBLIC_DIRECTORY, exist_ok=True)
        flush_directory(parent.parent)


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
        # Who follows that for a folder of the system, in which a key was put by mistake, locks everybody out of it.
        remedy = (
            f"If it holds nothing else: chmod 700 {path}. Else put the secret into a directory of its own."
        )
        raise BadRequest(
            str(path),
            "may be accessed by others than its owner",
            code="permissions",
            remedy=remedy if directory else f"chmod 600 {path}",
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise BadRequest(
            str(path),
            "belongs to another user",
            code="permissions",
            remedy="Give the command as that user, who is the CA's: root's own files would lock the server out.",
        )


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


def _give_to_owner(descriptor: int, folder: Path) -> None:
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
