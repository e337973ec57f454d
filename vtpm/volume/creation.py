"""The creation header: a blank disk that asks for a volume, and is formatted when a key is first brought.

A copy of it near the disk's end is made before anything is written over it, so formatting starts over after a cut at
any point (CocoonFs, "filesystem creation info header").
"""

from dataclasses import dataclass

from vtpm.volume.device import Disk
from vtpm.volume.errors import VolumeDamaged, VolumeFull, VolumeUnknown, VolumeUnsupported
from vtpm.volume.format import auxiliary
from vtpm.volume.format.auxiliary import Auxiliary
from vtpm.volume.format.bitmap import Bits
from vtpm.volume.format.entities import Entropy
from vtpm.volume.format.extents import Extent
from vtpm.volume.format.headers import CREATION_MAGIC, CreationHeader, StaticHeader, backup_place
from vtpm.volume.format.kdf import Keys
from vtpm.volume.format.layout import Layout
from vtpm.volume.mkfs import check_room, contents, length_of, write_protected, write_volume

PART = "creation header"
_SMALLEST_DISK = 8192
_INTERIM = b"VTPMVOL"
"""How volumes and blank disks of version 0.1 began."""


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


def unknown(disk: Disk) -> VolumeUnknown:
    """The error for a disk with neither a volume nor a creation header."""
    if disk.read(0, len(_INTERIM)) == _INTERIM:
        return VolumeUnknown(
            "this is an interim store of vtpm-ca 0.1, which is no longer read: make a new disk, and have the CA's"
            " operator reset the instance"
        )
    return VolumeUnknown("there is no CocoonFs volume and no creation header")


def erase_copy(disk: Disk, allocated: Bits, layout: Layout, entropy: Entropy) -> None:
    """Erase a creation header's copy that formatting has left behind in free blocks.

    Were the volume's static header damaged one day, the copy would ask for the volume to be made anew.
    """
    if disk.size < _SMALLEST_DISK:
        return
    place, length = backup_place(disk.size), layout.io_block
    if place % (length << layout.block_shift):
        return  # no copy is ever made there
    start = place >> layout.block_shift
    if disk.read(place, len(CREATION_MAGIC)) == CREATION_MAGIC and not allocated.mask(start, length):
        disk.write(place, entropy(length << layout.block_shift))


def _wrapped(disk: Disk, header: CreationHeader, start: int) -> bytes | None:
    if not header.auxiliary:
        return None
    if header.auxiliary > auxiliary.MOST_BYTES:
        raise VolumeUnsupported("more than 16 MiB of auxiliary metadata are not supported here")
    shift = header.layout.block_shift
    size = header.auxiliary_length << shift
    if start < 0 or (start << shift) + size > disk.size:
        raise VolumeDamaged("would lie outside of the disk", part=auxiliary.PART)
    return disk.read(start << shift, size)


def write_creation_header(disk: Disk, static: StaticHeader, size: int, records: Auxiliary) -> None:
    """Ask for a volume: what a host writes to a blank disk, without the key.

    Args:
        disk: whose beginning is written over.
        static: layout and salt of the volume to be.
        size: of the volume, in allocation blocks.
        records: the auxiliary metadata that the volume is to have.

    Raises:
        VolumeFull: the disk is too small for such a volume to be formatted at first use.
        VolumeWriteError: the disk failed.
    """
    header = check_first_use(static, size, records, disk.size)
    wrapped = auxiliary.wrap(records.encode(), header.auxiliary_length << header.layout.block_shift)
    _write(disk, header, wrapped if header.auxiliary else None, 0, header.length)


def check_first_use(static: StaticHeader, size: int, records: Auxiliary, disk_size: int) -> CreationHeader:
    """The creation header of a volume of `size` blocks that can be formatted at first use on a disk of so many bytes.

    Raises:
        VolumeFull: there is no room for the volume's own parts and a copy of the header behind them.
    """
    length = 0 if records.trivial else len(records.encode())
    header = CreationHeader(static.layout, static.salt, size, length)
    check_room(static, _copy_of(header, disk_size).start, length_of(static, size, records))
    return header


def format_at_first_use(
    disk: Disk, found: Found, secret: bytes, entropy: Entropy, *, fill: bool = True
) -> None:
    """Make the volume that a creation header asks for; it starts over when it was cut off at any point.

    Args:
        disk: on which the header was found.
        found: the header.
        secret: the volume's raw key.
        entropy: random bytes by number.
        fill: whether to fill what is free with random bytes.

    Raises:
        VolumeDamaged: the image does not fit the disk, or the auxiliary metadata beside the header is damaged.
        VolumeFull: the size is too small for this layout.
        VolumeWriteError: the disk failed.
    """
    header, shift = found.header, found.header.layout.block_shift
    if header.size << shift > disk.size or header.size % header.layout.io_block:
        raise VolumeDamaged(
            f"asks for {header.size << shift} bytes, which must be whole IO blocks; the disk has {disk.size}",
            part=PART,
        )
    copy = _copy_of(header, disk.size)
    records = Auxiliary() if found.wrapped is None else auxiliary.unwrap(found.wrapped, header.auxiliary)
    static = StaticHeader(header.layout, header.salt)
    check_room(static, copy.start, length_of(static, header.size, records))
    keys = Keys(secret, header.layout, header.salt)
    written = contents(static, keys, header.size, records, entropy)
    if not found.is_backup:
        _write(disk, header, found.wrapped, copy.end - header.length, copy.start)
    write_volume(disk, static, written, (copy,), header.size, entropy if fill else None)
    disk.write(copy.start << shift, entropy(copy.length << shift))


def _copy_of(header: CreationHeader, disk_size: int) -> Extent:
    """Where a creation header's copy, and the auxiliary metadata before it, lie on a disk; raises `VolumeFull`."""
    layout = header.layout
    backup = backup_place(disk_size)
    start = (backup >> layout.block_shift) - header.auxiliary_length
    if backup % (layout.io_block << layout.block_shift) or start < 0:
        raise VolumeFull("the disk is too small for a volume of this layout to be formatted at first use")
    return Extent(start, header.auxiliary_length + header.length)


def _write(disk: Disk, header: CreationHeader, wrapped: bytes | None, at: int, wrapped_at: int) -> None:
    """Write a creation header at one block and what belongs to it at another; no header stands there in between."""
    layout = header.layout
    if wrapped is not None:
        disk.write(at << layout.block_shift, bytes(layout.io_block << layout.block_shift))
        disk.barrier()
        disk.write(wrapped_at << layout.block_shift, wrapped)
        disk.barrier()
    write_protected(disk, at << layout.block_shift, header.encode(), layout)
