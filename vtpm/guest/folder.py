"""A folder for the certificates: written file by file, each whole or not at all, and nothing else overwritten.

``enrollment.json`` says what the other files are, by SHA-256. A file that stands there under one of our names with
other content is somebody's: then nothing is written. Before a file is replaced the record knows both its contents, so
whenever a run ends in between, the next one still knows the files for ours.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from vtpm.guest.errors import OutputRefused
from vtpm.wire.amd_evidence import AMD_PROFILES
from vtpm.wire.encoding import Members, parse_json
from vtpm.wire.errors import WireError

RECORD: Final = "enrollment.json"
"""What was enrolled, and which files of the folder are ours."""

_FILES = "files"
_NEW = ".vtpm-enroll.new"
_MAX_FILE = 64 * 1024
_DEPTH = 4
_MODE = 0o644
_ANOTHER = "Name another folder, or move the file away."


def check_folder(folder: Path, names: tuple[str, ...]) -> None:
    """Refuse a folder that could not take the files; nothing is written.

    Args:
        folder: it need not exist, its parent must.
        names: of the files that shall go there.

    Raises:
        OutputRefused: no folder, no permission, or one of the files is there and not ours.
    """
    place = folder if folder.exists() else folder.parent
    if not place.is_dir():
        raise OutputRefused(
            f"--out {folder}: {place} is no folder", remedy="Name a folder in an existing one."
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputRefused(f"--out {folder}: nothing can be written to {place}")
    _ours(folder, names)


def write_folder(folder: Path, files: Mapping[str, bytes], document: Mapping[str, object]) -> None:
    """Put the files and the record into the folder, which is made if it is not there.

    Args:
        folder: the folder.
        files: contents by name.
        document: what the record says besides.

    Raises:
        OutputRefused: one of the files is there and not ours, another program writes there, or it cannot be written.
    """
    try:
        with suppress(FileExistsError):
            folder.mkdir()
        with _held(folder) as descriptor:
            before = _ours(folder, tuple(files))
            digests = {name: [_digest(data)] for name, data in files.items()}
            for name, old in before.items():
                digests[name] += [old] if old not in digests[name] else []
            record = json.dumps({**document, _FILES: digests}, indent=1, sort_keys=True) + "\n"
            for name, data in ((RECORD, record.encode("ascii")), *files.items()):
                _replace(descriptor, name, data)
            os.fsync(descriptor)
    except OSError as error:
        raise OutputRefused(
            f"--out {folder}: {error.strerror or error}",
            remedy="The CA has certified this TPM. Enrol again when the folder can be written.",
        ) from error


@contextmanager
def _held(folder: Path) -> Iterator[int]:
    """The folder's descriptor, locked against another run."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputRefused(f"--out {folder}: another program writes there now") from error
        yield descriptor
    finally:
        os.close(descriptor)


def _replace(folder: int, name: str, data: bytes) -> None:
    """Write a file whole or not at all."""
    with suppress(FileNotFoundError):
        os.unlink(_NEW, dir_fd=folder)
    descriptor = os.open(_NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE, dir_fd=folder)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, _MODE)
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)
    os.rename(_NEW, name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def _ours(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The digest of each of the files that is there.

    Raises:
        OutputRefused: one of them is not what an earlier run has written.
    """
    known = _record(folder)
    found = {}
    for name in names:
        data = _content(folder / name)
        if data is None:
            continue
        digest = _digest(data)
        if digest not in known.get(name, ()):
            raise OutputRefused(f"--out {folder}: {name} is there and not from an enrolment", remedy=_ANOTHER)
        found[name] = digest
    return found


def _record(folder: Path) -> dict[str, tuple[str, ...]]:
    """The digests that the folder's record knows; empty if there is none.

    Raises:
        OutputRefused: what stands there under its name is none.
    """
    data = _content(folder / RECORD)
    if data is None:
        return {}
    try:
        record = Members(parse_json(data, RECORD, most=_MAX_FILE, depth=_DEPTH), RECORD)
        record.one_of("profile", AMD_PROFILES)
        listed = record.members(_FILES)
        return {name: tuple(str(value) for value, _ in listed.array(name, 1, 2)) for name in listed.unread()}
    except WireError as error:
        raise OutputRefused(f"--out {folder}: {error}", remedy=_ANOTHER) from error


def _content(path: Path) -> bytes | None:
    """A file's content, no more than is needed to know that it is not ours; None if there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(descriptor, _MAX_FILE + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputRefused(f"--out {path.parent}: {path.name}: {error.strerror}", remedy=_ANOTHER) from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
