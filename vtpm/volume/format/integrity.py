"""Checksum and torn-write protection of the few extents that are read before any key is used.

Protected are both headers, the journal log's head and the extents of the auxiliary metadata. Nothing here
authenticates: whoever can write the disk can make a fitting checksum (CocoonFs, "integrity protections").

An integrity section in the extent holds a commit id, a mask and a save area. The commit id also stands before every
power-of-two boundary of the first IO block from 256 bytes on; what stood there lies in the save area. The first
128 bytes are masked so that none of them is zero. So a write that stopped anywhere leaves a trace.
"""

import zlib

from vtpm.volume.format.layout import UNIT, Layout

_MARK = 8
_SWAP = bytes((byte & 0x55) << 1 | (byte & 0xAA) >> 1 for byte in range(256))


def checksum(data: bytes | bytearray) -> bytes:
    """The 8-byte checksum: CRC-32 of the data, and of the data with neighbouring bits swapped, little-endian."""
    return zlib.crc32(data).to_bytes(4, "little") + zlib.crc32(data.translate(_SWAP)).to_bytes(4, "little")


def protect(data: bytes, section: int, layout: Layout, *, magic: int = 8) -> bytes:
    """The extent as it is written.

    Args:
        data: whole IO blocks, with the section zeroed.
        section: where the integrity section begins.
        layout: of the volume; the section's size follows from it.
        magic: how many bytes at the beginning stay readable.
    """
    extent = bytearray(data)
    mark = checksum(data)
    boundaries = _boundaries(layout)
    for slot in reversed(range(len(boundaries))):
        saved = section + _MARK + 1 + _MARK * slot
        extent[saved : saved + _MARK] = extent[boundaries[slot] - _MARK : boundaries[slot]]
    # The marks are not zero either, and 128 bytes cannot rule out all of the 255 masks.
    taken = {0, *mark, *extent[magic:UNIT]}
    mask = next(candidate for candidate in range(1, 256) if candidate not in taken)
    commit = bytes(byte ^ mask for byte in mark)
    extent[magic:UNIT] = bytes(byte ^ mask for byte in extent[magic:UNIT])
    for boundary in boundaries:
        extent[boundary - _MARK : boundary] = commit
    extent[section : section + _MARK + 1] = commit + bytes([mask])
    return bytes(extent)


def unprotect(data: bytes, section: int, layout: Layout, *, magic: int = 8) -> bytes | None:
    """Inverse of `protect`: the extent with the section zeroed; None if it was not written whole."""
    if len(data) < layout.io_block << layout.block_shift or 0 in data[magic:UNIT]:
        return None
    extent = bytearray(data)
    commit, mask = data[section : section + _MARK], data[section + _MARK]
    boundaries = _boundaries(layout)
    if any(extent[boundary - _MARK : boundary] != commit for boundary in boundaries):
        return None
    extent[magic:UNIT] = bytes(byte ^ mask for byte in extent[magic:UNIT])
    for slot, boundary in enumerate(boundaries):
        saved = section + _MARK + 1 + _MARK * slot
        extent[boundary - _MARK : boundary] = extent[saved : saved + _MARK]
    extent[section : section + layout.integrity_size] = bytes(layout.integrity_size)
    if checksum(extent) != bytes(byte ^ mask for byte in commit):
        return None
    return bytes(extent)


def _boundaries(layout: Layout) -> tuple[int, ...]:
    """The power-of-two boundaries, from 256 bytes to the IO block's end."""
    return tuple(UNIT << shift for shift in range(1, layout.io_block_log2 + layout.allocation_block_log2 + 1))
