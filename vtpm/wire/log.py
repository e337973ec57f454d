"""The CA's log as it crosses a border: checkpoints, and the proof that a leaf stands in the tree.

``docs/log.md`` specifies both. Whether a log is to be trusted, and which key is its, is for the reader to know.
"""

import re
from base64 import b64encode
from typing import Final, Self

from vtpm.wire.encoding import Members, b64url, b64url_array, unb64std
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.merkle import HASH_SIZE, MAX_PATH, MAX_TREE_SIZE, leaf_hash, verify_inclusion
from vtpm.wire.message_fields import bytes_element, filled_bytes
from vtpm.wire.note import VerifierKey, check_text, open_note

MAX_CHECKPOINT: Final = 4096
"""Largest checkpoint in a reply, in bytes of UTF-8."""

MAX_LEAF: Final = 2048
"""Largest leaf in a reply, in bytes."""

_DECIMAL: Final = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z")
_HEAD_LINES: Final = 3


def parse_decimal(text: str, path: str) -> int:
    """A number of leaves, or a place among them, in decimal digits without sign and leading zeros.

    Raises:
        WireError: another form, or no tree has so many leaves.
    """
    if not _DECIMAL.match(text) or int(text) > MAX_TREE_SIZE:
        raise WireError(path, f"must be a decimal number up to {MAX_TREE_SIZE}")
    return int(text)


@frozen
class Checkpoint:
    """What a log says about itself at one moment (C2SP tlog-checkpoint 1.0.0).

    Attributes:
        origin: which log it is.
        size: leaves of its tree.
        root: the tree's root, 32 bytes.
        extensions: further lines; ours have none.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def to_text(self) -> str:
        """The text of the note that the log signs."""
        root = b64encode(self.root).decode("ascii")
        return "\n".join((self.origin, str(self.size), root, *self.extensions, ""))

    @classmethod
    def parse(cls, text: str, path: str = "checkpoint") -> Self:
        """Read the text of an opened note; raises `WireError`."""
        check_text(text, path)
        lines = text.split("\n")[:-1]
        if len(lines) < _HEAD_LINES or not all(lines):
            raise WireError(path, "must be at least three lines: origin, size, root")
        root = unb64std(lines[2], f"{path}.root", size=HASH_SIZE)
        return cls(lines[0], parse_decimal(lines[1], f"{path}.size"), root, tuple(lines[3:]))


def open_checkpoint(note: bytes, key: VerifierKey, path: str = "checkpoint") -> Checkpoint:
    """The checkpoint in a signed note; the log is named as its key is.

    Raises:
        WireError: no note, not signed by this key, no checkpoint, or one of another log.
    """
    checkpoint = Checkpoint.parse(open_note(note, (key,), path), path)
    if checkpoint.origin != key.name:
        raise WireError(f"{path}.origin", "is another log than the key's")
    return checkpoint


@frozen
class Proof:
    """That a leaf stands in the tree of a checkpoint which goes along.

    Attributes:
        leaf: the leaf's bytes.
        position: its place, from 0.
        path: the audit path (RFC 6962, section 2.1.1), 32 bytes each.
    """

    leaf: bytes
    position: int
    path: tuple[bytes, ...]

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether the leaf stands there in the checkpoint's tree."""
        return verify_inclusion(
            leaf_hash(self.leaf), self.position, checkpoint.size, self.path, checkpoint.root
        )

    def text(self) -> str:
        """The object's canonical JSON."""
        return (
            f'{{"leaf":"{b64url(self.leaf)}","path":{b64url_array(self.path)},"position":"{self.position}"}}'
        )

    @classmethod
    def parse(cls, value: object, path: str) -> Self:
        """Read the object; raises `WireError`. Whether it proves anything, `holds` says."""
        members = Members(value, path)
        proof = cls(
            filled_bytes(members, "leaf", MAX_LEAF),
            parse_decimal(members.text("position", most=19), members.at("position")),
            tuple(_hash(value, path) for value, path in members.array("path", 0, MAX_PATH)),
        )
        members.end()
        return proof


def _hash(value: object, path: str) -> bytes:
    data = bytes_element(value, path, HASH_SIZE)
    if len(data) != HASH_SIZE:
        raise WireError(path, f"must be {HASH_SIZE} bytes, is {len(data)}")
    return data
