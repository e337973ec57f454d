"""The inode index: a B+ tree from inode numbers to places and flags, held in memory (CocoonFs, "inode index").

It is changed in a draft, so that a transaction that fails leaves no trace. Nodes stay where they are when their content
changes, so the first leaf (the *entry leaf*, which always holds inodes 1 to 3) never moves.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise

from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.format.extents import Extent, Pointer
from vtpm.volume.format.inodes import INODE_BITMAP, INODE_INDEX, INODE_TREE
from vtpm.volume.format.node import PART, Entry, Form, Node


class Index:
    """A whole index in memory.

    Args:
        form: sizes of its nodes.
        entry_leaf: where the first leaf lies.
        root: where the root lies.
        nodes: all nodes, by where they lie.
    """

    def __init__(self, form: Form, entry_leaf: int, root: int, nodes: dict[int, Node]) -> None:
        self.form = form
        self.entry_leaf = entry_leaf
        self.root = root
        self._nodes = nodes

    def node(self, block: int) -> Node:
        """The node at a block."""
        return self._nodes[block]

    def get(self, inode: int) -> Entry | None:
        """The entry of an inode; None if there is none."""
        leaf = self.node(path_to(self, inode)[-1])
        at = bisect_left(leaf.keys, inode)
        return leaf.entries[at] if at < len(leaf.keys) and leaf.keys[at] == inode else None

    def items(self) -> Iterator[tuple[int, Entry]]:
        """All inodes with their entries, in ascending order."""
        block: int | None = self.entry_leaf
        while block is not None:
            leaf = self.node(block)
            yield from zip(leaf.keys, leaf.entries, strict=True)
            block = leaf.following

    def extents(self) -> Iterator[Extent]:
        """Where its nodes lie."""
        for block, node in self._nodes.items():
            yield Extent(block, self.form.length(leaf=node.is_leaf))

    def replace(self, draft: "IndexDraft") -> None:
        """Become what a draft has made of it."""
        self._nodes.update(draft.changed)
        for extent in draft.freed:
            self._nodes.pop(extent.start, None)
        self.root = draft.root


def path_to(index: "Index | IndexDraft", inode: int) -> list[int]:
    """The nodes from the root to the leaf that has, or would have, an inode."""
    path = [index.root]
    while not (node := index.node(path[-1])).is_leaf:
        path.append(node.children[bisect_right(node.keys, inode)])
    return path


def load(form: Form, entry_leaf: int, read: Callable[[Extent], bytes], limit: int) -> Index:
    """Read a whole index.

    Args:
        form: sizes of its nodes.
        entry_leaf: where the first leaf lies.
        read: gives the decrypted payload of a node.
        limit: the first block after the image.

    Raises:
        VolumeDamaged: it is no B+ tree: levels, order, fill or links are wrong, or a node is reached twice.
    """
    first = parse_leaf(form, entry_leaf, read, limit)
    root = special_entry(first, INODE_INDEX, entry_leaf).pointer
    leaf = root.extent.start == entry_leaf
    if root.indirect or root.extent.length != form.length(leaf=leaf):
        raise VolumeDamaged("the pointer to the root is none", part=PART, block=entry_leaf)
    nodes: dict[int, Node] = {entry_leaf: first}
    leaves: list[int] = []

    def visit(block: int, level: int | None, low: int, high: int) -> None:
        is_leaf = leaf if level is None else level == 1
        node = (
            first
            if block == entry_leaf and is_leaf
            else form.parse(read(Extent(block, form.length(leaf=is_leaf))), block, limit, leaf=is_leaf)
        )
        if level is not None and (node.level != level or len(node.keys) < form.least(leaf=is_leaf)):
            raise VolumeDamaged("a node has the wrong level or too few keys", part=PART, block=block)
        if node.keys[0] < low or node.keys[-1] >= high:
            raise VolumeDamaged("a node has keys that belong elsewhere", part=PART, block=block)
        if block in nodes and not (node is first and not leaves):
            raise VolumeDamaged("a node is reached twice", part=PART, block=block)
        nodes[block] = node
        if node.is_leaf:
            leaves.append(block)
            return
        bounds = [low, *node.keys, high]
        for child, (child_low, child_high) in zip(node.children, pairwise(bounds), strict=True):
            visit(child, node.level - 1, child_low, child_high)

    visit(root.extent.start, None, 1, 1 << 64)
    links = [nodes[block].following for block in leaves]
    if leaves[0] != entry_leaf or links != [*leaves[1:], None]:
        raise VolumeDamaged("the leaves are not linked in order", part=PART, block=entry_leaf)
    return Index(form, entry_leaf, root.extent.start, nodes)


def parse_leaf(form: Form, block: int, read: Callable[[Extent], bytes], limit: int) -> Node:
    """One leaf by itself; raises `VolumeDamaged`."""
    return form.parse(read(Extent(block, form.length(leaf=True))), block, limit, leaf=True)


def special_entry(leaf: Node, inode: int, block: int) -> Entry:
    """The entry of one of the inodes 1 to 3 in the entry leaf at `block`; raises `VolumeDamaged` if it is missing."""
    expected = [INODE_TREE, INODE_BITMAP, INODE_INDEX]
    if leaf.keys[: len(expected)] != expected:
        raise VolumeDamaged("the entry leaf lacks an inode that must be there", part=PART, block=block)
    return leaf.entries[inode - INODE_TREE]


class IndexDraft:
    """An index with changes on top, which become part of it only by `Index.replace`.

    Args:
        base: the index; it is not changed.
        allocate: gives the place of a new node, by its length in blocks.
    """

    def __init__(self, base: Index, allocate: Callable[[int], int]) -> None:
        self.form = base.form
        self.root = base.root
        self.changed: dict[int, Node] = {}
        self.freed: list[Extent] = []
        self._base = base
        self._allocate = allocate

    def node(self, block: int) -> Node:
        """The node at a block, as the draft has it; not to be changed."""
        return self.changed.get(block) or self._base.node(block)

    def put(self, inode: int, entry: Entry) -> None:
        """Add an inode, or give it another entry."""
        path = path_to(self, inode)
        leaf = self._own(path[-1])
        at = bisect_left(leaf.keys, inode)
        if at < len(leaf.keys) and leaf.keys[at] == inode:
            leaf.entries[at] = entry
            return
        leaf.keys.insert(at, inode)
        leaf.entries.insert(at, entry)
        while path and self._is_overfull(path[-1]):
            self._split(path)
            path.pop()

    def remove(self, inode: int) -> None:
        """Remove an inode that is there."""
        path = path_to(self, inode)
        leaf = self._own(path[-1])
        at = leaf.keys.index(inode)
        del leaf.keys[at], leaf.entries[at]
        while len(path) > 1 and self._is_underfull(path[-1]):
            self._refill(path)
            path.pop()
        top = self.node(self.root)
        if not top.is_leaf and not top.keys:
            self._free(self.root)
            self._set_root(top.children[0])

    def _is_overfull(self, block: int) -> bool:
        node = self.node(block)
        return len(node.keys) > self.form.most(leaf=node.is_leaf)

    def _is_underfull(self, block: int) -> bool:
        node = self.node(block)
        return len(node.keys) < self.form.least(leaf=node.is_leaf)

    def _own(self, block: int) -> Node:
        """The node at a block, to be changed."""
        node = self.changed.get(block)
        if node is None:
            node = self.changed[block] = self._base.node(block).copy()
        return node

    def _free(self, block: int) -> None:
        node = self.node(block)
        self.freed.append(Extent(block, self.form.length(leaf=node.is_leaf)))
        self.changed.pop(block, None)

    def _set_root(self, block: int) -> None:
        self.root = block
        length = self.form.length(leaf=self.node(block).is_leaf)
        self.put(INODE_INDEX, Entry(Pointer(Extent(block, length))))

    def _split(self, path: list[int]) -> None:
        """Move the upper half of the last node of a path into a new node, and tell its parent."""
        node = self._own(path[-1])
        half = len(node.keys) // 2
        block = self._allocate(self.form.length(leaf=node.is_leaf))
        if node.is_leaf:
            right = Node(1, node.keys[half:], node.entries[half:], following=node.following)
            separator = right.keys[0]
            node.following = block
            del node.keys[half:], node.entries[half:]
        else:
            right = Node(node.level, node.keys[half + 1 :], children=node.children[half + 1 :])
            separator = node.keys[half]
            del node.keys[half:], node.children[half + 1 :]
        self.changed[block] = right
        if len(path) > 1:
            parent = self._own(path[-2])
            at = bisect_right(parent.keys, separator)
            parent.keys.insert(at, separator)
            parent.children.insert(at + 1, block)
            return
        top = self._allocate(self.form.length(leaf=False))
        self.changed[top] = Node(node.level + 1, [separator], children=[path[-1], block])
        self._set_root(top)

    def _refill(self, path: list[int]) -> None:
        """Give the last node of a path, which has a key too few, one of a sibling's, or merge it with one."""
        parent = self._own(path[-2])
        at = parent.children.index(path[-1])
        left_at = at - 1 if at else 0
        left, right = parent.children[left_at], parent.children[left_at + 1]
        lender = self.node(left if at else right)
        if len(lender.keys) > self.form.least(leaf=lender.is_leaf):
            parent.keys[left_at] = self._shift(left, right, parent.keys[left_at], to_left=not at)
            return
        self._merge(left, right, parent.keys[left_at])
        del parent.keys[left_at], parent.children[left_at + 1]

    def _shift(self, left_block: int, right_block: int, separator: int, *, to_left: bool) -> int:
        """Move one key between siblings; returns their new separator."""
        left, right = self._own(left_block), self._own(right_block)
        source, target = (right, left) if to_left else (left, right)
        take, give = (0, len(target.keys)) if to_left else (len(source.keys) - 1, 0)
        key = source.keys.pop(take)
        if left.is_leaf:
            target.keys.insert(give, key)
            target.entries.insert(give, source.entries.pop(take))
            return right.keys[0]
        target.keys.insert(give, separator)
        child = source.children.pop(0 if to_left else -1)
        target.children.insert(len(target.children) if to_left else 0, child)
        return key

    def _merge(self, left_block: int, right_block: int, separator: int) -> None:
        left, right = self._own(left_block), self.node(right_block)
        if left.is_leaf:
            left.keys += right.keys
            left.entries += right.entries
            left.following = right.following
        else:
            left.keys += [separator, *right.keys]
            left.children += right.children
        self._free(right_block)
