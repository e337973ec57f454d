"""Merkle trees as RFC 6962 section 2.1 defines them: hashes, and what convinces somebody who holds a root.

The verifiers are total: whatever bytes and numbers they get, they answer, and never raise. The algorithms are those
of RFC 9162 sections 2.1.3.2 and 2.1.4.2, whose trees are the same.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

HASH_SIZE: Final = 32
"""Bytes of a SHA-256."""

MAX_TREE_SIZE: Final = (1 << 63) - 1
"""Most leaves of a tree that anything here accepts."""

MAX_PATH: Final = 63
"""Longest inclusion path of such a tree, in hashes."""

EMPTY_ROOT: Final = hashlib.sha256().digest()
"""Root of the tree without leaves."""


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf: SHA-256(00 || data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: SHA-256(01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def verify_inclusion(leaf: bytes, position: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether a leaf stands at a position of the tree.

    Args:
        leaf: the leaf's hash, 32 bytes.
        position: its place, from 0.
        size: leaves of the tree.
        path: the audit path, 32 bytes each, the leaf's sibling first.
        root: root of the tree, 32 bytes.
    """
    if not 0 <= position < size <= MAX_TREE_SIZE or not _all_hashes((leaf, root, *path)):
        return False
    node, last, hash_ = position, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            hash_ = node_hash(sibling, hash_)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            hash_ = node_hash(hash_, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and hash_ == root


def verify_consistency(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]
) -> bool:
    """Whether a tree only grew: its first `old_size` leaves are those of the tree with the older root.

    Args:
        old_size: leaves of the older tree.
        new_size: leaves of the newer tree.
        old_root: root of the older tree, 32 bytes.
        new_root: root of the newer tree, 32 bytes.
        path: the consistency path, 32 bytes each; empty if the sizes are equal or the older tree is empty.
    """
    if not 0 <= old_size <= new_size <= MAX_TREE_SIZE or not _all_hashes((old_root, new_root, *path)):
        return False
    if old_size == new_size:
        return not path and old_root == new_root
    if old_size == 0:
        return not path and old_root == EMPTY_ROOT
    # The path leaves out the older root where the older tree is a complete subtree of the newer one.
    hashes = tuple(path) if old_size & (old_size - 1) else (old_root, *path)
    if not hashes:
        return False
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root


def _all_hashes(values: Sequence[bytes]) -> bool:
    return all(len(value) == HASH_SIZE for value in values)
