"""The interim store: all files in one AEAD box, replaced as a whole with each transaction. Format ``interim/1``.

It stands in for CocoonFs behind the same interface. Like any volume without a witness, it cannot tell that the host
has put an older copy back; `counter` and `root` are what a witness would compare.
"""

import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from vtpm.volume import files
from vtpm.volume.errors import VolumeClosed, VolumeError, VolumeWriteError
from vtpm.volume.interim_format import (
    FIRST_COUNTER,
    FORMAT,
    MAX_VOLUME,
    Content,
    CreationHeader,
    Keys,
    check_salt,
    is_creation_header,
    next_counter,
    seal,
    unseal,
)


class InterimVolume:
    """An open interim volume (`vtpm.volume.interface.Volume`); `open_volume` makes it. Use as a context manager."""

    def __init__(
        self,
        path: Path,
        lock: int,
        content: Content,
        keys: Keys,
        *,
        blob: bytes,
        created: str,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._path = path
        self._lock = lock
        self._content = content
        self._keys = keys
        self._root = hashlib.sha256(blob).digest()
        self._created = created
        self._entropy = entropy

    @property
    def format(self) -> str:
        """``interim/1``."""
        return FORMAT

    @property
    def salt(self) -> bytes:
        """The volume's id, 16 to 64 bytes."""
        return self._content.salt

    @property
    def created(self) -> str:
        """``this-boot`` if opening formatted it, else ``earlier``."""
        return self._created

    @property
    def counter(self) -> int:
        """1 after formatting, one more after each transaction."""
        return self._content.counter

    @property
    def root(self) -> bytes:
        """SHA-256 of the volume's bytes."""
        return self._root

    def inodes(self) -> tuple[int, ...]:
        """Numbers of the files there are, in ascending order."""
        return tuple(sorted(self._content.files))

    def read(self, inode: int) -> bytes | None:
        """Content of a file; None if there is none."""
        return self._content.files.get(inode)

    def transaction(self, changes: Mapping[int, bytes | None]) -> None:
        """Write (bytes) and remove (None) files: all of it durable when this returns.

        Raises:
            VolumeError: too large; nothing has changed.
            VolumeWriteError: the disk failed. What it holds is not known, so the volume is closed; opening it again
                shows the content before or after the transaction.
            VolumeClosed: the volume is closed.
        """
        if self._lock < 0:
            raise VolumeClosed(f"the volume {self._path.name} is closed")
        changed = dict(self._content.files)
        for inode, data in changes.items():
            if data is None:
                changed.pop(inode, None)
            else:
                changed[inode] = bytes(data)
        content = Content(self.salt, next_counter(self.counter), changed)
        blob = seal(content, self._keys, self._entropy)
        try:
            files.replace(self._path, blob)
        except VolumeWriteError:
            self.close()
            raise
        self._content, self._root = content, hashlib.sha256(blob).digest()

    def close(self) -> None:
        """Let go of the lock; harmless when repeated. What was read stays readable."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def make_blank_disk(path: Path, salt: bytes) -> None:
    """Write the creation header of a volume to be; what a host does when it makes a disk.

    Args:
        path: a file that does not exist, or a creation header.
        salt: id of the volume, 16 to 64 bytes, never used with the same secret before.

    Raises:
        VolumeError: there is something else already, or it cannot be written.
    """
    check_salt(salt)
    lock = files.acquire(path)
    try:
        if path.exists() and not is_creation_header(files.load(path, MAX_VOLUME)):
            raise VolumeError(
                f"{path.name} exists and is not blank; it is not written over", rule="store.exists"
            )
        files.replace(path, CreationHeader(salt).encode())
    finally:
        os.close(lock)


def open_volume(
    path: Path, secret: bytes, *, entropy: Callable[[int], bytes] = secrets.token_bytes
) -> InterimVolume:
    """Open a volume, or format the disk if it carries a creation header.

    Formatting is one replacement of the file: if it is cut short, the creation header is still there and the next
    opening starts over. Existing content is never written over or encrypted under another key.

    Args:
        path: the volume's file.
        secret: what the KBS released, at least 32 bytes.
        entropy: random bytes by number.

    Raises:
        VolumeMissing: no such file.
        VolumeLocked: somebody else has it open.
        VolumeUnknown: neither a volume nor a creation header.
        VolumeKeyError: made under another secret.
        VolumeDamaged: not what was written.
        VolumeWriteError: formatting failed.
    """
    lock = files.acquire(path)
    try:
        blob = files.load(path, MAX_VOLUME)
        created = "earlier"
        if is_creation_header(blob):
            created = "this-boot"
            content = Content(CreationHeader.parse(blob).salt, FIRST_COUNTER, {})
            keys = Keys.derive(secret, content.salt)
            blob = seal(content, keys, entropy)
            files.replace(path, blob)
        else:
            content, keys = unseal(blob, secret)
    except BaseException:
        os.close(lock)
        raise
    return InterimVolume(path, lock, content, keys, blob=blob, created=created, entropy=entropy)
