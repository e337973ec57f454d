"""Forged volumes: structures of a fuzzer's choosing, sealed as only the holder of the key can seal them.

So what lies behind the HMACs is reached: an opener that trusts whatever authenticates would be found out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache

from volume_traces import TraceDisk, chance

from vtpm.volume import DEFAULT, Layout, VolumeError, VolumeFull
from vtpm.volume.format import bitmap, journal
from vtpm.volume.format.entities import Chain, seal_block
from vtpm.volume.format.extents import Extent
from vtpm.volume.format.extents_list import extents_chain
from vtpm.volume.format.geometry import Geometry
from vtpm.volume.format.headers import MutableHeader, StaticHeader
from vtpm.volume.format.inodes import INODE_BITMAP, INODE_INDEX, INODE_TREE
from vtpm.volume.format.node import leaf_tag
from vtpm.volume.format.tree import RootContext, Tree
from vtpm.volume.mkfs import DEFAULT_AUXILIARY, format_disk
from vtpm.volume.opening import open_disk
from vtpm.volume.state import State, exclude
from vtpm.volume.verified import VerifiedDisk

SECRET = b"the fuzzer knows this key"
SALT = b"fuzz"
SIZE = 32 << 10
LAYOUTS = (DEFAULT, replace(DEFAULT, io_block_log2=0, tree_node_log2=0, data_block_log2=0))
DIRECT, INDIRECT = 16, 17


class MeteredDisk(TraceDisk):
    """A disk that will not be read without end: an opener's work is bounded by the disk it opens."""

    TIMES = 256
    GRACE = 1 << 20

    def __init__(self, data: bytes | bytearray) -> None:
        super().__init__(data, recording=False)
        self.left = self.TIMES * len(data) + self.GRACE

    def read(self, offset: int, size: int) -> bytes:
        data = super().read(offset, size)
        self.left -= len(data) + 64
        assert self.left >= 0, f"read {self.TIMES} times over"
        return data


@cache
def base(layout: Layout, size: int = SIZE) -> tuple[bytes, State]:
    """A volume with an index of two levels, a file in many extents' reach, and one with a list of its extents."""
    rng = chance(5)
    disk = TraceDisk(bytes(size), recording=False)
    static = StaticHeader(layout, SALT)
    blocks = size >> layout.block_shift
    format_disk(disk, static, SECRET, blocks, DEFAULT_AUXILIARY, rng.randbytes, fill=False)
    volume = open_disk(disk, SECRET, entropy=rng.randbytes)
    volume.transaction({DIRECT: b"direct", INDIRECT: rng.randbytes(65 * layout.block_size)})
    volume.transaction({inode: bytes([inode]) for inode in range(20, 28)})
    return bytes(disk.data), open_disk(disk, SECRET, entropy=rng.randbytes).state


class Forgery:
    """A copy of the base volume to be altered, and sealed again up to the root HMAC."""

    def __init__(self, layout: Layout = DEFAULT, size: int = SIZE) -> None:
        image, state = base(layout, size)
        self.layout = layout
        self.image = bytearray(image)
        self.state = state
        self.keys = state.keys
        self.header: MutableHeader = state.header
        self.allocated = state.allocated.copy()
        self.tree = state.locations[INODE_TREE].data
        self.bitmap = state.locations[INODE_BITMAP].data
        self.rng = chance(6)

    def bytes_at(self, extent: Extent) -> bytes:
        shift = self.layout.block_shift
        return bytes(self.image[extent.start << shift : extent.end << shift])

    def put(self, extent: Extent, data: bytes) -> None:
        """Alter an extent, as far as it lies on the disk."""
        start = extent.start << self.layout.block_shift
        data = data[: max(len(self.image) - start, 0)]
        self.image[start : start + len(data)] = data

    def free(self) -> list[Extent]:
        """Free runs, cut to whole units of everything."""
        unit = max(self.layout.journal_block, self.layout.bitmap_block)
        cut = (
            Extent(-(-run.start // unit) * unit, run.end // unit * unit - -(-run.start // unit) * unit)
            for run in self.state.allocated.clear_runs()
            if run.end // unit > -(-run.start // unit)
        )
        return list(cut)

    def put_node(self, block: int, payload: bytes, length: int) -> None:
        """Seal a payload as an index node."""
        size = length << self.layout.block_shift
        payload = payload[: size - 16]
        data = seal_block(self.keys.cipher(INODE_INDEX), payload, size, self.rng.randbytes)
        self.put(Extent(block, length), data)

    def put_bits(self) -> None:
        """Seal `allocated` as the bitmap."""
        size = self.layout.bitmap_block
        for extent in self.bitmap:
            for index, start in enumerate(range(extent.start, extent.end, size)):
                data = bitmap.seal_bits(self.keys, self.layout, self.allocated, index, self.rng.randbytes)
                self.put(Extent(start, size), data)

    def seal(self) -> None:
        """Make the tree, the root HMAC and the mutable header fit what the image holds now."""
        with suppress(VolumeError):
            geometry = Geometry(self.layout, self.header.size, self.tree)
            tree = Tree(
                geometry, self.keys, bytearray(sum(e.length for e in self.tree) << self.layout.block_shift)
            )
            tree.apply(tree.rebuilt(self._leaves(tree)))
            at = 0
            for extent in self.tree:
                size = extent.length << self.layout.block_shift
                self.put(extent, bytes(tree.nodes[at : at + size]))
                at += size
            leaf = self.bytes_at(Extent(self.header.leaf, self.layout.leaf))
            context = RootContext(self.header.counter, self.header.leaf, self.bitmap)
            tag = leaf_tag(self.keys, self.layout, leaf)
            self.header = replace(self.header, root=tree.root({}, context), leaf_tag=tag)
        place = self.state.static.mutable
        self.put(place, self.header.encode().ljust(place.length << self.layout.block_shift, b"\0"))

    def _leaves(self, tree: Tree) -> dict[int, bytes]:
        geometry, span = tree.geometry, 1 << tree.geometry.shape.leaf_log2
        covered = exclude(self.allocated, self._fixed())
        disk = VerifiedDisk(TraceDisk(self.image, recording=False), tree, covered)
        return {
            first: b"".join(disk.fresh_digests(first, min(first + span, geometry.data_blocks))).ljust(
                geometry.shape.node_size, b"\0"
            )
            for first in range(0, geometry.data_blocks, span)
        }

    def _fixed(self) -> list[Extent]:
        ring = self.state.auxiliary
        fixed = self.state.static.fixed(() if ring is None else ring.extents)
        return [extent for extent in fixed if extent.end <= self.header.size]

    def put_list(self, inode: int, payload: bytes, where: Sequence[Extent]) -> None:
        """Seal a payload as an inode's extents list, in extents that are given."""
        self.put_chain(extents_chain(self.keys, self.layout, inode), payload, where)

    def put_chain(self, chain: Chain, payload: bytes, where: Sequence[Extent]) -> None:
        """Seal as much of a payload as fits as chained extents, in as many of those given as it takes.

        The first extent is written last, so that it stays what it is where they overlap.
        """
        room, extents = 0, list[Extent]()
        for extent in where:
            room += chain.capacity(extent.length, first=not extents)
            extents.append(extent)
            if room > len(payload):
                break
        sealed = chain.seal(payload[: room - 1], extents, self.rng.randbytes)
        for extent, data in reversed(list(zip(extents, sealed, strict=True))):
            self.put(extent, data)

    def put_journal(self, payload: bytes, where: Sequence[Extent], auxiliary: bytes) -> None:
        """Seal a payload as the log of an active journal, behind the head."""
        chain = journal.chain(self.keys, self.layout)
        extents = [self.state.static.journal, *where]
        plain = journal.plain_header(self.layout, auxiliary)
        head, *tail = chain.seal(payload, extents, self.rng.randbytes, plain)
        self.put(extents[0], journal.protect_head(head, self.layout))
        for extent, data in zip(extents[1:], tail, strict=True):
            self.put(extent, data)

    def open(self, *, go_on: bool = True) -> None:
        """Open what was forged. If it opens it is a volume: it can be read, changed, and opened again."""
        disk = MeteredDisk(self.image)
        volume = open_disk(disk, SECRET, entropy=self.rng.randbytes)
        use(volume, disk) if go_on else volume.close()


def use(volume: object, disk: TraceDisk) -> None:
    """Read, change and open again a volume that has opened."""
    rng = chance(7)
    before = {inode: volume.read(inode) for inode in volume.inodes()}
    counter = volume.counter
    try:
        volume.transaction({DIRECT: b"changed", 20: None, 1 << 40: b"new"})
    except VolumeFull:
        assert {inode: volume.read(inode) for inode in volume.inodes()} == before
        return
    except VolumeError as error:
        raise AssertionError(f"a volume that opened cannot be changed: {error}") from error
    before |= {DIRECT: b"changed", 1 << 40: b"new"}
    before.pop(20, None)
    try:
        again = open_disk(MeteredDisk(disk.data), SECRET, entropy=rng.randbytes)
    except VolumeError as error:
        raise AssertionError(f"a volume that opened and was changed does not open again: {error}") from error
    assert {inode: again.read(inode) for inode in again.inodes()} == before
    assert again.counter == (counter + 1) % (1 << 128)
