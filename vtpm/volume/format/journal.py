"""The journal log: what one pending transaction still has to do (CocoonFs, "journal").

The head lies at a fixed place and is written last. Once it is durable, the transaction has happened; whoever opens the
volume next copies the staged blocks to their targets, and computes the changed nodes of the authentication tree anew.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from cryptography.hazmat.primitives import constant_time

from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.format.disguise import Disguise
from vtpm.volume.format.entities import Chain
from vtpm.volume.format.extents import (
    Extent,
    Leb128,
    encode_list,
    encode_signed,
    encode_unsigned,
    parse_list,
)
from vtpm.volume.format.headers import JOURNAL_MAGIC
from vtpm.volume.format.inodes import INODE_BITMAP, INODE_JOURNAL
from vtpm.volume.format.integrity import protect, unprotect
from vtpm.volume.format.kdf import Keys
from vtpm.volume.format.layout import Layout

PART = "journal log"
_TREE, _BITMAP, _BITMAP_DIGESTS, _COPIES, _CHANGED, _TRIM, _DISGUISE = range(1, 8)
_MANDATORY = (_TREE, _BITMAP, _BITMAP_DIGESTS, _COPIES, _CHANGED)
_DIGESTS_CONTEXT = bytes([0, _BITMAP_DIGESTS, 0, 7])
_ASSOCIATED = b"\x00\x01"
_SECTION = len(JOURNAL_MAGIC)
_WORD = 1 << 64


@dataclass(frozen=True)
class Copy:
    """Copy `length` allocation blocks, whole IO blocks, from `source` to `target`."""

    target: int
    source: int
    length: int


@dataclass(frozen=True)
class Log:
    """What a journal log says.

    Attributes:
        tree: extents of the authentication tree.
        bitmap: extents of the allocation bitmap.
        bitmap_digests: HMACs of the bitmap's data blocks that are needed to rebuild the tree, by where they begin.
        copies: the staged blocks and their targets, in the order of the targets.
        changed: where data blocks get new digests.
        disguise: of the staged blocks; None if they lie there as they are.
        auxiliary: the pointers to the auxiliary metadata (plain text in the head).
    """

    tree: tuple[Extent, ...]
    bitmap: tuple[Extent, ...]
    bitmap_digests: tuple[tuple[int, bytes], ...]
    copies: tuple[Copy, ...]
    changed: tuple[Extent, ...]
    disguise: Disguise | None
    auxiliary: bytes

    def encode(self, keys: Keys, layout: Layout) -> bytes:
        """The log's fields, before encryption."""
        bitmap = encode_list(self.bitmap)
        records, end = bytearray(), 0
        for start, digest in self.bitmap_digests:
            records += encode_unsigned((start - end) >> layout.data_block_log2) + digest
            end = start + layout.data_block
        tag = _digests_tag(keys, layout, bitmap, bytes(records))
        fields = {
            _TREE: encode_list(self.tree),
            _BITMAP: bitmap,
            _BITMAP_DIGESTS: bytes(records) + tag,
            _COPIES: _encode_copies(self.copies, layout),
            _CHANGED: _encode_ranges(self.changed, layout.data_block_log2),
        }
        if self.disguise is not None:
            fields[_DISGUISE] = self.disguise.encode()
        return b"".join(
            encode_unsigned(field) + encode_unsigned(len(value)) + value for field, value in fields.items()
        )

    @classmethod
    def parse(cls, data: bytes, keys: Keys, layout: Layout, limit: int, auxiliary: bytes) -> "Log":
        """Inverse of `encode`, on a disk of `limit` allocation blocks.

        Raises:
            VolumeDamaged: fields are missing, out of order or malformed, something lies beyond the disk, copies
                overlap, or the HMAC over the bitmap's digests does not hold.
            VolumeUnsupported: the disguise's cipher is not supported here.
        """
        reader = Leb128(data, PART)
        fields: dict[int, bytes] = {}
        while reader.more():
            tag = reader.unsigned()
            if tag > _DISGUISE or tag <= max(fields, default=0):
                raise VolumeDamaged(f"field {tag} is unknown or out of order", part=PART)
            fields[tag] = reader.take(reader.unsigned())
        if any(tag not in fields for tag in _MANDATORY):
            raise VolumeDamaged("a field is missing", part=PART)
        if _TRIM in fields:
            _parse_ranges(fields[_TRIM], layout.io_block_log2, limit)
        disguise = fields.get(_DISGUISE)
        return cls(
            tree=parse_list(fields[_TREE], limit, PART),
            bitmap=parse_list(fields[_BITMAP], limit, PART),
            bitmap_digests=_parse_digests(fields[_BITMAP_DIGESTS], fields[_BITMAP], keys, layout, limit),
            copies=_parse_copies(fields[_COPIES], layout, limit),
            changed=_parse_ranges(fields[_CHANGED], layout.data_block_log2, limit + layout.data_block - 1),
            disguise=None if disguise is None else Disguise.parse(disguise, PART),
            auxiliary=auxiliary,
        )


def chain(keys: Keys, layout: Layout) -> Chain:
    """The chained extents of a journal log."""
    return Chain(
        part=PART,
        layout=layout,
        cipher=keys.cipher(INODE_JOURNAL),
        tag=keys.preauth(INODE_JOURNAL),
        associated=layout.encode() + _ASSOCIATED,
        tells_key=True,
        header=_SECTION + layout.integrity_size + 16,
        unit=layout.journal_block,
    )


def plain_header(layout: Layout, auxiliary: bytes) -> bytes:
    """The head's plain header, before its integrity section is filled in."""
    return JOURNAL_MAGIC + bytes(layout.integrity_size) + auxiliary


def protect_head(data: bytes, layout: Layout) -> bytes:
    """The head as it is written."""
    return protect(data, _SECTION, layout)


def active_head(data: bytes, layout: Layout) -> bytes | None:
    """The head of an active journal with its protection taken off; None if there is none, or none written whole."""
    return unprotect(data, _SECTION, layout) if data.startswith(JOURNAL_MAGIC) else None


def head_auxiliary(head: bytes, layout: Layout) -> bytes:
    """The pointers to the auxiliary metadata in a head."""
    at = _SECTION + layout.integrity_size
    return head[at : at + 16]


def _digests_tag(keys: Keys, layout: Layout, bitmap: bytes, records: bytes) -> bytes:
    return keys.preauth(INODE_BITMAP).digest(layout.encode(), bitmap, records, _DIGESTS_CONTEXT)


def _parse_digests(
    data: bytes, bitmap: bytes, keys: Keys, layout: Layout, limit: int
) -> tuple[tuple[int, bytes], ...]:
    # The digests are HMACs with the data hash. (The reference takes the preauth hash's size here, and so cannot replay
    # its own journals where the two differ.)
    tag_size = layout.preauth_hash.digest_size
    records, tag = data[: max(len(data) - tag_size, 0)], data[-tag_size:]
    if not constant_time.bytes_eq(_digests_tag(keys, layout, bitmap, records), tag):
        raise VolumeDamaged("the HMAC over the bitmap's digests does not hold", part=PART)
    reader = Leb128(records, PART)
    digests: list[tuple[int, bytes]] = []
    end = 0
    while reader.more():
        start = end + (reader.unsigned() << layout.data_block_log2)
        end = start + layout.data_block
        if end > limit:
            raise VolumeDamaged("a digest of something beyond the disk", part=PART)
        digests.append((start, reader.take(layout.data_hash.digest_size)))
    return tuple(digests)


def _encode_copies(copies: Iterable[Copy], layout: Layout) -> bytes:
    encoded, target_end, source_end = bytearray(), 0, 0
    shift = layout.io_block_log2
    for copy in copies:
        encoded += encode_unsigned((copy.target - target_end) >> shift)
        encoded += encode_signed((copy.source - source_end) >> shift)
        encoded += encode_unsigned(copy.length >> shift)
        target_end, source_end = copy.target + copy.length, copy.source + copy.length
    return bytes(encoded) + b"\0\0\0"


def _parse_copies(data: bytes, layout: Layout, limit: int) -> tuple[Copy, ...]:
    reader = Leb128(data, PART)
    shift = layout.io_block_log2
    copies: list[Copy] = []
    target_end = source_end = 0
    while True:
        target_gap, source_gap, length = reader.unsigned(), reader.signed(), reader.unsigned() << shift
        if not (target_gap or source_gap or length):
            break
        target = target_end + (target_gap << shift)
        source = (source_end + (source_gap << shift)) % _WORD
        target_end, source_end = target + length, source + length
        if not length or target_end > limit or source_end > limit:
            raise VolumeDamaged("a copy of nothing, or beyond the disk", part=PART)
        copies.append(Copy(target, source, length))
    reader.end()
    targets = {(copy.target, copy.length) for copy in copies}
    ranges = sorted(
        [(copy.target, copy.target + copy.length) for copy in copies]
        + [(c.source, c.source + c.length) for c in copies if c.source != c.target]
    )
    if len(targets) != len(copies) or any(one[1] > other[0] for one, other in pairwise(ranges)):
        raise VolumeDamaged("copies overlap", part=PART)
    return tuple(copy for copy in copies if copy.source != copy.target)


def _encode_ranges(ranges: Iterable[Extent], shift: int) -> bytes:
    encoded, end = bytearray(), 0
    for extent in ranges:
        encoded += encode_unsigned((extent.start - end) >> shift) + encode_unsigned(extent.length >> shift)
        end = extent.end
    return bytes(encoded) + b"\0\0"


def _parse_ranges(data: bytes, shift: int, limit: int) -> tuple[Extent, ...]:
    reader = Leb128(data, PART)
    ranges: list[Extent] = []
    end = 0
    while True:
        gap, length = reader.unsigned(), reader.unsigned()
        if not (gap or length):
            break
        start = end + (gap << shift)
        end = start + (length << shift)
        if not length or end > limit:
            raise VolumeDamaged("a range of nothing, or beyond the disk", part=PART)
        ranges.append(Extent(start, end - start))
    reader.end()
    return tuple(ranges)
