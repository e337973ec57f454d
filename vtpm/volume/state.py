"""An opened volume in memory: what was verified when it was opened, against which every later read is verified too.

The disk belongs to the host, which may change it while it is open. So nothing is believed twice: a read checks the data
blocks that it touches against the tree in memory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vtpm.volume.auxiliary import Ring
from vtpm.volume.bitmap import Bits
from vtpm.volume.device import Disk
from vtpm.volume.entities import open_extents
from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.extents import Extent
from vtpm.volume.headers import MutableHeader, StaticHeader
from vtpm.volume.index import Index
from vtpm.volume.kdf import INODE_COUNTER, Keys
from vtpm.volume.layout import Layout
from vtpm.volume.tree import Geometry, RootContext, Tree, data_digest

DATA_BLOCK = "data block"
_RUN = 1 << 20


@dataclass(frozen=True)
class Location:
    """Where a file lies: the extents of its data, and those of the list that names them, if there is one."""

    data: tuple[Extent, ...]
    chain: tuple[Extent, ...] = ()

    @property
    def all(self) -> tuple[Extent, ...]:
        """Everything that it occupies."""
        return self.data + self.chain


@dataclass
class State:
    """One state of a volume, whole and verified.

    Attributes:
        static: the static header.
        keys: of the volume.
        header: the mutable header.
        tree: the authentication tree.
        allocated: which blocks hold something.
        covered: which of them the tree vouches for: all but headers, journal head and auxiliary metadata.
        index: the inode index.
        locations: where each inode lies, the tree (1) and the bitmap (2) among them.
        auxiliary: the auxiliary metadata; None if there is none.
    """

    static: StaticHeader
    keys: Keys
    header: MutableHeader
    tree: Tree
    allocated: Bits
    covered: Bits
    index: Index
    locations: dict[int, Location]
    auxiliary: Ring | None

    @property
    def geometry(self) -> Geometry:
        """Where the tree lies, and what it vouches for."""
        return self.tree.geometry

    @property
    def counter(self) -> int:
        """The update counter: random at first, one more with each transaction, modulo 2**128."""
        return open_counter(self.keys, self.header.counter)

    def context(self) -> RootContext:
        """What the root HMAC binds beside the root node."""
        return RootContext(self.header.counter, self.header.leaf, self.locations[2].data)

    def fixed(self) -> Iterator[Extent]:
        """What is allocated and belongs to no inode: headers, journal head, auxiliary metadata."""
        yield Extent(0, self.static.mutable.end)
        yield self.static.journal
        if self.auxiliary is not None:
            yield from self.auxiliary.extents

    def read(self, disk: Disk, extent: Extent) -> bytes:
        """Bytes of an extent outside of the tree; raises `VolumeDamaged` if the tree does not vouch for them."""
        return read_verified(disk, self.tree, self.covered, self.keys, extent)

    def content(self, disk: Disk, inode: int) -> bytes:
        """Content of a file that is there; raises `VolumeDamaged`."""
        data = b"".join(self.read(disk, extent) for extent in self.locations[inode].data)
        return open_extents(self.keys.cipher(inode), data, f"file {inode:#x}")


def counter_cipher_iv() -> bytes:
    """The IV under which the counter is encrypted: zeros, since no counter is ever encrypted twice."""
    return bytes(16)


def open_counter(keys: Keys, encrypted: bytes) -> int:
    """The update counter of a mutable header."""
    return int.from_bytes(keys.cipher(INODE_COUNTER).decrypt_cbc(counter_cipher_iv(), encrypted), "little")


def seal_counter(keys: Keys, counter: int) -> bytes:
    """Inverse of `open_counter`."""
    return keys.cipher(INODE_COUNTER).encrypt_cbc(counter_cipher_iv(), counter.to_bytes(16, "little"))


def data_digests(
    keys: Keys, geometry: Geometry, covered: Bits, first: int, data: bytes
) -> Iterator[tuple[int, int, bytes]]:
    """Number, mask and HMAC of each data block in a contiguous run that begins with data block `first`."""
    layout = geometry.layout
    view, unit, size = memoryview(data), layout.data_block, layout.block_size
    start = geometry.place(first)
    full = (1 << unit) - 1
    step = unit * size
    for number, at in enumerate(range(0, len(data), step), first):
        mask = covered.mask(start, unit)
        start += unit
        block = view[at : at + step]
        if mask != full:
            yield number, mask, data_digest(keys, mask, number, *_allocated_parts(block, mask, size))
        else:
            yield number, mask, data_digest(keys, mask, number, block)


def data_digest_of(keys: Keys, layout: Layout, mask: int, number: int, data: bytes) -> bytes:
    """HMAC of one data block with content `data`, of which the blocks in `mask` are allocated."""
    return data_digest(keys, mask, number, *_allocated_parts(memoryview(data), mask, layout.block_size))


def _allocated_parts(data: memoryview, mask: int, size: int) -> list[memoryview]:
    return [data[i * size : (i + 1) * size] for i in range(mask.bit_length()) if mask >> i & 1]


def data_blocks_of(layout: Layout, extent: Extent) -> range:
    """Where the data blocks that an extent touches begin."""
    unit = layout.data_block
    return range(extent.start // unit * unit, -(-extent.end // unit) * unit, unit)


def runs_of(disk: Disk, geometry: Geometry, first: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Number of the first data block, and bytes, of contiguous runs of the data blocks `first` to `end`."""
    layout = geometry.layout
    most = max(_RUN >> layout.block_shift >> layout.data_block_log2, 1)
    while first < end:
        for number, run in geometry.runs(first, min(first + most, end)):
            yield number, disk.read(run.start << layout.block_shift, run.length << layout.block_shift)
        first += most


def read_verified(disk: Disk, tree: Tree, covered: Bits, keys: Keys, extent: Extent) -> bytes:
    """Bytes of an extent, once every data block that it touches is what the tree has."""
    geometry = tree.geometry
    layout = geometry.layout
    first, last = geometry.data_block(extent.start), geometry.data_block(extent.end - 1)
    if last - first != (extent.end - 1 >> layout.data_block_log2) - (extent.start >> layout.data_block_log2):
        raise VolumeDamaged("runs through the authentication tree", part="extent", block=extent.start)
    parts = []
    for number, data in runs_of(disk, geometry, first, last + 1):
        check_run(tree, keys, covered, number, data)
        parts.append(data)
    at = extent.start - geometry.place(first) << layout.block_shift
    return b"".join(parts)[at : at + (extent.length << layout.block_shift)]


def check_run(tree: Tree, keys: Keys, covered: Bits, first: int, data: bytes) -> None:
    """Raise `VolumeDamaged` unless the tree vouches for the data blocks of a run that hold something."""
    count = -(-len(data) >> tree.geometry.layout.block_shift + tree.geometry.layout.data_block_log2)
    computed = data_digests(keys, tree.geometry, covered, first, data)
    for (number, mask, digest), expected in zip(computed, tree.digests(first, count), strict=True):
        if mask and digest != expected:
            raise VolumeDamaged("is not what was written", part=DATA_BLOCK, block=tree.geometry.place(number))


def check_everything(disk: Disk, tree: Tree, keys: Keys, covered: Bits) -> None:
    """Raise `VolumeDamaged` unless the tree vouches for every block that is allocated."""
    geometry = tree.geometry
    layout = geometry.layout
    step = max(_RUN >> layout.block_shift >> layout.data_block_log2, 1)
    for first in range(0, geometry.data_blocks, step):
        for number, run in geometry.runs(first, min(first + step, geometry.data_blocks)):
            if covered.any_set(run.start, run.length):
                data = disk.read(run.start << layout.block_shift, run.length << layout.block_shift)
                check_run(tree, keys, covered, number, data)


def exclude(bits: Bits, extents: Iterable[Extent]) -> Bits:
    """The same bits, but for some extents."""
    rest = bits.copy()
    rest.fill(extents, allocated=False)
    return rest
