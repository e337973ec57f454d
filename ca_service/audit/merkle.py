"""The log's tree as it grows: what a writer keeps, and which hashes a proof is made of.

A *place* is (level, position): the root of the complete subtree over the leaves from ``position << level`` on,
``1 << level`` of them. Level 0 are the leaves. Only complete subtrees are ever stored, so nothing stored ever changes;
every other hash of RFC 6962 folds out of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property
from vtpm.wire.merkle import (
    EMPTY_ROOT,
    HASH_SIZE,
    MAX_TREE_SIZE,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

Place = tuple[int, int]
"""Level and position of a complete subtree."""

Node = tuple[int, int, bytes]
"""A place with its hash, 32 bytes."""


@frozen
class Frontier:
    """All that is needed to let a tree grow: its size and the roots of its complete subtrees.

    Attributes:
        size: leaves of the tree.
        hashes: roots of the subtrees that make it up, largest first: one per set bit of `size`.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_TREE_SIZE or len(self.hashes) != self.size.bit_count():
            raise ValueError("a frontier has one hash per set bit of its size")
        if not set(map(len, self.hashes)) <= {HASH_SIZE}:
            raise ValueError(f"a hash has {HASH_SIZE} bytes")

    def append(self, *leaves: bytes) -> tuple["Frontier", tuple[Node, ...]]:
        """Let the tree grow.

        Args:
            leaves: hashes of the new leaves, in their order.

        Returns:
            The new frontier, and the subtrees that each leaf completed, the leaf itself first.
        """
        size, hashes, nodes = self.size, list(self.hashes), list[Node]()
        for leaf in leaves:
            hash_, level, position = leaf, 0, size
            nodes.append((0, size, leaf))
            while position & 1:
                hash_, level, position = node_hash(hashes.pop(), hash_), level + 1, position >> 1
                nodes.append((level, position, hash_))
            hashes.append(hash_)
            size += 1
        return Frontier(size, tuple(hashes)), tuple(nodes)

    def root(self) -> bytes:
        """The tree's root."""
        return self._root

    @cached_property
    def _root(self) -> bytes:
        return fold(self.hashes)

    def last_paths(self, leaves: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        """The paths of the leaves that are appended here, in the tree that ends with them; the leaf's sibling first.

        They stand at the tree's right edge, so nothing else is needed, and above the subtree that holds all of them
        their paths are the same.

        Args:
            leaves: hashes of the new leaves, as for `append`.
        """
        left, row, level = list(self.hashes), list(leaves), 0
        paths = [list[bytes]() for _ in row]
        while len(row) > 1:
            first = self.size >> level
            if first & 1:
                first -= 1
                row.insert(0, left.pop())
            for position, path in enumerate(paths, self.size):
                sibling = (position >> level ^ 1) - first
                # Who stands last and alone has no sibling, and goes up as he is.
                if sibling < len(row):
                    path.append(row[sibling])
            row = [*map(node_hash, row[::2], row[1::2]), *row[len(row) & ~1 :]]
            level += 1
        return [(*path, *reversed(left)) for path in paths]

    def to_bytes(self) -> bytes:
        """The hashes one after the other; the size is kept beside them."""
        return b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> Self:
        """Inverse of `to_bytes`; raises ValueError if no tree of that size has this frontier."""
        if len(data) % HASH_SIZE:
            raise ValueError(f"a hash has {HASH_SIZE} bytes")
        return cls(size, tuple(data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)))


@frozen
class Recipe:
    """Of what a path is made: for each of its hashes the complete subtrees that fold into it, left to right."""

    hashes: tuple[tuple[Place, ...], ...]

    def places(self) -> set[Place]:
        """Everything that must be at hand."""
        return {place for places in self.hashes for place in places}

    def path(self, nodes: Mapping[Place, bytes]) -> tuple[bytes, ...]:
        """The path; raises KeyError if a hash is not at hand."""
        return tuple([fold([nodes[place] for place in places]) for places in self.hashes])


def inclusion(position: int, size: int) -> Recipe:
    """The path from a leaf to the root (RFC 6962, section 2.1.1), the leaf's sibling first.

    Raises:
        ValueError: the tree has no such leaf.
    """
    if not 0 <= position < size <= MAX_TREE_SIZE:
        raise ValueError("there is no such leaf")
    first, end, siblings = 0, size, []
    while end - first > 1:
        middle = first + _largest_power_below(end - first)
        if position < middle:
            siblings.append((middle, end))
            end = middle
        else:
            siblings.append((first, middle))
            first = middle
    return _recipe(reversed(siblings))


def consistency(old_size: int, size: int) -> Recipe:
    """The path from an older tree to the present one (RFC 6962, section 2.1.2).

    Raises:
        ValueError: the older tree is the larger one.
    """
    if not 0 <= old_size <= size <= MAX_TREE_SIZE:
        raise ValueError("the older tree is not the smaller one")
    if old_size in {0, size}:
        return Recipe(())
    first, end, parts = 0, size, []
    while end != old_size:
        middle = first + _largest_power_below(end - first)
        if old_size <= middle:
            parts.append((middle, end))
            end = middle
        else:
            parts.append((first, middle))
            first = middle
    if first:
        # Else what is left is the older tree itself, whose root the reader has.
        parts.append((first, end))
    return _recipe(reversed(parts))


def root_of(size: int) -> Recipe:
    """The root of a tree of this size, present or earlier, as the one hash of a path."""
    return Recipe((_complete(0, size),))


def nodes_in(size: int) -> int:
    """How many complete subtrees a tree of this size has, its leaves included."""
    return 2 * size - size.bit_count()


def fold(hashes: Iterable[bytes]) -> bytes:
    """Root over neighbouring complete subtrees, largest first; of none it is the empty tree's."""
    left = list(hashes)
    root = left.pop() if left else EMPTY_ROOT
    while left:
        root = node_hash(left.pop(), root)
    return root


def _complete(first: int, end: int) -> tuple[Place, ...]:
    """The complete subtrees that make up the leaves from `first` (a border of a subtree that large) to `end`."""
    places = []
    while first < end:
        level = (end - first).bit_length() - 1
        places.append((level, first >> level))
        first += 1 << level
    return tuple(places)


def _recipe(ranges: Iterable[tuple[int, int]]) -> Recipe:
    return Recipe(tuple([_complete(first, end) for first, end in ranges]))


def _largest_power_below(number: int) -> int:
    return 1 << ((number - 1).bit_length() - 1)


__all__ = [
    "EMPTY_ROOT",
    "Frontier",
    "Node",
    "Place",
    "Recipe",
    "consistency",
    "fold",
    "inclusion",
    "leaf_hash",
    "node_hash",
    "nodes_in",
    "verify_consistency",
    "verify_inclusion",
]
