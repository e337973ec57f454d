"""A second, independent implementation of the log's mathematics: Merkle trees and signed notes.

RFC 6962, section 2.1 (hashes, audit paths), as recursion over the leaves, just as the RFC writes it; C2SP signed-note
and tlog-checkpoint for the text around a root. Nothing of the CA's own code is used.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_ED25519 = 1
_DASH = "\u2014 "


class LogFault(Exception):
    """The log does not say what a log must say."""


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A Merkle tree over all leaves, kept in memory; `root` may ask for any earlier size."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._hashes = [leaf_hash(data) for data in leaves]
        self._known: dict[tuple[int, int], bytes] = {}

    def __len__(self) -> int:
        return len(self._hashes)

    def leaf(self, position: int) -> bytes:
        return self._hashes[position]

    def root(self, size: int) -> bytes:
        """MTH of the first `size` leaves."""
        return self._mth(0, size)

    def node(self, level: int, position: int) -> bytes:
        """Hash of a complete subtree of 2**level leaves."""
        return self._mth(position << level, (position + 1) << level)

    def _mth(self, begin: int, end: int) -> bytes:
        count = end - begin
        if count == 0:
            return hashlib.sha256(b"").digest()
        if count == 1:
            return self._hashes[begin]
        found = self._known.get((begin, end))
        if found is None:
            split = begin + _largest_power_below(count)
            found = node_hash(self._mth(begin, split), self._mth(split, end))
            if count & (count - 1) == 0:
                self._known[begin, end] = found
        return found

    def path(self, position: int, size: int) -> list[bytes]:
        """PATH of one leaf in the tree of the first `size` leaves."""
        return self._path(position, 0, size)

    def _path(self, position: int, begin: int, end: int) -> list[bytes]:
        if end - begin == 1:
            return []
        split = begin + _largest_power_below(end - begin)
        if position < split:
            return [*self._path(position, begin, split), self._mth(split, end)]
        return [*self._path(position, split, end), self._mth(begin, split)]


def _largest_power_below(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1


def root_of_path(leaf: bytes, position: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that an audit path leads to from a leaf's hash; `LogFault` if it has another length than it must."""
    if not 0 <= position < size:
        raise LogFault(f"position {position} is not in a tree of {size}")
    if size == 1:
        if path:
            raise LogFault("the path is too long")
        return leaf
    if not path:
        raise LogFault("the path is too short")
    split = _largest_power_below(size)
    if position < split:
        return node_hash(root_of_path(leaf, position, split, path[:-1]), path[-1])
    return node_hash(path[-1], root_of_path(leaf, position - split, size - split, path[:-1]))


@dataclass(frozen=True)
class Checkpoint:
    origin: str
    size: int
    root: bytes


@dataclass(frozen=True)
class Verifier:
    """A verifier key of C2SP signed-note, for Ed25519."""

    name: str
    key_hash: bytes
    key: bytes

    @classmethod
    def of(cls, name: str, key: bytes) -> "Verifier":
        """The verifier key for an Ed25519 public key of 32 bytes."""
        key_hash = hashlib.sha256(name.encode() + b"\n" + bytes([_ED25519]) + key).digest()[:4]
        return cls(name, key_hash, key)

    def open(self, note: str) -> Checkpoint:
        """The checkpoint in a note that this key has signed; raises `LogFault`."""
        text, _, signatures = note.rpartition("\n\n")
        text += "\n"
        for line in signatures.splitlines():
            name, _, encoded = line.removeprefix(_DASH).rpartition(" ")
            raw = base64.b64decode(encoded, validate=True)
            if line.startswith(_DASH) and name == self.name and raw[:4] == self.key_hash:
                try:
                    Ed25519PublicKey.from_public_bytes(self.key).verify(raw[4:], text.encode())
                except InvalidSignature:
                    raise LogFault("the checkpoint's signature is wrong") from None
                break
        else:
            raise LogFault("the log's key did not sign the checkpoint")
        origin, size, root = text.split("\n")[:3]
        if size != str(int(size)) or origin != self.name:
            raise LogFault("the checkpoint is not well-formed, or of another log")
        return Checkpoint(origin, int(size), base64.b64decode(root, validate=True))
