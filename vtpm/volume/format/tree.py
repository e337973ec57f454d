"""The authentication tree: one HMAC that vouches for every allocated byte, and for where it lies.

The tree is held in memory whole. Its root HMAC also binds the update counter, the layout, the image's size, and where
the entry leaf, the tree and the bitmap lie (CocoonFs, "authentication tree").
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives import constant_time

from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.format.extents import Extent, encode_block, encode_list
from vtpm.volume.format.geometry import PART, Geometry
from vtpm.volume.format.kdf import MAGIC, VERSION, Keys

_IMAGE_CONTEXT = b"\x00\x01"
_ROOT_NODE = b"\x00\x02"
_INNER_NODE = b"\x00\x03"
_WORD = 1 << 64


@dataclass(frozen=True)
class RootContext:
    """What the root HMAC binds beside the root node.

    Attributes:
        counter: the encrypted update counter.
        leaf: where the entry leaf lies.
        bitmap: extents of the allocation bitmap.
    """

    counter: bytes
    leaf: int
    bitmap: tuple[Extent, ...]


class Tree:
    """An authentication tree in memory: as it was read, and then as each transaction leaves it.

    Args:
        geometry: where it lies.
        keys: of the volume.
        nodes: all its nodes, back to back.
    """

    def __init__(self, geometry: Geometry, keys: Keys, nodes: bytearray) -> None:
        self.geometry = geometry
        self.nodes = nodes
        self.keys = keys
        layout, shape = geometry.layout, geometry.shape
        self._data_size = layout.data_hash.digest_size
        self._node_size = layout.node_hash.digest_size
        self._sizes = [self._data_size << shape.leaf_log2] + [self._node_size << shape.fan_log2] * (
            shape.levels - 1
        )

    def digests(self, first: int, count: int) -> list[bytes]:
        """The HMACs that the tree holds for `count` data blocks from `first` on."""
        shape, size = self.geometry.shape, self._data_size
        span = 1 << shape.leaf_log2
        found: list[bytes] = []
        while count > 0:
            entry = first & span - 1
            here = min(span - entry, count)
            at = shape.number(0, first) * shape.node_size + entry * size
            entries = bytes(self.nodes[at : at + here * size])
            found += [entries[begin : begin + size] for begin in range(0, here * size, size)]
            first, count = first + here, count - here
        return found

    def verify(self, root: bytes, context: RootContext) -> None:
        """Raise `VolumeDamaged` unless `root` vouches for every node that covers something."""
        if not constant_time.bytes_eq(self._root_digest(self._node(0), context), root):
            raise VolumeDamaged("the root HMAC does not hold", part=PART)
        for level in range(self.geometry.shape.levels - 1):
            self._verify_level(level)

    def _verify_level(self, level: int) -> None:
        shape = self.geometry.shape
        for first in range(0, self.geometry.data_blocks, 1 << shape.span_log2(level)):
            number = shape.number(level, first)
            digest = self._digest(level, first, self._node(number))
            parent = shape.number(level + 1, first) * shape.node_size
            at = parent + self._entry(level + 1, first)
            if self.nodes[at : at + self._node_size] != digest:
                place = self.geometry.node_place(number)
                raise VolumeDamaged("a node does not fit its parent", part=PART, block=place)

    def updated(self, digests: Mapping[int, bytes]) -> dict[int, bytes]:
        """The nodes that change, by number, when these data blocks get these HMACs; nothing is changed here."""
        shape, changed = self.geometry.shape, dict[int, bytearray]()
        touched = self._put(0, digests.items(), self._data_size, changed)
        for level in range(1, shape.levels):
            below = level - 1
            entries = [
                (first, self._digest(below, first, changed[shape.number(below, first)])) for first in touched
            ]
            touched = self._put(level, entries, self._node_size, changed)
        return {number: bytes(node) for number, node in changed.items()}

    def _put(
        self, level: int, entries: Iterable[tuple[int, bytes]], size: int, changed: dict[int, bytearray]
    ) -> list[int]:
        """Put entries into nodes of `level`; returns the first data block under each touched node."""
        shape = self.geometry.shape
        span = shape.span_log2(level)
        nodes: dict[int, bytearray] = {}
        for data_block, digest in entries:
            node = nodes.get(data_block >> span)
            if node is None:
                number = shape.number(level, data_block)
                node = changed[number] = nodes[data_block >> span] = bytearray(self._node(number))
            at = self._entry(level, data_block)
            node[at : at + size] = digest
        return [first << span for first in nodes]

    def rebuilt(self, leaves: Mapping[int, bytes]) -> dict[int, bytes]:
        """The nodes that change, by number, when the leaf nodes that begin with these data blocks are these.

        Unlike `updated` it believes nothing of the nodes above them: those may be half written, and their entries are
        computed from all of their children.
        """
        shape = self.geometry.shape
        changed = {shape.number(0, first): node for first, node in leaves.items()}
        touched = set(leaves)
        for level in range(1, shape.levels):
            span, below = shape.span_log2(level), shape.span_log2(level - 1)
            touched = {first >> span << span for first in touched}
            for first in touched:
                node = bytearray(shape.node_size)
                for child in range(first, min(first + (1 << span), self.geometry.data_blocks), 1 << below):
                    number = shape.number(level - 1, child)
                    at = self._entry(level, child)
                    digest = self._digest(level - 1, child, changed.get(number) or self._node(number))
                    node[at : at + self._node_size] = digest
                changed[shape.number(level, first)] = bytes(node)
        return changed

    def root(self, changed: Mapping[int, bytes], context: RootContext) -> bytes:
        """The root HMAC of the tree with these nodes changed."""
        return self._root_digest(changed.get(0) or self._node(0), context)

    def apply(self, changed: Mapping[int, bytes]) -> None:
        """Make the change that `updated` computed."""
        size = self.geometry.shape.node_size
        for number, node in changed.items():
            self.nodes[number * size : (number + 1) * size] = node

    def _node(self, number: int) -> memoryview:
        size = self.geometry.shape.node_size
        return memoryview(self.nodes)[number * size : (number + 1) * size]

    def _entry(self, level: int, data_block: int) -> int:
        """Byte offset, in its node of `level`, of the entry that covers a data block."""
        shape = self.geometry.shape
        if level == 0:
            return (data_block & (1 << shape.leaf_log2) - 1) * self._data_size
        return (data_block >> shape.span_log2(level - 1) & (1 << shape.fan_log2) - 1) * self._node_size

    def _last_entry(self, level: int, first: int) -> bytes:
        """The first data block under the last entry of a node: it says where the node stands in the tree."""
        shape = self.geometry.shape
        entry = 0 if level == 0 else shape.span_log2(level - 1)
        last = first + (1 << shape.span_log2(level)) - (1 << entry)
        return (last % _WORD).to_bytes(8, "little")

    def _digest(self, level: int, first: int, node: memoryview | bytearray | bytes) -> bytes:
        entries = memoryview(node)[: self._sizes[level]]
        hash_algorithm = self.geometry.layout.node_hash
        return hash_algorithm.digest(entries, self._last_entry(level, first), _INNER_NODE)

    def _root_digest(self, node: memoryview | bytes, context: RootContext) -> bytes:
        geometry, mac = self.geometry, self.keys.tree_root
        image = mac.digest(
            MAGIC,
            VERSION,
            geometry.layout.encode(),
            encode_block(context.leaf),
            geometry.size.to_bytes(8, "little"),
            encode_list(geometry.extents),
            encode_list(context.bitmap),
            _IMAGE_CONTEXT,
        )
        top = geometry.shape.levels - 1
        return mac.digest(
            memoryview(node)[: self._sizes[top]], self._last_entry(top, 0), context.counter, image, _ROOT_NODE
        )
