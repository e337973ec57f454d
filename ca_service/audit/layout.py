"""How an export lies in its folder, and reading and writing there without trusting what lies there."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from ca_service.judgment import BadRequest, Unavailable
from vtpm.wire.log import MAX_LEAF
from vtpm.wire.note import MAX_NOTE

CHECKPOINT, README = "checkpoint", "README.md"
LEAVES, CERTIFICATES, EVIDENCE, TRACES, POLICIES, ISSUERS = (
    "leaves",
    "certificates",
    "evidence",
    "traces",
    "policies",
    "issuers",
)
FOLDERS = (LEAVES, CERTIFICATES, EVIDENCE, TRACES, POLICIES, ISSUERS)

BUNDLE = 10_000
"""Leaves in one file of `LEAVES`; the last one may have fewer."""

MAX_FILE = 16 * 1024 * 1024
"""Largest file of an export that is read at once, in bytes."""

_TEMPORARY = ".new"
_FOLDER_MODE = 0o755
_FILE_MODE = 0o644


def bundle_name(position: int) -> str:
    """File of the leaf at this position, named by its first leaf."""
    return f"{position - position % BUNDLE:015}.jsonl"


def certificate_name(serial: str) -> str:
    """File of a certificate."""
    return f"{serial}.cer"


def trace_name(decision_id: str) -> str:
    """File of a decision's trace."""
    return f"{decision_id}.json"


def policy_name(digest: str) -> str:
    """File of a policy."""
    return f"{digest}.toml"


def issuer_name(skid: str) -> str:
    """File of a CA certificate."""
    return f"{skid}.pem"


def read(path: Path, most: int = MAX_FILE) -> bytes | None:
    """A regular file, at most `most` bytes of it and one more; None if there is none.

    Links, pipes and devices are not followed or opened: the folder may come from anybody.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
        return file.read(most + 1)


def read_checkpoint(folder: Path) -> bytes | None:
    """The signed note of an export; None if there is none."""
    return read(folder / CHECKPOINT, MAX_NOTE)


def read_leaves(folder: Path) -> Iterator[bytes]:
    """The leaves in their order, as far as the files go."""
    position = 0
    while True:
        content = read(folder / LEAVES / bundle_name(position), BUNDLE * (MAX_LEAF + 1))
        if content is None:
            return
        lines = content.split(b"\n")
        # What follows the last line end was not finished.
        yield from lines[:-1]
        if len(lines) - 1 != BUNDLE:
            return
        position += BUNDLE


class Folder:
    """Writes an export. Files appear whole or not at all, and `seal` makes all of them durable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = 0

    def prepare(self) -> None:
        """Make the folder with its parts, if they are not there.

        Raises:
            BadRequest: it holds something that is not an export's.
        """
        self.path.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        known = {CHECKPOINT, README, *FOLDERS}
        for name in os.listdir(self.path):  # noqa: PTH208 - names, not paths
            if name.removesuffix(_TEMPORARY) not in known:
                raise BadRequest(
                    str(self.path),
                    "holds something that does not belong to an export",
                    code="export",
                    remedy="Name an empty folder, or one that an earlier export filled.",
                )
        for name in FOLDERS:
            part = self.path / name
            part.mkdir(mode=_FOLDER_MODE, exist_ok=True)
            if part.is_symlink():
                raise BadRequest(str(part), "must be a folder, not a link", code="export")

    def put(self, part: str, name: str, content: bytes) -> None:
        """Write a file, unless it is there with this content."""
        path = self.path / part / name
        if read(path, len(content)) != content:
            self._replace(path, content)
            self.written += 1

    def put_leaves(self, position: int, leaves: Iterable[bytes]) -> None:
        """Write one bundle."""
        self._replace(self.path / LEAVES / bundle_name(position), b"".join(leaf + b"\n" for leaf in leaves))

    def seal(self, checkpoint: bytes) -> None:
        """Make everything durable, and then say up to where it is complete."""
        # One flush of everything costs less than one per file, of which there may be millions.
        os.sync()
        path = self.path / CHECKPOINT
        temporary = path.with_name(CHECKPOINT + _TEMPORARY)
        with temporary.open("wb") as file:
            file.write(checkpoint)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _replace(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(path.name + _TEMPORARY)
        temporary.unlink(missing_ok=True)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(temporary, flags, _FILE_MODE), "wb") as file:
                file.write(content)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise Unavailable(f"{path} cannot be written: {error.strerror}", code="export") from None
