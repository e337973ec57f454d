"""The image layout: 21 bytes that fix all sizes and algorithms of a volume (CocoonFs, "image layout").

Sizes are powers of two. An *allocation block* (128 bytes and up) is the unit of everything: unless it says otherwise,
a size or a place in this package counts allocation blocks.
"""

import struct
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from vtpm.volume.errors import VolumeUnsupported
from vtpm.volume.format.algorithms import (
    AES128,
    AES192,
    AES256,
    CIPHER_BLOCK,
    SHA256,
    SHA384,
    SHA512,
    CipherAlgorithm,
    HashAlgorithm,
    cipher_algorithm,
    hash_algorithm,
)

UNIT = 128
"""Bytes that the smallest allocation block has."""

_FORM = ">7B7H"
ENCODED_SIZE = struct.calcsize(_FORM)
_MAX_BLOCKS_LOG2 = 6
"""A bitmap word, and the length field of an extent pointer, cover 64 allocation blocks."""

_MAX_BYTES_LOG2 = 24
"""No block or node is larger than 16 MiB: headers are read whole before anybody vouches for these sizes."""


@dataclass(frozen=True)
class Layout:
    """Sizes and algorithms of a volume.

    Attributes:
        allocation_block_log2: allocation block, in units of 128 bytes.
        io_block_log2: IO block, in allocation blocks: a write to one never harms another.
        tree_node_log2: node of the authentication tree, in IO blocks.
        data_block_log2: unit of authentication, in allocation blocks.
        bitmap_block_log2: unit of the allocation bitmap's encryption, in allocation blocks.
        leaf_log2: leaf of the inode index, in allocation blocks.
        inner_log2: inner node of the inode index, in allocation blocks.
        node_hash: digests the nodes of the authentication tree below the root.
        data_hash: HMAC over data blocks.
        root_hash: HMAC over the root node.
        preauth_hash: HMAC of what is decrypted before the tree can vouch for it.
        kdf_hash: derives subkeys.
        cipher: encrypts everything.
    """

    allocation_block_log2: int
    io_block_log2: int
    tree_node_log2: int
    data_block_log2: int
    bitmap_block_log2: int
    leaf_log2: int
    inner_log2: int
    node_hash: HashAlgorithm
    data_hash: HashAlgorithm
    root_hash: HashAlgorithm
    preauth_hash: HashAlgorithm
    kdf_hash: HashAlgorithm
    cipher: CipherAlgorithm

    def __post_init__(self) -> None:
        for name, log2 in (
            ("an IO block", self.io_block_log2),
            ("a data block", self.data_block_log2),
            ("an index leaf", self.leaf_log2),
            ("an inner index node", self.inner_log2),
        ):
            if log2 > _MAX_BLOCKS_LOG2:
                raise VolumeUnsupported(f"layout: {name} has at most 64 allocation blocks, not 2^{log2}")
        largest = max(
            self.tree_node_log2 + self.io_block_log2,
            self.data_block_log2,
            self.bitmap_block_log2,
            self.leaf_log2,
            self.inner_log2,
        )
        if largest + self.allocation_block_log2 + 7 > _MAX_BYTES_LOG2:
            raise VolumeUnsupported("layout: blocks and nodes of more than 16 MiB are not supported here")
        digest = max(self.node_hash.digest_size, self.data_hash.digest_size)
        if self.tree_node << self.block_shift < 2 * digest:
            raise VolumeUnsupported("layout: a node of the authentication tree must hold two digests")

    @cached_property
    def block_shift(self) -> int:
        """Log2 of the allocation block in bytes."""
        return self.allocation_block_log2 + 7

    @cached_property
    def block_size(self) -> int:
        """Bytes of an allocation block."""
        return 1 << self.block_shift

    @cached_property
    def io_block(self) -> int:
        """Allocation blocks of an IO block."""
        return 1 << self.io_block_log2

    @cached_property
    def tree_node(self) -> int:
        """Allocation blocks of a node of the authentication tree."""
        return 1 << (self.tree_node_log2 + self.io_block_log2)

    @cached_property
    def data_block(self) -> int:
        """Allocation blocks of a data block."""
        return 1 << self.data_block_log2

    @cached_property
    def journal_block(self) -> int:
        """Allocation blocks of the larger of IO block and data block: the alignment of tree, journal and auxiliary."""
        return max(self.io_block, self.data_block)

    @cached_property
    def bitmap_block(self) -> int:
        """Allocation blocks of a bitmap block."""
        return 1 << self.bitmap_block_log2

    @cached_property
    def bitmap_words(self) -> int:
        """64-bit words that a bitmap block holds."""
        return ((self.bitmap_block << self.block_shift) - CIPHER_BLOCK) // 8

    @cached_property
    def leaf(self) -> int:
        """Allocation blocks of an index leaf."""
        return 1 << self.leaf_log2

    @cached_property
    def inner(self) -> int:
        """Allocation blocks of an inner index node."""
        return 1 << self.inner_log2

    @cached_property
    def integrity_size(self) -> int:
        """Bytes of an integrity section: commit id, mask, and a save area for each doubling of the IO block."""
        return 8 + 1 + 8 * (self.io_block_log2 + self.allocation_block_log2)

    def blocks(self, size: int) -> int:
        """Allocation blocks that `size` bytes take."""
        return -(-size >> self.block_shift)

    def encode(self) -> bytes:
        """The 21 bytes."""
        hashes = (self.node_hash, self.data_hash, self.root_hash, self.preauth_hash, self.kdf_hash)
        return struct.pack(
            _FORM,
            self.allocation_block_log2,
            self.io_block_log2,
            self.tree_node_log2,
            self.data_block_log2,
            self.bitmap_block_log2,
            self.leaf_log2,
            self.inner_log2,
            *(algorithm.identifier for algorithm in hashes),
            self.cipher.identifier,
            self.cipher.key_bits,
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Inverse of `encode`; raises `VolumeUnsupported` for sizes and algorithms that are not."""
        block, io, node, unit, bits, leaf, inner, *identifiers = struct.unpack(_FORM, data)
        node_hash, data_hash, root_hash, preauth_hash, kdf_hash = map(hash_algorithm, identifiers[:5])
        cipher = cipher_algorithm(*identifiers[5:])
        return cls(
            block, io, node, unit, bits, leaf, inner,
            node_hash, data_hash, root_hash, preauth_hash, kdf_hash, cipher,
        )  # fmt: skip


DEFAULT = Layout(0, 2, 1, 2, 2, 0, 0, SHA256, SHA256, SHA256, SHA256, SHA256, AES128)
"""What the reference tool makes at strength 128: 128-byte blocks, IO, data and bitmap blocks of 512, nodes of 1,024."""

_STRENGTHS = {128: (SHA256, AES128), 192: (SHA384, AES192), 256: (SHA512, AES256)}


def of_strength(bits: int, base: Layout = DEFAULT) -> Layout:
    """`base` with the algorithms that the reference tool takes at a strength of 128, 192 or 256 bits."""
    if bits not in _STRENGTHS:
        raise VolumeUnsupported(f"a strength is one of {', '.join(map(str, _STRENGTHS))}, not {bits}")
    digest, cipher = _STRENGTHS[bits]
    return replace(base, node_hash=digest, data_hash=digest, cipher=cipher)
