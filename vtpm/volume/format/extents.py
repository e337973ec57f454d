"""Where things lie: extents, the pointers to them, and lists of them (CocoonFs, "storage location encodings").

NIL is all ones, as the reference has it, and not zero, as the format document says.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from vtpm.volume.errors import VolumeDamaged

NIL = b"\xff" * 8
MAX_POINTED = 64
"""Allocation blocks that an extent pointer can span."""

_WORD = 1 << 64
_LONGEST_LEB128 = 10
_BITS, _SIGN, _MORE = 0x7F, 0x40, 0x80


class Extent(NamedTuple):
    """A range of allocation blocks: its `start`, and its `length` of at least one."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The first block after it."""
        return self.start + self.length

    def blocks(self) -> range:
        """The numbers of its blocks."""
        return range(self.start, self.end)


@dataclass(frozen=True)
class Pointer:
    """An extent pointer: to a file's only extent, or (`indirect`) to the list of its extents."""

    extent: Extent
    indirect: bool = False

    def encode(self) -> bytes:
        """Its 8 bytes; the extent has at most 64 blocks."""
        value = self.extent.start << 7 | (self.extent.length - 1) << 1 | self.indirect
        return value.to_bytes(8, "little")

    @classmethod
    def parse(cls, data: bytes, limit: int, part: str) -> "Pointer | None":
        """Inverse of `encode`; None for NIL. Raises `VolumeDamaged` if it points beyond block `limit`."""
        if data == NIL:
            return None
        value = int.from_bytes(data, "little")
        extent = Extent(value >> 7, (value >> 1 & 0x3F) + 1)
        return cls(_within(extent, limit, part), indirect=bool(value & 1))


def encode_block(block: int | None) -> bytes:
    """A block pointer: place of something whose length follows from the context; None is NIL."""
    return NIL if block is None else (block << 7).to_bytes(8, "little")


def parse_block(data: bytes, length: int, limit: int, part: str) -> int | None:
    """Inverse of `encode_block` for a block of `length`; raises `VolumeDamaged`."""
    if data == NIL:
        return None
    value = int.from_bytes(data, "little")
    if value & 0x7F:
        raise VolumeDamaged("a block pointer has reserved bits set", part=part)
    return _within(Extent(value >> 7, length), limit, part).start


def _within(extent: Extent, limit: int, part: str) -> Extent:
    if not 0 < extent.start < extent.end <= limit:
        raise VolumeDamaged(
            f"points to blocks {extent.start} to {extent.end}, outside of 1 to {limit}", part=part
        )
    return extent


def encode_list(extents: Iterable[Extent]) -> bytes:
    """An extents list: for each the gap from the previous end and the length, ended by two zero bytes."""
    encoded, end = bytearray(), 0
    for extent in extents:
        encoded += encode_signed(extent.start - end) + encode_unsigned(extent.length)
        end = extent.end
    return bytes(encoded) + b"\0\0"


def parse_list(data: bytes, limit: int, part: str) -> tuple[Extent, ...]:
    """Inverse of `encode_list`.

    Raises:
        VolumeDamaged: no such list, bytes after its end, or extents that overlap or end after block `limit`.
    """
    reader = Leb128(data, part)
    extents: list[Extent] = []
    end = total = 0
    while True:
        gap, length = reader.signed(), reader.unsigned()
        if length == 0:
            if gap:
                raise VolumeDamaged("an extent of no length", part=part)
            break
        extents.append(_within(Extent((end + gap) % _WORD, length), limit, part))
        end, total = extents[-1].end, total + length
        if total > limit:
            raise VolumeDamaged("extents overlap", part=part)
    reader.end()
    if not disjoint(extents):
        raise VolumeDamaged("extents overlap", part=part)
    return tuple(extents)


def disjoint(extents: Iterable[Extent]) -> bool:
    """Whether no two of the extents share a block."""
    return all(one.end <= other.start for one, other in pairwise(sorted(extents)))


def encode_unsigned(value: int) -> bytes:
    """Unsigned LEB128."""
    encoded = bytearray()
    while value >= _MORE:
        encoded.append(value & _BITS | _MORE)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_signed(value: int) -> bytes:
    """Signed LEB128."""
    encoded = bytearray()
    while not -_SIGN <= value < _SIGN:
        encoded.append(value & _BITS | _MORE)
        value >>= 7
    encoded.append(value & _BITS)
    return bytes(encoded)


class Leb128:
    """Takes LEB128 numbers and bytes from the front of some data; raises `VolumeDamaged` when it cannot."""

    def __init__(self, data: bytes, part: str) -> None:
        self._data = data
        self._part = part
        self._offset = 0

    def unsigned(self) -> int:
        """The next unsigned number, below 2**64."""
        value, _ = self._number()
        if value >= _WORD:
            raise VolumeDamaged("a number of more than 64 bits", part=self._part)
        return value

    def signed(self) -> int:
        """The next signed number, of 64 bits."""
        value, bits = self._number()
        if value >> (bits - 1):
            value -= 1 << bits
        if not -(_WORD >> 1) <= value < _WORD >> 1:
            raise VolumeDamaged("a number of more than 64 bits", part=self._part)
        return value

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size > len(self._data) - self._offset:
            raise VolumeDamaged("is cut off", part=self._part)
        self._offset += size
        return self._data[self._offset - size : self._offset]

    def more(self) -> bool:
        """Whether anything is left."""
        return self._offset < len(self._data)

    def end(self) -> None:
        """Raise `VolumeDamaged` if anything is left."""
        if self.more():
            raise VolumeDamaged("has bytes after its end", part=self._part)

    def _number(self) -> tuple[int, int]:
        value = 0
        for count in range(_LONGEST_LEB128):
            byte = self.take(1)[0]
            value |= (byte & _BITS) << 7 * count
            if byte < _MORE:
                return value, 7 * (count + 1)
        raise VolumeDamaged("a number does not end", part=self._part)


def merge(extents: Iterable[Extent]) -> Iterator[Extent]:
    """The same blocks in ascending order, with neighbours joined."""
    current: Extent | None = None
    for extent in sorted(extents):
        if current is not None and extent.start <= current.end:
            current = Extent(current.start, max(current.end, extent.end) - current.start)
            continue
        if current is not None:
            yield current
        current = extent
    if current is not None:
        yield current
