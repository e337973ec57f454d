"""Auxiliary metadata: records in plain text beside the volume, such as a wrapped key (CocoonFs, same heading).

They are not authenticated, by design: whoever has the disk may change them without the key. They are read here only
to show them, and because the blocks that they occupy count as unallocated in the authentication tree.

The extents form one ring, each naming the next and the next but one, so that one torn extent does not break it. Two
groups of them, each whole in itself, let one be rewritten while the other holds.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from uuid import UUID

from vtpm.volume.errors import VolumeDamaged, VolumeFull
from vtpm.volume.format.extents import MAX_POINTED, Extent, Pointer, disjoint
from vtpm.volume.format.headers import encode_auxiliary
from vtpm.volume.format.integrity import checksum, protect, unprotect
from vtpm.volume.format.layout import Layout

PART = "auxiliary metadata"
MOST_BYTES = 1 << 24
"""More than this is neither read nor written: nobody vouches for how much there is."""
_RECORD = struct.Struct("<16sI")
_END = bytes(16)
_POINTERS = 16
_INACTIVE, _ACTIVE, _ACTIVE_REALLOCATE = 0, 1, 2


@dataclass(frozen=True)
class Auxiliary:
    """The records, in the order of their UUIDs, and how many spare bytes are kept for offline growth.

    With a `reserve`, even of none, there are two groups of extents; without (None) there is one.
    """

    records: tuple[tuple[UUID, bytes], ...] = ()
    reserve: int | None = None

    def encode(self) -> bytes:
        """The records, and the terminating one."""
        encoded = b"".join(_RECORD.pack(uuid.bytes, len(data)) + data for uuid, data in self.records)
        if self.reserve is None:
            return encoded + _RECORD.pack(_END, 0)
        return encoded + _RECORD.pack(_END, 8) + self.reserve.to_bytes(8, "little")

    @classmethod
    def parse(cls, data: bytes) -> "Auxiliary":
        """Inverse of `encode`; `data` may be longer. Raises `VolumeDamaged`."""
        records: list[tuple[UUID, bytes]] = []
        at = 0
        while True:
            if at + _RECORD.size > len(data):
                raise VolumeDamaged("the records do not end", part=PART)
            uuid, length = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            value = data[at : at + length]
            at += length
            if len(value) < length:
                raise VolumeDamaged("a record is cut off", part=PART)
            if uuid == _END:
                break
            if records and uuid < records[-1][0].bytes:
                raise VolumeDamaged("the records are out of order", part=PART)
            records.append((UUID(bytes=uuid), value))
        if length not in {0, 8}:
            raise VolumeDamaged("the last record is none", part=PART)
        return cls(tuple(records), int.from_bytes(value, "little") if length else None)

    @property
    def trivial(self) -> bool:
        """Whether there is nothing to keep extents for."""
        return not self.records and not self.reserve


def unwrap(data: bytes, length: int) -> Auxiliary:
    """The records that lie beside a creation header: `length` bytes behind a checksum. Raises `VolumeDamaged`."""
    if checksum(data[8:]) != data[:8]:
        raise VolumeDamaged("the checksum does not fit", part=PART)
    return Auxiliary.parse(data[8 : 8 + length])


def wrap(encoded: bytes, size: int) -> bytes:
    """Inverse of `unwrap`, padded to `size` bytes."""
    padded = encoded.ljust(size - 8, b"\0")
    return checksum(padded) + padded


Heads = tuple[Extent, Extent | None]


@dataclass(frozen=True)
class Ring:
    """The extents of the auxiliary metadata as they were found: all of them, and what the effective group holds.

    `content` is None if no group is both whole and active.
    """

    extents: tuple[Extent, ...]
    content: Auxiliary | None


@dataclass(frozen=True)
class _Link:
    following: Extent
    after: Extent
    state: int
    payload: bytes


def read_ring(heads: Heads, read: Callable[[Extent], bytes], layout: Layout, limit: int) -> Ring:
    """Follow the ring.

    Args:
        heads: of the two groups, or of the only one.
        read: gives an extent's bytes.
        layout: of the volume.
        limit: the first block after the image.

    Raises:
        VolumeDamaged: it is no ring, more than one extent is torn, or an extent lies across the units of the tree.
    """
    links: dict[Extent, _Link | None] = {}
    most = min(limit, max(MOST_BYTES >> layout.block_shift, 2 * MAX_POINTED))

    def visit(extent: Extent) -> _Link | None:
        if extent.start % layout.journal_block or extent.length % layout.journal_block:
            raise VolumeDamaged("an extent is not aligned", part=PART, block=extent.start)
        links[extent] = _parse_link(read(extent), layout, limit, head=extent in heads)
        return links[extent]

    start = heads[0]
    if visit(start) is None and heads[1] is not None:
        start = heads[1]
        visit(start)
    order, seen, length, current, torn_next = [start], {start}, start.length, start, None
    while True:
        link = links[current] if current in links else visit(current)
        following = torn_next if link is None else link.following
        torn_next = None if link is None else link.after
        if following is None:
            raise VolumeDamaged("the ring is broken", part=PART, block=current.start)
        if following == start:
            break
        # A ring of more blocks than there are overlaps itself.
        length += following.length
        if following in seen or length > most:
            raise VolumeDamaged("the ring does not close", part=PART, block=following.start)
        order.append(following)
        seen.add(following)
        current = following
    if not disjoint(order) or any(head is not None and head not in seen for head in heads):
        raise VolumeDamaged("the ring runs over itself", part=PART, block=heads[0].start)
    turn = order.index(heads[0])
    order = order[turn:] + order[:turn]
    return Ring(tuple(order), _content(order, heads, links))


def _content(order: list[Extent], heads: Heads, links: dict[Extent, _Link | None]) -> Auxiliary | None:
    """The records of the first group that is whole and active."""
    split = len(order) if heads[1] is None else order.index(heads[1])
    for group in (order[:split], order[split:]):
        found = [links[extent] for extent in group]
        whole = [link for link in found if link is not None]
        if whole and len(whole) == len(found) and whole[0].state != _INACTIVE:
            return Auxiliary.parse(b"".join(link.payload for link in whole))
    return None


def _parse_link(data: bytes, layout: Layout, limit: int, *, head: bool) -> _Link | None:
    section = _POINTERS + head
    whole = unprotect(data, section, layout, magic=0)
    if whole is None:
        return None
    following, after = (Pointer.parse(whole[at : at + 8], limit, PART) for at in (0, 8))
    if following is None or after is None or following.indirect or after.indirect:
        raise VolumeDamaged("an extent names no next one", part=PART)
    state = whole[_POINTERS] if head else _ACTIVE
    if state not in {_INACTIVE, _ACTIVE, _ACTIVE_REALLOCATE}:
        raise VolumeDamaged(f"a group is in state {state}", part=PART)
    return _Link(following.extent, after.extent, state, whole[section + layout.integrity_size :])


def plan_ring(
    auxiliary: Auxiliary, layout: Layout, start: int, limit: int
) -> tuple[Heads, tuple[Extent, ...]]:
    """Heads and extents of a new ring, placed one after the other from block `start`, which is aligned.

    Raises:
        VolumeFull: there is no room for it before block `limit`.
    """
    size = len(auxiliary.encode()) + (auxiliary.reserve or 0)
    groups = 1 if auxiliary.reserve is None else 2
    # The reserve is any number of 64 bits.
    if layout.blocks(size) > limit - start or groups * size > MOST_BYTES // 2:
        raise VolumeFull(f"there is no room for {size} bytes of auxiliary metadata")
    lengths = _group_lengths(size, layout)
    extents: list[Extent] = []
    for length in lengths * groups:
        extents.append(Extent(start, length))
        start += length
    return (extents[0], None if groups == 1 else extents[len(lengths)]), tuple(extents)


def _group_lengths(payload: int, layout: Layout) -> list[int]:
    unit = layout.journal_block
    lengths: list[int] = []
    for number in count():
        overhead = _POINTERS + layout.integrity_size + (number == 0)
        length = min(-(-layout.blocks(payload + overhead) // unit) * unit, MAX_POINTED)
        lengths.append(length)
        payload -= (length << layout.block_shift) - overhead
        if payload <= 0:
            return lengths
    raise AssertionError("unreachable")


def write_ring(
    auxiliary: Auxiliary, heads: Heads, extents: tuple[Extent, ...], layout: Layout
) -> Iterator[tuple[Extent, bytes]]:
    """Each extent of a new ring with its bytes; the first group is active, the second is not yet."""
    encoded, at = auxiliary.encode(), 0
    for number, extent in enumerate(extents):
        head = extent in heads
        if extent == heads[1]:
            encoded, at = b"", 0
        pointers = encode_auxiliary(
            (extents[(number + 1) % len(extents)], extents[(number + 2) % len(extents)])
        )
        front = pointers + (bytes([_ACTIVE if extent == heads[0] else _INACTIVE]) if head else b"")
        section = len(front)
        front += bytes(layout.integrity_size)
        size = extent.length << layout.block_shift
        chunk = encoded[at : at + size - len(front)]
        at += len(chunk)
        yield extent, protect((front + chunk).ljust(size, b"\0"), section, layout, magic=0)
