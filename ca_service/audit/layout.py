"""How an export lies in its folder, and reading and writing there without trusting what lies there."""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from ca_service.collateral.items import kind_of_name
from ca_service.judgment import BadRequest, Unavailable
from vtpm.wire.log import MAX_LEAF
from vtpm.wire.note import MAX_NOTE

CHECKPOINT, README = "checkpoint", "README.md"
LEAVES, CERTIFICATES, EVIDENCE, TRACES, COLLATERAL, POLICIES, ISSUERS = (
    "leaves",
    "certificates",
    "evidence",
    "traces",
    "collateral",
    "policies",
    "issuers",
)
FOLDERS = (LEAVES, CERTIFICATES, EVIDENCE, TRACES, COLLATERAL, POLICIES, ISSUERS)

BUNDLE = 10_000
"""Leaves in one file of `LEAVES`; the last one may have fewer."""

MAX_FILE = 16 * 1024 * 1024
"""Largest file of an export that is read at once, in bytes."""

_TEMPORARY = ".new"
# Evidence and traces tell whose TPMs run where: the operator hands the folder to whom he wants.
_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


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


def is_collateral(name: str) -> bool:
    """Whether this can be the name of a certificate or list that decisions rest on; no other may become a path."""
    return kind_of_name(name) is not None


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
    """Writes an export; to be closed by `with`.

    Files appear whole or not at all, and are on the disk before they get their names. Everything is reached through
    the folders that `prepare` has opened, so no link that somebody puts into the tree leads a write elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = 0
        self._parts = dict[str, int]()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_about: object) -> None:
        self._open.close()

    def prepare(self) -> None:
        """Make the folder with its parts, if they are not there, and open them; nobody else may read them.

        Raises:
            BadRequest: it holds something that is not an export's, or a link.
            Unavailable: it cannot be made or opened.
        """
        with self._complaints():
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
            self._refuse_links(self.path)
            # The folder itself may be named through a link; what it holds may not.
            self._parts[""] = self._keep_open(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY))
            for name in FOLDERS:
                (self.path / name).mkdir(mode=_FOLDER_MODE, exist_ok=True)
                self._parts[name] = self._keep_open(os.open(name, _OPEN_FOLDER, dir_fd=self._parts[""]))
                self._refuse_links(self.path / name)

    def put(self, part: str, name: str, content: bytes) -> None:
        """Write a file, unless it is there with this content."""
        if read(self.path / part / name, len(content)) != content:
            self._replace(part, name, content)
            self.written += 1

    def put_leaves(self, position: int, leaves: Iterable[bytes]) -> None:
        """Write one bundle."""
        self._replace(LEAVES, bundle_name(position), b"".join(leaf + b"\n" for leaf in leaves))

    def seal(self, checkpoint: bytes) -> None:
        """Make all names durable, and then say up to where it is complete."""
        self._flush_names()
        self._replace("", CHECKPOINT, checkpoint)
        self._flush_names()

    def _keep_open(self, descriptor: int) -> int:
        self._open.callback(os.close, descriptor)
        try:
            os.fchmod(descriptor, _FOLDER_MODE)
        except PermissionError:
            raise Unavailable(
                f"{self.path} cannot be kept from others: it is not yours, or its medium knows no permissions",
                code="export",
                remedy="Export to a folder of your own on a disk, and pack that (tar) for a medium such as FAT.",
            ) from None
        return descriptor

    def _refuse_links(self, folder: Path) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise BadRequest(entry.path, "must be a file or folder, not a link", code="export")

    def _flush_names(self) -> None:
        with self._complaints():
            for descriptor in self._parts.values():
                os.fsync(descriptor)

    def _replace(self, part: str, name: str, content: bytes) -> None:
        folder, temporary = self._parts[part], name + _TEMPORARY
        with self._complaints(), _gone(temporary, folder):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(temporary, flags, _FILE_MODE, dir_fd=folder), "wb") as file:
                file.write(content)
                file.flush()
                # Before the new name: else a crash could leave an empty file in the place of an older, whole one.
                os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)

    @contextlib.contextmanager
    def _complaints(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(f"{self.path} cannot be written: {error.strerror}", code="export") from None


@contextlib.contextmanager
def _gone(name: str, folder: int) -> Iterator[None]:
    """The name is free at the beginning, and again at the end."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
