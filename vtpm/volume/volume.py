"""A CocoonFs volume: opened with a key, read, and changed in transactions that survive a cut at any point.

The order of a commit, each line durable before the next begins:

1. new content in free blocks, staged IO blocks, journal log;
2. the journal's head: from here on the transaction has happened (*pending*; a witness is told now);
3. staged blocks at their targets, changed nodes of the authentication tree;
4. the head is invalidated.
"""

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from vtpm.volume.device import Disk
from vtpm.volume.errors import VolumeClosed, VolumePending
from vtpm.volume.format.entities import Entropy
from vtpm.volume.format.headers import StaticHeader, open_counter
from vtpm.volume.format.inodes import FIRST_FILE
from vtpm.volume.interface import Version, Witness
from vtpm.volume.space import Space
from vtpm.volume.state import State
from vtpm.volume.transaction import Changes, Plan, Write, plan

FORMAT = "cocoonfs/1"


class CocoonVolume:
    """An open volume (`vtpm.volume.interface.Volume`); `vtpm.volume.open_volume` makes it. Use as a context manager.

    Args:
        disk: it lies on.
        state: verified.
        writable: whether transactions are possible.
        created: ``this-boot`` or ``earlier``.
        entropy: random bytes by number.
        witness: told of each transaction.
    """

    def __init__(
        self,
        disk: Disk,
        state: State,
        *,
        writable: bool,
        created: str,
        entropy: Entropy,
        witness: Witness | None,
    ) -> None:
        self._disk = disk
        self._state = state
        self._writable = writable
        self._created = created
        self._entropy = entropy
        self._witness = witness
        self._space = Space(state.allocated.clear_runs())
        self._open = True
        # The head of the transaction before must be gone for good before blocks that it speaks of are used again.
        self._unflushed = True

    @property
    def format(self) -> str:
        """``cocoonfs/1``."""
        return FORMAT

    @property
    def salt(self) -> bytes:
        """The volume's id, up to 255 bytes."""
        return self._state.static.salt

    @property
    def created(self) -> str:
        """``this-boot`` if opening formatted it, else ``earlier``."""
        return self._created

    @property
    def counter(self) -> int:
        """Random after formatting, one more after each transaction, modulo 2**128."""
        return self._state.counter

    @property
    def root(self) -> bytes:
        """The root HMAC: it vouches for every allocated byte, for where it lies, and for the counter."""
        return self._state.header.root

    @property
    def state(self) -> State:
        """What the volume looks like inside; to be looked at only."""
        return self._state

    def inodes(self) -> tuple[int, ...]:
        """Numbers of the files there are, in ascending order."""
        return tuple(sorted(inode for inode in self._state.locations if inode >= FIRST_FILE))

    def __contains__(self, inode: int) -> bool:
        return inode >= FIRST_FILE and inode in self._state.locations

    def flags(self, inode: int) -> int | None:
        """The 8 flag bits of a file; None if there is none."""
        entry = self._state.index.get(inode) if inode in self else None
        return None if entry is None else entry.flags

    def read(self, inode: int) -> bytes | None:
        """Content of a file, verified anew; None if there is none.

        Raises:
            VolumeDamaged: the disk no longer holds what was verified when the volume was opened.
            VolumeReadError: the disk cannot be read.
            VolumeClosed: the volume is closed.
        """
        self._check_open()
        return self._state.content(self._disk, inode) if inode in self else None

    def transaction(self, changes: Mapping[int, bytes | Write | None]) -> None:
        """Write (bytes, or a `Write` with flags) and remove (None) files: all of it durable when this returns.

        Removing only what is not there writes nothing; content that is the same is written again.

        Raises:
            VolumeFull: no room; nothing has changed.
            VolumeError: an inode that is written, or flags, that the format has no place for; nothing has changed.
            VolumeDamaged: what shares blocks with the change is not what was written; nothing has changed.
            VolumeReadError: the disk cannot be read; nothing has changed.
            VolumeWriteError: the disk failed. What it holds is not known, so the volume is closed; opening it again
                shows the content before or after the transaction.
            VolumePending: the witness did not acknowledge; the volume is closed, and asks again when it is opened.
            VolumeClosed: the volume is closed, or open for reading only.
        """
        self._check_open()
        if not self._writable:
            raise VolumeClosed("the volume is open for reading only")
        wanted: Changes = {
            inode: Write(bytes(change)) if isinstance(change, (bytes, bytearray)) else change
            for inode, change in changes.items()
        }
        if not any(change is not None or inode in self for inode, change in wanted.items()):
            return
        planned = plan(self._state, self._space, self._disk, wanted, self._entropy)
        try:
            self._commit(planned)
            planned.adopt()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the disk; harmless when repeated."""
        if self._open:
            self._open = False
            self._disk.close()

    def _check_open(self) -> None:
        if not self._open:
            raise VolumeClosed("the volume is closed")

    def _commit(self, planned: Plan) -> None:
        disk, layout = self._disk, self._state.static.layout
        if self._unflushed:
            disk.barrier()
            self._unflushed = False
        write_all(disk, planned.prepare)
        first = layout.io_block << layout.block_shift
        head = self._state.static.journal.start << layout.block_shift
        if len(planned.head) > first:
            disk.write(head + first, planned.head[first:])
        disk.barrier()
        disk.write(head, planned.head[:first])
        disk.barrier()
        self._tell_witness(planned)
        write_all(disk, planned.apply)
        disk.barrier()
        invalidate_head(disk, self._state.static)
        self._unflushed = True

    def _tell_witness(self, planned: Plan) -> None:
        if self._witness is None:
            return
        new = Version(open_counter(self._state.keys, planned.header.counter), planned.header.root)
        try:
            self._witness.record(Version(self.counter, self.root), new)
        except Exception as error:
            raise VolumePending(f"the witness did not acknowledge the transaction: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_all(disk: Disk, writes: Iterable[tuple[int, bytes]]) -> None:
    """Write all of it; durable after the next barrier."""
    for offset, data in writes:
        disk.write(offset, data)


def invalidate_head(disk: Disk, static: StaticHeader) -> None:
    """Zero the first IO block of the journal's head: no transaction is pending once this is durable."""
    layout = static.layout
    disk.write(static.journal.start << layout.block_shift, bytes(layout.io_block << layout.block_shift))
