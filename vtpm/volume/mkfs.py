"""Formatting: a new volume, as bytes and onto a disk. Its static header is written last: without it there is none."""

from collections.abc import Iterator
from dataclasses import dataclass

from vtpm.volume.device import Disk
from vtpm.volume.errors import VolumeFull
from vtpm.volume.format import auxiliary, bitmap
from vtpm.volume.format.auxiliary import Auxiliary
from vtpm.volume.format.bitmap import Bits
from vtpm.volume.format.entities import Entropy, seal_block
from vtpm.volume.format.extents import MAX_POINTED, Extent, Pointer, encode_list
from vtpm.volume.format.extents_list import extents_chain
from vtpm.volume.format.geometry import Geometry, check_size, fitting_nodes
from vtpm.volume.format.headers import MutableHeader, StaticHeader, encode_auxiliary, seal_counter
from vtpm.volume.format.inodes import INODE_BITMAP, INODE_INDEX, INODE_TREE
from vtpm.volume.format.kdf import Keys
from vtpm.volume.format.layout import Layout
from vtpm.volume.format.node import Entry, Form, Node, leaf_tag
from vtpm.volume.format.tree import RootContext, Tree
from vtpm.volume.state import exclude
from vtpm.volume.verified import digests

DEFAULT_AUXILIARY = Auxiliary(reserve=1024)
"""What the reference tool makes room for: no records yet, and two groups that can grow by 1 KiB without the key."""

_CHUNK = 1 << 20
_LEAST_FREE = 6
"""Journal blocks that the transaction of a first small file takes: a volume with fewer could hold none."""


@dataclass(frozen=True)
class Places:
    """Where the parts of a new volume lie.

    Attributes:
        tree: the authentication tree.
        heads: the first extents of the two groups of auxiliary metadata; None if there is none.
        ring: all extents of the auxiliary metadata.
        bitmap: the allocation bitmap.
        leaf: the entry leaf of the index; lists of extents come right behind it.
    """

    tree: tuple[Extent, ...]
    heads: auxiliary.Heads | None
    ring: tuple[Extent, ...]
    bitmap: tuple[Extent, ...]
    leaf: Extent


def places_for(static: StaticHeader, size: int, records: Auxiliary) -> Places:
    """One part after the other from the front, each in one piece; raises `VolumeFull` or `VolumeUnsupported`."""
    layout = static.layout
    check_size(layout, size)
    tree = Extent(static.journal.end, fitting_nodes(layout, size))
    at, heads = tree.end, None
    ring: tuple[Extent, ...] = ()
    if not records.trivial:
        heads, ring = auxiliary.plan_ring(records, layout, at, size)
        at = ring[-1].end
    bits = Extent(at, bitmap.file_length(layout, size))
    leaf = Extent(-(-bits.end // layout.leaf) * layout.leaf, layout.leaf)
    return Places((tree,), heads, ring, (bits,), leaf)


def contents(
    static: StaticHeader,
    keys: Keys,
    size: int,
    records: Auxiliary,
    entropy: Entropy,
    places: Places | None = None,
) -> dict[Extent, bytes]:
    """A new volume without files: all that is written but the static header, by where.

    Args:
        static: its static header.
        keys: its keys.
        size: of the image, in allocation blocks; a whole number of IO blocks.
        records: its auxiliary metadata.
        entropy: random bytes by number.
        places: where its parts lie; by default as `places_for` has it.

    Raises:
        VolumeFull: the size is too small for this layout.
    """
    layout, places = static.layout, places or places_for(static, size, records)
    check_room(static, size, places.leaf.end)
    pointers, lists = _lists(keys, layout, places, entropy)
    check_room(static, size, max(extent.end for extent in (places.leaf, *lists)))
    leaf = Node(1, [INODE_TREE, INODE_BITMAP, INODE_INDEX], [Entry(p) for p in pointers])
    leaf_size = layout.leaf << layout.block_shift
    sealed_leaf = seal_block(keys.cipher(INODE_INDEX), Form(layout).encode(leaf), leaf_size, entropy)
    covered: dict[Extent, bytes] = {**lists, places.leaf: sealed_leaf}

    allocated = Bits(size)
    fixed = static.fixed(places.ring)
    allocated.fill([*fixed, *places.tree, *places.bitmap, *covered], allocated=True)
    for index in range(sum(extent.length for extent in places.bitmap) // layout.bitmap_block):
        block = bitmap.file_block(layout, places.bitmap, index)
        covered[block] = bitmap.seal_bits(keys, layout, allocated, index, entropy)

    geometry = Geometry(layout, size, places.tree)
    tree = Tree(geometry, keys, bytearray(geometry.shape.nodes * geometry.shape.node_size))
    tree.apply(tree.rebuilt(_leaf_nodes(geometry, keys, exclude(allocated, fixed), covered)))
    counter = seal_counter(keys, int.from_bytes(entropy(16), "little"))
    root = tree.root({}, RootContext(counter, places.leaf.start, places.bitmap))
    header = MutableHeader(
        encode_auxiliary(places.heads),
        root,
        counter,
        leaf_tag(keys, layout, sealed_leaf),
        places.leaf.start,
        size,
    )
    written = dict(covered)
    at = 0
    for extent in places.tree:
        size_in_bytes = extent.length << layout.block_shift
        written[extent] = bytes(tree.nodes[at : at + size_in_bytes])
        at += size_in_bytes
    written[static.mutable] = header.encode().ljust(static.mutable.length << layout.block_shift, b"\0")
    written[static.journal] = bytes(static.journal.length << layout.block_shift)
    if places.heads is not None:
        written.update(auxiliary.write_ring(records, places.heads, places.ring, layout))
    return written


def length_of(static: StaticHeader, size: int, records: Auxiliary) -> int:
    """The first block that a new volume of `size` allocation blocks leaves free; raises `VolumeFull` if there is none.

    Args:
        static: layout and salt of the volume.
        size: of the image.
        records: its auxiliary metadata.
    """
    places = places_for(static, size, records)
    check_room(static, size, places.leaf.end)
    # How long the lists are does not depend on the key.
    _, lists = _lists(Keys(b"\0", static.layout, static.salt), static.layout, places, bytes)
    end = max(extent.end for extent in (places.leaf, *lists))
    check_room(static, size, end + _LEAST_FREE * static.layout.journal_block)
    return end


def check_room(static: StaticHeader, limit: int, end: int) -> None:
    """Raise `VolumeFull` if a new volume that needs the blocks before `end` may only have those before `limit`."""
    if end > limit:
        shift = static.layout.block_shift
        raise VolumeFull(
            f"a volume of this layout takes {end << shift} bytes and more; there are {limit << shift}"
        )


def _lists(
    keys: Keys, layout: Layout, places: Places, entropy: Entropy
) -> tuple[list[Pointer], dict[Extent, bytes]]:
    """Pointers to tree, bitmap and root leaf; and the lists of extents of those too long for a pointer."""
    pointers: list[Pointer] = []
    lists: dict[Extent, bytes] = {}
    end = places.leaf.end

    def take(length: int) -> Extent:
        nonlocal end
        end += length
        return Extent(end - length, length)

    for inode, parts in ((INODE_TREE, places.tree), (INODE_BITMAP, places.bitmap)):
        if len(parts) == 1 and parts[0].length <= MAX_POINTED:
            pointers.append(Pointer(parts[0]))
            continue
        chain = extents_chain(keys, layout, inode)
        payload = encode_list(parts)
        extents = chain.place(len(payload), take)
        lists.update(zip(extents, chain.seal(payload, extents, entropy), strict=True))
        pointers.append(Pointer(extents[0], indirect=True))
    return [*pointers, Pointer(places.leaf)], lists


def _leaf_nodes(
    geometry: Geometry, keys: Keys, covered: Bits, written: dict[Extent, bytes]
) -> dict[int, bytes]:
    """The leaf nodes of a new tree, by the first data block under each."""
    layout, shape = geometry.layout, geometry.shape
    size, unit = layout.block_size, layout.data_block
    content = {
        block: data[at * size : (at + 1) * size]
        for extent, data in written.items()
        for at, block in enumerate(extent.blocks())
    }
    nodes: dict[int, bytes] = {}
    span = 1 << shape.leaf_log2
    for first in range(0, geometry.data_blocks, span):
        blocks = []
        for number in range(first, min(first + span, geometry.data_blocks)):
            start = geometry.place(number)
            mask = covered.mask(start, unit)
            held = range(start, start + unit) if mask else ()
            data = b"".join(content.get(block, bytes(size)) for block in held)
            blocks.append((number, mask, data))
        nodes[first] = b"".join(digests(keys, layout, blocks)).ljust(shape.node_size, b"\0")
    return nodes


def format_disk(
    disk: Disk,
    static: StaticHeader,
    secret: bytes,
    size: int,
    records: Auxiliary,
    entropy: Entropy,
    *,
    fill: bool = True,
) -> None:
    """Make a new volume, over whatever the disk holds.

    Args:
        disk: at least as large as the image.
        static: layout and salt of the volume.
        secret: its raw key.
        size: of the image, in allocation blocks.
        records: auxiliary metadata.
        entropy: random bytes by number.
        fill: whether to fill what is free with random bytes, so that it cannot be told from what is not.

    Raises:
        VolumeFull: the size is too small for this layout.
        VolumeWriteError: the disk failed.
    """
    written = contents(static, Keys(secret, static.layout, static.salt), size, records, entropy)
    write_volume(disk, static, written, (), size, entropy if fill else None)


def write_volume(
    disk: Disk,
    static: StaticHeader,
    written: dict[Extent, bytes],
    spare: tuple[Extent, ...],
    size: int,
    entropy: Entropy | None,
) -> None:
    """Write a new volume, its static header last.

    Whatever header the disk begins with is gone first, so that it is never read beside parts of the new volume.

    Args:
        disk: at least as large as the image.
        static: the volume's static header.
        written: its other content.
        spare: what is left as it is.
        size: of the image, in allocation blocks.
        entropy: fills what is free; None leaves that as it is.
    """
    shift = static.layout.block_shift
    disk.write(0, bytes(static.layout.io_block << shift))
    disk.barrier()
    for extent, data in written.items():
        disk.write(extent.start << shift, data)
    if entropy is not None:
        for extent in _free((static.extent, *written, *spare), size, shift):
            disk.write(extent.start << shift, entropy(extent.length << shift))
    disk.barrier()
    write_protected(disk, 0, static.encode(), static.layout)


def _free(taken: tuple[Extent, ...], size: int, shift: int) -> Iterator[Extent]:
    """What of the image is not taken, in pieces of at most a mebibyte."""
    bits = Bits(size)
    within = (Extent(start, min(length, size - start)) for start, length in taken if start < size)
    bits.fill(within, allocated=True)
    step = max(_CHUNK >> shift, 1)
    for run in bits.clear_runs():
        for start in range(run.start, run.end, step):
            yield Extent(start, min(step, run.end - start))


def write_protected(disk: Disk, offset: int, data: bytes, layout: Layout) -> None:
    """Write a protected extent so that it is whole or not there at all, and durable when this returns.

    Order: its first IO block is zeroed, the rest written, the first IO block written; a barrier after each.
    """
    first = layout.io_block << layout.block_shift
    disk.write(offset, bytes(first))
    disk.barrier()
    if len(data) > first:
        disk.write(offset + first, data[first:])
        disk.barrier()
    disk.write(offset, data[:first])
    disk.barrier()
