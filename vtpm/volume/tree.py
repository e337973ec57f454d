"""The authentication tree: one HMAC that vouches for every allocated byte, and for where it lies.

Data blocks are numbered along the image with the tree's own extents left out. A leaf node holds the HMACs of data
blocks, an inner node the digests of its children, each as many as the largest power of two that fits. Nodes are stored
depth first, parent before child; how many levels there are follows from how many nodes there are (CocoonFs,
"authentication tree").
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives import constant_time

from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.extents import Extent, encode_block, encode_list
from vtpm.volume.kdf import MAGIC, VERSION, Keys
from vtpm.volume.layout import Layout

PART = "authentication tree"
_IMAGE_CONTEXT = b"\x00\x01"
_ROOT_NODE = b"\x00\x02"
_INNER_NODE = b"\x00\x03"
_WORD = 1 << 64


def _largest_power(value: int) -> int:
    return value.bit_length() - 1


@dataclass(frozen=True)
class Shape:
    """How a tree of so many `nodes` branches in a `layout`."""

    layout: Layout
    nodes: int

    @cached_property
    def node_size(self) -> int:
        """Bytes of a node."""
        return self.layout.tree_node << self.layout.block_shift

    @cached_property
    def fan_log2(self) -> int:
        """Log2 of the children of an inner node."""
        return _largest_power(self.node_size) - _largest_power(2 * self.layout.node_hash.digest_size - 1)

    @cached_property
    def leaf_log2(self) -> int:
        """Log2 of the data blocks of a leaf node."""
        return _largest_power(self.node_size) - _largest_power(2 * self.layout.data_hash.digest_size - 1)

    @cached_property
    def subtrees(self) -> tuple[int, ...]:
        """Nodes of a complete subtree of one level, of two, and so on, up to the whole tree's height."""
        bits = 64 - self.leaf_log2 - self.layout.data_block_log2 + self.fan_log2
        most = -(-min(64, bits) // self.fan_log2)
        sizes = [1]
        while sizes[-1] < self.nodes and len(sizes) < most:
            sizes.append((sizes[-1] << self.fan_log2) + 1)
        return tuple(sizes)

    @property
    def levels(self) -> int:
        """Height of the tree; leaves are at level 0."""
        return len(self.subtrees)

    @cached_property
    def capacity(self) -> int:
        """Data blocks that the tree can vouch for."""
        covered, left = 0, self.nodes
        for level in range(self.levels - 1, 0, -1):
            if left <= level:
                return covered  # no path down to a leaf is whole: the rest is padding
            left -= 1
            full, left = divmod(left, self.subtrees[level - 1])
            covered += full << self.span_log2(level - 1)
        return covered + (1 << self.leaf_log2 if left else 0)

    def span_log2(self, level: int) -> int:
        """Log2 of the data blocks under a node of `level`."""
        return level * self.fan_log2 + self.leaf_log2

    def number(self, level: int, data_block: int) -> int:
        """The place in depth-first order of the node of `level` that covers `data_block`."""
        number = 0
        for above in range(self.levels - 1, level, -1):
            child = data_block >> self.span_log2(above - 1) & (1 << self.fan_log2) - 1
            number += 1 + child * self.subtrees[above - 1]
        return number


def fitting_nodes(layout: Layout, size: int) -> int:
    """Blocks of the smallest tree that can vouch for the rest of an image of `size` blocks; a whole number of units."""
    unit = max(layout.tree_node, layout.journal_block)

    def fits(units: int) -> bool:
        shape = Shape(layout, units * unit // layout.tree_node)
        return shape.capacity << layout.data_block_log2 >= size - units * unit

    low, high = 1, max(size // unit, 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low * unit


@dataclass(frozen=True)
class Geometry:
    """Where a tree and what it vouches for lie.

    Attributes:
        layout: of the volume.
        size: of the image, in allocation blocks.
        extents: of the tree.
    """

    layout: Layout
    size: int
    extents: tuple[Extent, ...]

    def __post_init__(self) -> None:
        layout = self.layout
        unit = max(layout.tree_node, layout.journal_block)
        for extent in self.extents:
            if extent.start % layout.journal_block or extent.length % unit:
                raise VolumeDamaged("an extent is not aligned", part=PART, block=extent.start)
        if self.shape.nodes == 0 or self.data_blocks > self.shape.capacity:
            raise VolumeDamaged("the tree is too small for the image", part=PART)

    @cached_property
    def shape(self) -> Shape:
        """How the tree branches."""
        return Shape(self.layout, sum(extent.length for extent in self.extents) // self.layout.tree_node)

    @cached_property
    def data_blocks(self) -> int:
        """Data blocks that the image has; the last may be partial."""
        rest = self.size - sum(extent.length for extent in self.extents)
        return -(-rest >> self.layout.data_block_log2)

    @cached_property
    def _segments(self) -> tuple[list[int], list[int], list[int]]:
        """Physical starts, physical ends and first data blocks of the ranges between the tree's extents."""
        starts, ends, firsts = [], [], []
        at = first = 0
        for extent in (*sorted(self.extents), Extent(self.size, 1)):
            if extent.start > at:
                starts.append(at)
                ends.append(extent.start)
                firsts.append(first)
                first += -(-(extent.start - at) >> self.layout.data_block_log2)
            at = extent.end
        return starts, ends, firsts

    def data_block(self, block: int) -> int:
        """Number of the data block that an allocation block outside of the tree belongs to."""
        starts, ends, firsts = self._segments
        segment = bisect_right(starts, block) - 1
        if segment < 0 or block >= ends[segment]:
            raise VolumeDamaged("lies inside the authentication tree", part="extent", block=block)
        return firsts[segment] + ((block - starts[segment]) >> self.layout.data_block_log2)

    def place(self, data_block: int) -> int:
        """The allocation block where a data block begins."""
        starts, _, firsts = self._segments
        segment = bisect_right(firsts, data_block) - 1
        return starts[segment] + ((data_block - firsts[segment]) << self.layout.data_block_log2)

    def runs(self, first: int, end: int) -> Iterator[tuple[int, Extent]]:
        """Contiguous runs of the data blocks `first` to `end`: number of the first one, and where the run lies."""
        while first < end:
            start = self.place(first)
            _, ends, _ = self._segments
            stop = ends[bisect_right(self._segments[0], start) - 1]
            length = min((end - first) << self.layout.data_block_log2, stop - start)
            yield first, Extent(start, length)
            first += -(-length >> self.layout.data_block_log2)

    def node_place(self, number: int) -> int:
        """The allocation block where a node of the tree begins."""
        logical = number * self.layout.tree_node
        for extent in self.extents:
            if logical < extent.length:
                return extent.start + logical
            logical -= extent.length
        raise AssertionError("no such node")


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
