"""The allocation bitmap: which blocks of the image hold something, and how the bitmap itself is stored.

One bit for each allocation block, in 64-bit little-endian words. Each block of the bitmap's file holds as many words
as fit and is encrypted on its own (CocoonFs, "allocation bitmap").
"""

import re
import struct
from collections.abc import Iterable, Iterator

from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.format.entities import Entropy, open_block, seal_block
from vtpm.volume.format.extents import Extent
from vtpm.volume.format.inodes import INODE_BITMAP
from vtpm.volume.format.kdf import Keys
from vtpm.volume.format.layout import Layout

PART = "allocation bitmap"
_WORD_BITS = 64
_FORMS = {8: "B", 16: "H", 32: "I", 64: "Q"}


class Bits:
    """A bit for each allocation block of an image of `size` blocks; a set bit means allocated."""

    def __init__(self, size: int, data: bytes | bytearray = b"") -> None:
        words = -(-size // _WORD_BITS)
        self.size = size
        self.data = bytearray(data[: words * 8].ljust(words * 8, b"\0"))

    def copy(self) -> "Bits":
        """The same bits, to be changed."""
        return Bits(self.size, self.data)

    def fill(self, extents: Iterable[Extent], *, allocated: bool) -> None:
        """Set or clear the bits of these extents."""
        for extent in extents:
            first, last = extent.start >> 3, (extent.end + 7) >> 3
            mask = ((1 << extent.length) - 1) << (extent.start & 7)
            value = int.from_bytes(self.data[first:last], "little")
            value = value | mask if allocated else value & ~mask
            self.data[first:last] = value.to_bytes(last - first, "little")

    def mask(self, start: int, length: int) -> int:
        """The bits of `length` blocks from `start` on, the first in bit 0; beyond the image they are clear."""
        first, last = start >> 3, (start + length + 7) >> 3
        return int.from_bytes(self.data[first:last], "little") >> (start & 7) & (1 << length) - 1

    def masks(self, start: int, count: int, unit: int) -> list[int]:
        """`mask` of `count` units of `unit` blocks from `start` on, a multiple of the unit; units are powers of two."""
        first, last = start >> 3, (start + count * unit + 7) >> 3
        data = bytes(self.data[first:last]).ljust(last - first, b"\0")
        if unit >= 8:  # noqa: PLR2004 - bits of a byte
            return list(struct.unpack(f"<{count}{_FORMS[unit]}", data))
        full = (1 << unit) - 1
        masks = [byte >> shift & full for byte in data for shift in range(0, 8, unit)]
        skip = (start & 7) // unit
        return masks[skip : skip + count]

    def any_set(self, start: int, length: int) -> bool:
        """Whether any of `length` blocks from `start` on is allocated, or a neighbour that shares a byte with them."""
        if length < 8:  # noqa: PLR2004 - bits of a byte
            return self.mask(start, length) != 0
        return any(self.data[start >> 3 : (start + length + 7) >> 3])

    def all_set(self, extent: Extent) -> bool:
        """Whether every block of an extent is allocated."""
        return self.mask(extent.start, extent.length) == (1 << extent.length) - 1

    def words(self, first: int, count: int) -> bytes:
        """`count` words from word `first` on, fewer where the image ends."""
        return bytes(self.data[first * 8 : (first + count) * 8])

    def count(self) -> int:
        """How many blocks are allocated."""
        return int.from_bytes(self.data, "little").bit_count()

    def clear_runs(self) -> Iterator[Extent]:
        """The longest runs of blocks that are not allocated, in ascending order."""
        text = f"{int.from_bytes(self.data, 'little'):0{len(self.data) * 8}b}"[::-1]
        for found in re.finditer("0+", text[: self.size]):
            yield Extent(found.start(), found.end() - found.start())


class BitsDraft:
    """Bits with changes on top, which become part of them only by `apply`: a commit costs nothing for the rest."""

    def __init__(self, base: Bits) -> None:
        self._base = base
        self._words: dict[int, int] = {}

    def fill(self, extents: Iterable[Extent], *, allocated: bool) -> None:
        """Set or clear the bits of these extents."""
        for extent in extents:
            for word in range(extent.start // _WORD_BITS, (extent.end - 1) // _WORD_BITS + 1):
                low = max(extent.start - word * _WORD_BITS, 0)
                high = min(extent.end - word * _WORD_BITS, _WORD_BITS)
                mask = (1 << high) - (1 << low)
                value = self._word(word)
                self._words[word] = value | mask if allocated else value & ~mask

    def mask(self, start: int, length: int) -> int:
        """As `Bits.mask`, of blocks that lie within one word."""
        return self._word(start // _WORD_BITS) >> start % _WORD_BITS & (1 << length) - 1

    def words(self, first: int, count: int) -> bytes:
        """`count` words from word `first` on, fewer where the image ends."""
        words = bytearray(self._base.words(first, count))
        for word, value in self._words.items():
            at = (word - first) * 8
            if 0 <= at < len(words):
                words[at : at + 8] = value.to_bytes(8, "little")
        return bytes(words)

    def apply(self) -> None:
        """Change the bits below."""
        for word, value in self._words.items():
            self._base.data[word * 8 : word * 8 + 8] = value.to_bytes(8, "little")

    def _word(self, word: int) -> int:
        value = self._words.get(word)
        return self._base.mask(word * _WORD_BITS, _WORD_BITS) if value is None else value


def file_length(layout: Layout, size: int) -> int:
    """Blocks that the bitmap of an image of `size` blocks takes: whole bitmap blocks and whole data blocks."""
    words = -(-size // _WORD_BITS)
    length = -(-words // layout.bitmap_words) * layout.bitmap_block
    unit = max(layout.bitmap_block, layout.data_block)
    return -(-length // unit) * unit


def check_extents(layout: Layout, size: int, extents: tuple[Extent, ...]) -> None:
    """Raise `VolumeDamaged` if the bitmap of an image of `size` blocks cannot lie there."""
    for extent in extents:
        if (
            extent.start % layout.data_block
            or extent.length % layout.data_block
            or extent.length % layout.bitmap_block
        ):
            raise VolumeDamaged("an extent is not aligned", part=PART, block=extent.start)
    if sum(extent.length for extent in extents) < file_length(layout, size):
        raise VolumeDamaged("is too short for the image", part=PART)


def file_block(layout: Layout, extents: Iterable[Extent], index: int) -> Extent:
    """Where block `index` of the bitmap's file lies."""
    logical = index * layout.bitmap_block
    for extent in extents:
        if logical < extent.length:
            return Extent(extent.start + logical, layout.bitmap_block)
        logical -= extent.length
    raise AssertionError("no such block")


def blocks_covering(layout: Layout, extents: Iterable[Extent]) -> set[int]:
    """Which blocks of the bitmap's file hold the bits of these extents."""
    covered: set[int] = set()
    bits = layout.bitmap_words * _WORD_BITS
    for extent in extents:
        covered.update(range(extent.start // bits, (extent.end - 1) // bits + 1))
    return covered


def open_bits(keys: Keys, layout: Layout, data: bytes) -> bytes:
    """The words of one block of the bitmap's file."""
    return open_block(keys.cipher(INODE_BITMAP), data)[: layout.bitmap_words * 8]


def seal_bits(keys: Keys, layout: Layout, bits: Bits | BitsDraft, index: int, entropy: Entropy) -> bytes:
    """Block `index` of the bitmap's file."""
    words = bits.words(index * layout.bitmap_words, layout.bitmap_words)
    return seal_block(keys.cipher(INODE_BITMAP), words, layout.bitmap_block << layout.block_shift, entropy)
