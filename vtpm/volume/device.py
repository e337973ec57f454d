"""The disk under a volume: a file or block device, opened by one at a time, read and written at byte offsets."""

import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from vtpm.volume.errors import VolumeDamaged, VolumeLocked, VolumeMissing, VolumeReadError, VolumeWriteError

_CHUNK = 1 << 20


class Disk(Protocol):
    """What the volume asks of a disk."""

    @property
    def size(self) -> int:
        """Bytes that it has."""

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer only where the disk ends; raises `VolumeReadError`."""

    def write(self, offset: int, data: bytes) -> None:
        """Write; durable after the next `barrier`. Raises `VolumeWriteError`."""

    def barrier(self) -> None:
        """Return when all that was written is durable; raises `VolumeWriteError`."""

    def close(self) -> None:
        """Let go of it."""


def read_exactly(disk: Disk, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`; raises `VolumeDamaged` if the disk ends before."""
    data = disk.read(offset, size)
    if len(data) < size:
        raise VolumeDamaged(f"ends before byte {offset + size}", part="disk")
    return data


class FileDisk:
    """A disk that is a file or a block device of this machine, locked while it is open.

    Args:
        path: the file.
        writable: whether it will be written; a reader too keeps everyone else out.
        create: make it, with no bytes in it, if it is not there.

    Raises:
        VolumeMissing: there is no such file, or it cannot be opened.
        VolumeLocked: somebody else has it open.
    """

    def __init__(self, path: Path, *, writable: bool, create: bool = False) -> None:
        self._name = path.name
        mode = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_CREAT if create else 0)
        try:
            # O_NONBLOCK: a FIFO in the disk's place must not hold the opener up; it means nothing to a file.
            self._descriptor = os.open(path, mode | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise VolumeMissing(f"the volume {path.name} cannot be opened: {error.strerror}") from error
        try:
            self._size = self._prepare()
        except BlockingIOError as error:
            self.close()
            raise VolumeLocked(f"the volume {path.name} is in use") from error
        except OSError as error:
            self.close()
            raise VolumeMissing(f"the volume {path.name} cannot be used: {error.strerror}") from error
        except VolumeMissing:
            self.close()
            raise

    def _prepare(self) -> int:
        """Lock the file; returns its size."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kind = os.fstat(self._descriptor).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            raise VolumeMissing(f"the volume {self._name} is neither a file nor a block device")
        return os.lseek(self._descriptor, 0, os.SEEK_END)

    def grow(self, size: int) -> None:
        """Make it so many bytes long, if it is shorter; raises `VolumeWriteError`."""
        if self._size >= size:
            return
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            raise VolumeWriteError(f"the volume {self._name} cannot grow: {error.strerror}") from error
        self._size = size

    def blank(self) -> bool:
        """Whether it holds nothing but zeros."""
        return not any(self.read(offset, _CHUNK).strip(b"\0") for offset in range(0, self._size, _CHUNK))

    @property
    def size(self) -> int:
        """Bytes that it has."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer only where the disk ends."""
        size = max(min(size, self._size - offset), 0)
        data = b""
        try:
            while len(data) < size:
                more = os.pread(self._descriptor, size - len(data), offset + len(data))
                if not more:
                    raise VolumeReadError(f"the volume {self._name} has been cut off while it was open")
                data = data + more if data else more
        except OSError as error:
            raise VolumeReadError(f"the volume {self._name} cannot be read: {error.strerror}") from error
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`."""
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                if not written:
                    raise VolumeWriteError(f"the volume {self._name} takes no more bytes at {offset}")
                view, offset = view[written:], offset + written
        except OSError as error:
            raise VolumeWriteError(f"the volume {self._name} cannot be written: {error.strerror}") from error

    def barrier(self) -> None:
        """Flush to the medium."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise VolumeWriteError(f"the volume {self._name} cannot be flushed: {error.strerror}") from error

    def close(self) -> None:
        """Let go of it, and of the lock; harmless when repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Overlay:
    """A disk as it would be: another disk with some blocks replaced in memory. Nothing below it is ever written.

    Args:
        below: the disk.
        block_size: bytes of the blocks that are replaced as a whole.
    """

    def __init__(self, below: Disk, block_size: int) -> None:
        self._below = below
        self._block_size = block_size
        self._blocks: dict[int, bytes] = {}

    @property
    def size(self) -> int:
        """Bytes that it has."""
        return self._below.size

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer only where the disk ends."""
        data = self._below.read(offset, size)
        if not self._blocks or not data:
            return data
        unit, merged = self._block_size, bytearray(data)
        for block in range(offset // unit, (offset + len(data) - 1) // unit + 1):
            replaced = self._blocks.get(block)
            if replaced is not None:
                start, end = max(block * unit, offset), min((block + 1) * unit, offset + len(data))
                merged[start - offset : end - offset] = replaced[start - block * unit : end - block * unit]
        return bytes(merged)

    def write(self, offset: int, data: bytes) -> None:
        """Replace whole blocks, in memory."""
        unit = self._block_size
        for at in range(0, len(data), unit):
            self._blocks[(offset + at) // unit] = data[at : at + unit]

    def barrier(self) -> None:
        """Nothing here is ever durable."""

    def close(self) -> None:
        """Let go of the disk below."""
        self._below.close()

    def replaced(self) -> Iterator[tuple[int, bytes]]:
        """Byte offset and content of the replaced blocks, in the order of their places."""
        for block, data in sorted(self._blocks.items()):
            yield block * self._block_size, data
