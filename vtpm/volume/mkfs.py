"""Formatting: a new volume on a disk, and the creation header that asks for one without knowing the key.

A creation header is replaced by the volume when a key is first brought. Its copy near the disk's end is made before
anything is written over it, and the static header is written last, so formatting starts over after a cut at any point.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from vtpm.volume import auxiliary, bitmap
from vtpm.volume.auxiliary import Auxiliary
from vtpm.volume.bitmap import Bits
from vtpm.volume.bootstrap import extents_chain, leaf_tag
from vtpm.volume.device import Disk
from vtpm.volume.entities import Entropy, seal_block
from vtpm.volume.errors import VolumeDamaged, VolumeFull
from vtpm.volume.extents import MAX_POINTED, Extent, Pointer, encode_list
from vtpm.volume.headers import (
    CreationHeader,
    MutableHeader,
    StaticHeader,
    backup_place,
    encode_auxiliary,
)
from vtpm.volume.index import Entry, Form, Node
from vtpm.volume.kdf import INODE_BITMAP, INODE_INDEX, INODE_TREE, Keys
from vtpm.volume.layout import Layout
from vtpm.volume.state import exclude, seal_counter
from vtpm.volume.tree import Geometry, RootContext, Tree, fitting_nodes
from vtpm.volume.verified import digests

DEFAULT_AUXILIARY = Auxiliary(reserve=1024)
"""What the reference tool makes room for: no records yet, and two groups that can grow by 1 KiB without the key."""

_CHUNK = 1 << 20
_SMALLEST_DISK = 8192


@dataclass(frozen=True)
class _Places:
    """Where everything of a new volume lies, one thing after the other from the front."""

    tree: Extent
    heads: auxiliary.Heads | None
    ring: tuple[Extent, ...]
    bitmap: Extent
    leaf: Extent


def _places(static: StaticHeader, size: int, records: Auxiliary) -> _Places:
    layout = static.layout
    tree = Extent(static.journal.end, fitting_nodes(layout, size))
    at, heads = tree.end, None
    ring: tuple[Extent, ...] = ()
    if not records.trivial:
        heads, ring = auxiliary.plan_ring(records, layout, at)
        at = ring[-1].end
    bits = Extent(at, bitmap.file_length(layout, size))
    leaf = Extent(-(-bits.end // layout.leaf) * layout.leaf, layout.leaf)
    return _Places(tree, heads, ring, bits, leaf)


def contents(
    static: StaticHeader, keys: Keys, size: int, records: Auxiliary, entropy: Entropy
) -> dict[Extent, bytes]:
    """A new volume without files: all that is written but the static header, by where.

    Args:
        static: its static header.
        keys: its keys.
        size: of the image, in allocation blocks; a whole number of IO blocks.
        records: its auxiliary metadata.
        entropy: random bytes by number.

    Raises:
        VolumeFull: the size is too small for this layout.
    """
    layout, places = static.layout, _places(static, size, records)
    _check_room(static, size, places.leaf.end)
    pointers, lists = _lists(keys, layout, places, entropy)
    _check_room(static, size, max(extent.end for extent in (places.leaf, *lists)))
    leaf = Node(1, [INODE_TREE, INODE_BITMAP, INODE_INDEX], [Entry(p) for p in pointers])
    leaf_size = layout.leaf << layout.block_shift
    sealed_leaf = seal_block(keys.cipher(INODE_INDEX), Form(layout).encode(leaf), leaf_size, entropy)
    covered: dict[Extent, bytes] = {**lists, places.leaf: sealed_leaf}

    allocated = Bits(size)
    fixed = [Extent(0, static.mutable.end), static.journal, *places.ring]
    allocated.fill([*fixed, places.tree, places.bitmap, *covered], allocated=True)
    blocks = range(places.bitmap.length // layout.bitmap_block)
    covered[places.bitmap] = b"".join(
        bitmap.seal_bits(keys, layout, allocated, index, entropy) for index in blocks
    )

    geometry = Geometry(layout, size, (places.tree,))
    tree = Tree(geometry, keys, bytearray(places.tree.length << layout.block_shift))
    tree.apply(tree.rebuilt(_leaf_nodes(geometry, keys, exclude(allocated, fixed), covered)))
    counter = seal_counter(keys, int.from_bytes(entropy(16), "little"))
    root = tree.root({}, RootContext(counter, places.leaf.start, (places.bitmap,)))
    header = MutableHeader(
        encode_auxiliary(places.heads),
        root,
        counter,
        leaf_tag(keys, layout, sealed_leaf),
        places.leaf.start,
        size,
    )
    written = {**covered, places.tree: bytes(tree.nodes)}
    written[static.mutable] = header.encode().ljust(static.mutable.length << layout.block_shift, b"\0")
    written[static.journal] = bytes(static.journal.length << layout.block_shift)
    if places.heads is not None:
        written.update(auxiliary.write_ring(records, places.heads, places.ring, layout))
    return written


def check_size(static: StaticHeader, size: int, records: Auxiliary, *, first_use: bool) -> None:
    """Raise `VolumeFull` if a volume of `size` allocation blocks cannot be made, before anything is touched.

    Args:
        static: layout and salt of the volume.
        size: of the disk and of the image.
        records: its auxiliary metadata.
        first_use: whether a creation header will ask for it, of which a copy must lie beyond the new volume's parts.
    """
    layout = static.layout
    places = _places(static, size, records)
    _check_room(static, size, places.leaf.end)
    # Lengths do not depend on the key.
    _, lists = _lists(Keys(b"\0", layout, static.salt), layout, places, bytes)
    end = max(extent.end for extent in (places.leaf, *lists))
    limit = size
    if first_use:
        length = 0 if records.trivial else len(records.encode())
        header = CreationHeader(layout, static.salt, size, length)
        limit = _copy_of(header, size << layout.block_shift).start
    _check_room(static, limit, end)


def _check_room(static: StaticHeader, limit: int, end: int) -> None:
    if end > limit:
        shift = static.layout.block_shift
        raise VolumeFull(
            f"a volume of this layout takes {end << shift} bytes and more; there are {limit << shift}"
        )


def _copy_of(header: CreationHeader, disk_size: int) -> Extent:
    """Where a creation header's copy, and the auxiliary metadata before it, lie on a disk; raises `VolumeFull`."""
    layout = header.layout
    backup = backup_place(disk_size)
    start = (backup >> layout.block_shift) - header.auxiliary_length
    if backup % (layout.io_block << layout.block_shift) or start < 0:
        raise VolumeFull("the disk is too small for a volume of this layout to be formatted at first use")
    return Extent(start, header.auxiliary_length + header.length)


def _lists(
    keys: Keys, layout: Layout, places: _Places, entropy: Entropy
) -> tuple[list[Pointer], dict[Extent, bytes]]:
    """Pointers to tree, bitmap and root leaf; and the lists of extents of those too long for a pointer."""
    pointers: list[Pointer] = []
    lists: dict[Extent, bytes] = {}
    end = places.leaf.end

    def take(length: int) -> Extent:
        nonlocal end
        end += length
        return Extent(end - length, length)

    for inode, extent in ((INODE_TREE, places.tree), (INODE_BITMAP, places.bitmap)):
        if extent.length <= MAX_POINTED:
            pointers.append(Pointer(extent))
            continue
        chain = extents_chain(keys, layout, inode)
        payload = encode_list([extent])
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
    keys = Keys(secret, static.layout, static.salt)
    written = contents(static, keys, size, records, entropy)
    _write(disk, static, written, size, None, entropy, fill=fill)


def format_at_first_use(
    disk: Disk, found: "Found", secret: bytes, entropy: Entropy, *, fill: bool = True
) -> None:
    """Make the volume that a creation header asks for; restartable when it is cut off at any point.

    Raises:
        VolumeDamaged: the image does not fit the disk, or the auxiliary metadata beside the header is damaged.
        VolumeFull: the size is too small for this layout.
        VolumeWriteError: the disk failed.
    """
    header, layout = found.header, found.header.layout
    shift = layout.block_shift
    if header.size << shift > disk.size or header.size % layout.io_block:
        raise VolumeDamaged(
            f"asks for {header.size << shift} bytes; the disk has {disk.size}, and the size must be whole IO blocks",
            part="creation header",
        )
    copy = _copy_of(header, disk.size)
    records = Auxiliary() if found.wrapped is None else auxiliary.unwrap(found.wrapped, header.auxiliary)
    static = StaticHeader(layout, header.salt)
    keys = Keys(secret, layout, header.salt)
    written = contents(static, keys, header.size, records, entropy)
    _check_room(static, copy.start, max(extent.end for extent in written))
    if not found.is_backup:
        if found.wrapped is not None:
            disk.write(copy.start << shift, found.wrapped)
        write_protected(disk, (copy.end - header.length) << shift, header.encode(), layout)
    _write(disk, static, written, header.size, copy, entropy, fill=fill)
    disk.write(copy.start << shift, entropy(copy.length << shift))


def _write(
    disk: Disk,
    static: StaticHeader,
    written: dict[Extent, bytes],
    size: int,
    spare: Extent | None,
    entropy: Entropy,
    *,
    fill: bool,
) -> None:
    """Write a new volume, its static header last."""
    shift = static.layout.block_shift
    if spare is None:  # whatever the disk holds ends here; with a creation header, its copy takes over
        disk.write(0, bytes(static.layout.io_block << shift))
        disk.barrier()
    for extent, data in written.items():
        disk.write(extent.start << shift, data)
    if fill:
        taken = [static.extent, *written] if spare is None else [static.extent, *written, spare]
        for extent in _free(taken, size, shift):
            disk.write(extent.start << shift, entropy(extent.length << shift))
    disk.barrier()
    write_protected(disk, 0, static.encode(), static.layout)


def _free(taken: list[Extent], size: int, shift: int) -> Iterator[Extent]:
    """What nothing was written to, in pieces of at most a mebibyte."""
    bits = Bits(size)
    bits.fill((extent for extent in taken if extent.end <= size), allocated=True)
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


def write_creation_header(disk: Disk, header: CreationHeader, records: Auxiliary) -> None:
    """Ask for a volume: what a host writes to a blank disk, without the key.

    Args:
        disk: whose beginning is written over.
        header: with `auxiliary` as the records' encoded length, or 0 for none.
        records: the auxiliary metadata that the volume is to have.
    """
    shift = header.layout.block_shift
    if header.auxiliary:
        size = header.auxiliary_length << shift
        disk.write(header.length << shift, auxiliary.wrap(records.encode(), size))
        disk.barrier()
    write_protected(disk, 0, header.encode(), header.layout)


@dataclass(frozen=True)
class Found:
    """A creation header that was found on a disk, at its beginning or as the copy near its end.

    Attributes:
        header: what it asks for.
        wrapped: the auxiliary metadata beside it, behind its checksum; None if there is none.
        is_backup: whether it is the copy.
    """

    header: CreationHeader
    wrapped: bytes | None
    is_backup: bool


def find_creation_header(disk: Disk) -> Found | None:
    """The creation header of a disk without a volume; None if there is none.

    Raises:
        VolumeUnsupported: it asks for a layout that is not supported here.
        VolumeDamaged: the auxiliary metadata beside it would lie outside of the disk.
    """
    header = CreationHeader.parse(lambda size: disk.read(0, size))
    if header is not None:
        return Found(header, _wrapped(disk, header, header.length), is_backup=False)
    if disk.size < _SMALLEST_DISK:
        return None
    place = backup_place(disk.size)
    header = CreationHeader.parse(lambda size: disk.read(place, size))
    if header is None:
        return None
    before = (place >> header.layout.block_shift) - header.auxiliary_length
    return Found(header, _wrapped(disk, header, before), is_backup=True)


def _wrapped(disk: Disk, header: CreationHeader, start: int) -> bytes | None:
    if not header.auxiliary:
        return None
    shift = header.layout.block_shift
    size = header.auxiliary_length << shift
    if start < 0 or (start << shift) + size > disk.size:
        raise VolumeDamaged("would lie outside of the disk", part=auxiliary.PART)
    return disk.read(start << shift, size)
