"""What can be seen of a disk: without a key as far as the format allows, with one what its state measures.

Nothing that is seen without a key is authenticated: whoever can write the disk can make it say anything.
"""

from dataclasses import dataclass
from enum import StrEnum

from vtpm.volume.creation import find_creation_header, unknown
from vtpm.volume.device import Disk, read_exactly
from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.format import auxiliary, journal
from vtpm.volume.format.auxiliary import Auxiliary
from vtpm.volume.format.extents import Extent
from vtpm.volume.format.headers import JOURNAL_MAGIC, MutableHeader, StaticHeader, parse_auxiliary
from vtpm.volume.format.index import path_to
from vtpm.volume.format.inodes import FIRST_FILE, INODE_BITMAP, INODE_TREE
from vtpm.volume.format.layout import Layout
from vtpm.volume.state import State


class Kind(StrEnum):
    """What a disk carries."""

    VOLUME = "volume"
    CREATION_HEADER = "creation-header"
    INTERRUPTED = "interrupted formatting"
    """Only the creation header's copy near the disk's end is whole: formatting starts over at the next opening."""


class JournalState(StrEnum):
    """Whether a transaction is pending."""

    NONE = "none"
    ACTIVE = "active"
    """The head is whole; only the key tells whether it is authentic."""
    TORN = "torn"
    """The head was not written whole, so its transaction has not happened."""


@dataclass(frozen=True)
class Outside:
    """What a disk shows without a key.

    Attributes:
        kind: what it carries.
        layout: of the volume, or of the volume to be.
        salt: of the volume, or of the volume to be.
        size: of the image, in bytes; None if that cannot be told, as while a transaction is half applied.
        journal: whether a transaction is pending.
        auxiliary: the auxiliary metadata; None if there is none, or none of its groups is whole.
        damage: why `size` or `auxiliary` cannot be told although they should.
    """

    kind: Kind
    layout: Layout
    salt: bytes
    size: int | None = None
    journal: JournalState = JournalState.NONE
    auxiliary: Auxiliary | None = None
    damage: VolumeDamaged | None = None


@dataclass(frozen=True)
class Measures:
    """How large the parts of an open volume are; places and lengths count allocation blocks.

    Attributes:
        tree: extents of the authentication tree.
        tree_height: its levels.
        bitmap: extents of the allocation bitmap.
        index_height: levels of the inode index.
        files: how many there are.
        allocated: blocks that hold something.
        free: blocks that hold nothing.
    """

    tree: tuple[Extent, ...]
    tree_height: int
    bitmap: tuple[Extent, ...]
    index_height: int
    files: int
    allocated: int
    free: int


def inspect(disk: Disk) -> Outside:
    """What a disk shows without a key.

    Raises:
        VolumeUnknown: neither a volume nor a creation header.
        VolumeUnsupported: of a version, or with algorithms or dimensions, that are not supported here.
        VolumeDamaged: what lies beside a creation header would lie outside of the disk.
        VolumeReadError: the disk cannot be read.
    """
    static = StaticHeader.parse(lambda size: disk.read(0, size))
    return _creation(disk) if static is None else _volume(disk, static)


def measure(state: State) -> Measures:
    """The sizes of an open volume's parts."""
    allocated = state.allocated.count()
    return Measures(
        tree=state.locations[INODE_TREE].data,
        tree_height=state.geometry.shape.levels,
        bitmap=state.locations[INODE_BITMAP].data,
        index_height=len(path_to(state.index, 0)),
        files=sum(inode >= FIRST_FILE for inode in state.locations),
        allocated=allocated,
        free=state.header.size - allocated,
    )


def _creation(disk: Disk) -> Outside:
    found = find_creation_header(disk)
    if found is None:
        raise unknown(disk)
    header, records, damage = found.header, None, None
    try:
        if found.wrapped is not None:
            records = auxiliary.unwrap(found.wrapped, header.auxiliary)
    except VolumeDamaged as error:
        damage = error
    kind = Kind.INTERRUPTED if found.is_backup else Kind.CREATION_HEADER
    size = header.size << header.layout.block_shift
    return Outside(kind, header.layout, header.salt, size, auxiliary=records, damage=damage)


def _volume(disk: Disk, static: StaticHeader) -> Outside:
    layout = static.layout
    blocks = disk.size >> layout.block_shift
    head = _read(disk, layout, static.journal)
    active = journal.active_head(head, layout)
    if active is not None:
        pending = JournalState.ACTIVE
    else:
        pending = JournalState.TORN if head.startswith(JOURNAL_MAGIC) else JournalState.NONE
    size, records, damage = None, None, None
    try:
        header = MutableHeader.parse(_whole(disk, layout, static.mutable), static, blocks)
        size = header.size << layout.block_shift
        if active is None:
            records = _records(disk, layout, header.auxiliary, header.size)
    except VolumeDamaged as error:
        # While a transaction is applied, this header may be half written; the journal has it whole, encrypted.
        damage = error if active is None else None
    try:
        if active is not None:
            records = _records(disk, layout, journal.head_auxiliary(active, layout), blocks)
    except VolumeDamaged as error:
        damage = error
    return Outside(Kind.VOLUME, layout, static.salt, size, pending, records, damage)


def _records(disk: Disk, layout: Layout, pointers: bytes, limit: int) -> Auxiliary | None:
    heads = parse_auxiliary(pointers, limit, auxiliary.PART)
    if heads is None:
        return None
    return auxiliary.read_ring(heads, lambda extent: _whole(disk, layout, extent), layout, limit).content


def _read(disk: Disk, layout: Layout, extent: Extent) -> bytes:
    return disk.read(extent.start << layout.block_shift, extent.length << layout.block_shift)


def _whole(disk: Disk, layout: Layout, extent: Extent) -> bytes:
    return read_exactly(disk, extent.start << layout.block_shift, extent.length << layout.block_shift)
