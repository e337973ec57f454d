"""The headers: the static one, the mutable one, and the creation header of a blank disk; and where they lie.

The static header is never written again after formatting; the mutable one travels through the journal with every
transaction. The creation header takes the static one's place until the volume is formatted; nothing in it is
authenticated.
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from vtpm.volume.errors import VolumeDamaged, VolumeFull, VolumeUnsupported
from vtpm.volume.format.algorithms import CIPHER_BLOCK
from vtpm.volume.format.extents import NIL, Extent, Pointer, encode_block, parse_block
from vtpm.volume.format.inodes import INODE_COUNTER
from vtpm.volume.format.integrity import protect, unprotect
from vtpm.volume.format.kdf import MAGIC, VERSION, Keys
from vtpm.volume.format.layout import ENCODED_SIZE, UNIT, Layout

CREATION_MAGIC = b"CCFSMKFS"
JOURNAL_MAGIC = b"CCFSJRNL"
MAX_SALT = 255

_COUNTER_IV = bytes(16)
"""No counter is ever encrypted twice, so it needs no other."""

_VERSION_AT = 8
_LAYOUT_AT = 9
_SALT_SIZE_AT = _LAYOUT_AT + ENCODED_SIZE
_SECTION_AT = _SALT_SIZE_AT + 1
_CREATION_SALT_SIZE_AT = _LAYOUT_AT + ENCODED_SIZE + 16
_CREATION_SECTION_AT = _CREATION_SALT_SIZE_AT + 1
_BACKUP_PARTS_LOG2 = 4
_SMALLEST_BACKUP_PART = 4 * UNIT


Front = Callable[[int], bytes]
"""Gives the first so many bytes, or fewer if there are no more."""


def _align(value: int, unit: int) -> int:
    return -(-value // unit) * unit


@dataclass(frozen=True)
class StaticHeader:
    """What is fixed for a volume's life: its `layout` and its `salt` of up to 255 bytes."""

    layout: Layout
    salt: bytes

    @cached_property
    def extent(self) -> Extent:
        """Where it lies: the first IO blocks."""
        size = _SECTION_AT + self.layout.integrity_size + len(self.salt)
        return Extent(0, _align(self.layout.blocks(size), self.layout.io_block))

    @cached_property
    def mutable(self) -> Extent:
        """Where the mutable header lies; its last IO block may hold other things too."""
        return Extent(self.extent.end, self.layout.blocks(MutableHeader.size_of(self.layout)))

    @cached_property
    def journal(self) -> Extent:
        """Where the journal log's head lies: the first place for it, and the shortest that takes a cipher block."""
        layout = self.layout
        start = _align(self.mutable.end, layout.journal_block)
        size = 8 + layout.integrity_size + 16 + layout.preauth_hash.digest_size + 2 * CIPHER_BLOCK
        return Extent(start, _align(layout.blocks(size), layout.journal_block))

    def fixed(self, auxiliary: Iterable[Extent] = ()) -> list[Extent]:
        """What is allocated and belongs to no inode: the tree does not vouch for it."""
        return [Extent(0, self.mutable.end), self.journal, *auxiliary]

    def encode(self) -> bytes:
        """The bytes at its place."""
        front = MAGIC + VERSION + self.layout.encode() + bytes([len(self.salt)])
        data = front + bytes(self.layout.integrity_size) + self.salt
        data = data.ljust(self.extent.length << self.layout.block_shift, b"\0")
        return protect(data, _SECTION_AT, self.layout)

    @classmethod
    def parse(cls, read: Front) -> Self | None:
        """Inverse of `encode`; `read` gives the first bytes. None if there is none, or none that was written whole.

        Raises:
            VolumeUnsupported: another version, or a layout that is not supported.
        """
        fields = _front(read(UNIT), MAGIC, _SALT_SIZE_AT, _SECTION_AT)
        if fields is None:
            return None
        layout, _, salt_size = fields
        salt_at = _SECTION_AT + layout.integrity_size
        extent = cls(layout, bytes(salt_size)).extent
        whole = _whole(read, extent.length, _SECTION_AT, layout)
        return None if whole is None else cls(layout, whole[salt_at : salt_at + salt_size])


@dataclass(frozen=True)
class CreationHeader:
    """What a blank disk asks for.

    Attributes:
        layout: of the volume to be.
        salt: of the volume to be.
        size: of the volume to be, in allocation blocks.
        auxiliary: bytes of auxiliary metadata stored beside it.
    """

    layout: Layout
    salt: bytes
    size: int
    auxiliary: int = 0

    @cached_property
    def length(self) -> int:
        """Allocation blocks that it takes: whole IO blocks."""
        size = _CREATION_SECTION_AT + self.layout.integrity_size + len(self.salt)
        return _align(self.layout.blocks(size), self.layout.io_block)

    @cached_property
    def auxiliary_length(self) -> int:
        """Allocation blocks that the auxiliary metadata beside it takes, checksum included."""
        if not self.auxiliary:
            return 0
        return _align(self.layout.blocks(self.auxiliary + 8), self.layout.io_block)

    def encode(self) -> bytes:
        """Its bytes, padded to whole IO blocks."""
        front = b"".join(
            (
                CREATION_MAGIC,
                VERSION,
                self.layout.encode(),
                struct.pack("<QQ", self.auxiliary, self.size),
                bytes([len(self.salt)]),
            )
        )
        data = front + bytes(self.layout.integrity_size) + self.salt
        data = data.ljust(self.length << self.layout.block_shift, b"\0")
        return protect(data, _CREATION_SECTION_AT, self.layout)

    @classmethod
    def parse(cls, read: Front) -> Self | None:
        """Inverse of `encode`; `read` gives the first bytes. None if there is none, or none that was written whole.

        Raises:
            VolumeUnsupported: another version, or a layout that is not supported.
        """
        fields = _front(read(UNIT), CREATION_MAGIC, _CREATION_SALT_SIZE_AT, _CREATION_SECTION_AT)
        if fields is None:
            return None
        layout, masked_sizes, salt_size = fields
        auxiliary, size = struct.unpack("<QQ", masked_sizes)
        header = cls(layout, bytes(salt_size), size, auxiliary)
        whole = _whole(read, header.length, _CREATION_SECTION_AT, layout)
        if whole is None:
            return None
        salt_at = _CREATION_SECTION_AT + layout.integrity_size
        return cls(layout, whole[salt_at : salt_at + salt_size], size, auxiliary)


def _front(data: bytes, magic: bytes, salt_size_at: int, section: int) -> tuple[Layout, bytes, int] | None:
    """Layout, what lies between it and the salt's size, and the salt's size, before anything is known of the sizes."""
    if not data.startswith(magic) or len(data) < UNIT or 0 in data[len(magic) : UNIT]:
        return None
    mask = data[section + 8]
    front = bytes(byte ^ mask for byte in data[_VERSION_AT : salt_size_at + 1])
    if front[:1] != VERSION:
        raise VolumeUnsupported(f"format version {front[0]} is not supported here")
    layout_end = 1 + ENCODED_SIZE
    return Layout.parse(front[1:layout_end]), front[layout_end:-1], front[-1]


def _whole(read: Front, length: int, section: int, layout: Layout) -> bytes | None:
    """A header of so many blocks with its protection taken off; None if the disk ends before, or it is torn."""
    data = read(length << layout.block_shift)
    return unprotect(data, section, layout) if len(data) == length << layout.block_shift else None


def backup_place(size: int) -> int:
    """Byte offset of the creation header's copy on a disk of `size` bytes.

    It is the last of the parts when the disk is cut into at least 16 of the largest power of two that allows it.

    Raises:
        VolumeFull: the disk is too small for one.
    """
    units = size // UNIT
    part = UNIT << max(units.bit_length() - 1 - _BACKUP_PARTS_LOG2, 0)
    if part < _SMALLEST_BACKUP_PART:
        raise VolumeFull("the disk is too small to be formatted at first use: it needs at least 8 KiB")
    return (units * UNIT // part - 1) * part


@dataclass(frozen=True)
class MutableHeader:
    """What changes with each transaction.

    Attributes:
        auxiliary: pointers to the heads of the two groups of auxiliary metadata, each 8 bytes.
        root: HMAC that vouches for everything.
        counter: the encrypted update counter.
        leaf_tag: HMAC over the entry leaf, the first thing that is decrypted.
        leaf: where the entry leaf lies.
        size: of the image, in allocation blocks.
    """

    auxiliary: bytes
    root: bytes
    counter: bytes
    leaf_tag: bytes
    leaf: int
    size: int

    @staticmethod
    def size_of(layout: Layout) -> int:
        """Bytes that it takes."""
        return 16 + layout.root_hash.digest_size + CIPHER_BLOCK + layout.preauth_hash.digest_size + 16

    def encode(self) -> bytes:
        """Its bytes."""
        return b"".join(
            (
                self.auxiliary,
                self.root,
                self.counter,
                self.leaf_tag,
                encode_block(self.leaf),
                self.size.to_bytes(8, "little"),
            )
        )

    @classmethod
    def parse(cls, data: bytes, static: StaticHeader, blocks: int) -> Self:
        """Inverse of `encode`, for a volume on a disk of so many allocation blocks.

        Raises:
            VolumeDamaged: it points outside of the image, or the image is no whole number of IO blocks on this disk.
        """
        layout, part = static.layout, "mutable header"
        root, tag = layout.root_hash.digest_size, layout.preauth_hash.digest_size
        form = f"<16s{root}s{CIPHER_BLOCK}s{tag}s8sQ"
        heads, root_tag, counter, leaf_tag, pointer, size = struct.unpack(form, data[: cls.size_of(layout)])
        if not static.journal.end <= size <= blocks or size % layout.io_block:
            raise VolumeDamaged(
                f"an image of {size} allocation blocks does not lie on this disk of {blocks}",
                part=part,
                block=static.mutable.start,
            )
        leaf = parse_block(pointer, layout.leaf, size, part)
        if leaf is None:
            raise VolumeDamaged("no entry leaf", part=part, block=static.mutable.start)
        return cls(heads, root_tag, counter, leaf_tag, leaf, size)


def parse_auxiliary(data: bytes, limit: int, part: str) -> tuple[Extent, Extent | None] | None:
    """The heads of the groups of auxiliary metadata behind a pair of pointers; None if there is none.

    Raises:
        VolumeDamaged: the first is NIL and the second is not, or one is indirect or beyond block `limit`.
    """
    heads = [Pointer.parse(data[at : at + 8], limit, part) for at in (0, 8)]
    if any(head is not None and head.indirect for head in heads) or (heads[0] is None and heads[1]):
        raise VolumeDamaged("the pointers to the auxiliary metadata make no sense", part=part)
    if heads[0] is None:
        return None
    return heads[0].extent, None if heads[1] is None else heads[1].extent


def encode_auxiliary(heads: tuple[Extent, Extent | None] | None) -> bytes:
    """Inverse of `parse_auxiliary`."""
    if heads is None:
        return NIL + NIL
    return Pointer(heads[0]).encode() + (NIL if heads[1] is None else Pointer(heads[1]).encode())


def open_counter(keys: Keys, encrypted: bytes) -> int:
    """The update counter of a mutable header."""
    return int.from_bytes(keys.cipher(INODE_COUNTER).decrypt_cbc(_COUNTER_IV, encrypted), "little")


def seal_counter(keys: Keys, counter: int) -> bytes:
    """Inverse of `open_counter`."""
    return keys.cipher(INODE_COUNTER).encrypt_cbc(_COUNTER_IV, counter.to_bytes(16, "little"))
