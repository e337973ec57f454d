"""The shape of the authentication tree, and where it and what it vouches for lie (CocoonFs, "authentication tree").

Data blocks are numbered along the image with the tree's own extents left out. A leaf node holds the HMACs of data
blocks, an inner node the digests of its children, each as many as the largest power of two that fits. Nodes are stored
depth first, parent before child; how many levels there are follows from how many nodes there are.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from vtpm.volume.errors import VolumeDamaged, VolumeUnsupported
from vtpm.volume.format.extents import Extent
from vtpm.volume.format.layout import Layout

PART = "authentication tree"
MAX_IMAGE = 1 << 34
"""Bytes of the largest image: the tree is held in memory, a sixteenth to an eighth of it."""


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


def check_size(layout: Layout, size: int) -> None:
    """Raise `VolumeUnsupported` for an image of so many blocks that its tree should not be held in memory."""
    if size << layout.block_shift > MAX_IMAGE:
        raise VolumeUnsupported(f"images of more than {MAX_IMAGE >> 30} GiB are not supported here")


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
        check_size(layout, self.size)
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
