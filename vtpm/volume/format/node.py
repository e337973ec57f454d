"""The nodes of the inode index, as bytes and as values (CocoonFs, "inode index").

A leaf holds inodes with the places of their data and their flags; an inner node the keys that part its children. Inner
nodes hold (B-12)/16 keys of a payload of B bytes, as the reference has it, and not (B-12)/12, as the format document
says.
"""

import struct
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.format.algorithms import CIPHER_BLOCK
from vtpm.volume.format.extents import NIL, Pointer, encode_block, parse_block
from vtpm.volume.format.inodes import INODE_INDEX
from vtpm.volume.format.kdf import Keys
from vtpm.volume.format.layout import Layout

PART = "inode index"
MAX_FLAGS = 0xFF
_HEIGHT_LIMIT = 64
_LEAF_CONTEXT = b"\x00\x06"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Entry:
    """What the index knows of a file: where its only extent or the list of its extents is, and its 8 flag bits."""

    pointer: Pointer
    flags: int = 0


@dataclass
class Node:
    """A node: a leaf (level 1) with `entries` and the `following` leaf, or an inner node with `children`.

    The keys of a leaf are inode numbers; key i of an inner node is the least inode under child i + 1.
    """

    level: int
    keys: list[int] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    children: list[int] = field(default_factory=list)
    following: int | None = None

    def copy(self) -> "Node":
        """The same node, to be changed."""
        return Node(self.level, self.keys[:], self.entries[:], self.children[:], self.following)

    @property
    def is_leaf(self) -> bool:
        """Whether it is one."""
        return self.level == 1


@dataclass(frozen=True)
class Form:
    """Sizes of the nodes in a layout; a payload is the whole block but the IV."""

    layout: Layout

    def length(self, *, leaf: bool) -> int:
        """Allocation blocks of a node."""
        return self.layout.leaf if leaf else self.layout.inner

    def most(self, *, leaf: bool) -> int:
        """Keys that a node can hold."""
        payload = (self.length(leaf=leaf) << self.layout.block_shift) - CIPHER_BLOCK
        return (payload - 12) // (20 if leaf else 16)

    def least(self, *, leaf: bool) -> int:
        """Keys that a node other than the root must hold."""
        most = self.most(leaf=leaf)
        return -(-most // 2) if leaf else (most - 1) // 2

    def encode(self, node: Node) -> bytes:
        """A node's payload."""
        most = self.most(leaf=node.is_leaf)
        keys = struct.pack(f"<{most}Q", *node.keys, *[0] * (most - len(node.keys)))
        if node.is_leaf:
            pointers = [entry.pointer.encode() for entry in node.entries]
            flags = [entry.flags for entry in node.entries]
            front = encode_block(node.following) + b"".join(pointers).ljust(8 * most, b"\xff")
            return front + keys + struct.pack(f"<{most}II", *flags, *[0] * (most - len(flags)), node.level)
        children = b"".join(encode_block(child) for child in node.children).ljust(8 * (most + 1), b"\xff")
        return children + keys + struct.pack("<I", node.level)

    def parse(self, data: bytes, block: int, limit: int, *, leaf: bool) -> Node:
        """Inverse of `encode`; raises `VolumeDamaged`."""
        most = self.most(leaf=leaf)
        pointers = [data[at : at + 8] for at in range(0, 8 * (most + 1), 8)]
        keys = struct.unpack_from(f"<{most}Q", data, 8 * (most + 1))
        level = struct.unpack_from("<I", data, 16 * most + 8 + (4 * most if leaf else 0))[0]
        used = next((at for at, key in enumerate(keys) if not key), most)
        if any(keys[used:]) or any(one >= other for one, other in pairwise(keys[:used])) or not used:
            raise VolumeDamaged("the keys are not in order", part=PART, block=block)
        if leaf != (level == 1) or not 0 < level <= _HEIGHT_LIMIT:
            raise VolumeDamaged(f"a node of level {level} is out of place", part=PART, block=block)
        if any(pointer != NIL for pointer in pointers[used + 1 :]):
            raise VolumeDamaged("a pointer without a key", part=PART, block=block)
        if not leaf:
            length = self.length(leaf=level == 2)  # noqa: PLR2004 - the level above the leaves
            children = [parse_block(pointer, length, limit, PART) for pointer in pointers[: used + 1]]
            return Node(level, list(keys[:used]), children=_all_there(children, block))
        flags = struct.unpack_from(f"<{most}I", data, 16 * most + 8)
        if any(flag > MAX_FLAGS for flag in flags[:used]) or any(flags[used:]):
            raise VolumeDamaged("reserved flags are set", part=PART, block=block)
        found = [Pointer.parse(pointer, limit, PART) for pointer in pointers[1 : used + 1]]
        entries = [
            Entry(pointer, flag) for pointer, flag in zip(_all_there(found, block), flags, strict=False)
        ]
        following = parse_block(pointers[0], self.layout.leaf, limit, PART)
        return Node(level, list(keys[:used]), entries, following=following)


def _all_there(values: list[_T | None], block: int) -> list[_T]:
    there = [value for value in values if value is not None]
    if len(there) != len(values):
        raise VolumeDamaged("a key without a pointer", part=PART, block=block)
    return there


def leaf_tag(keys: Keys, layout: Layout, data: bytes) -> bytes:
    """HMAC over the encrypted entry leaf, as the mutable header has it: the first thing that needs the key."""
    return keys.preauth(INODE_INDEX).digest(data, layout.cipher.encode(), _LEAF_CONTEXT)
