"""What is fuzzed of the volume's opener: each target makes something of bytes, and takes it to whoever parses it.

`run` says what must hold of all of them: nothing but `VolumeError` comes out, after little work. The parsers by
themselves are fast, and reach far into each structure; the openings show how the parts trust each other.
"""

from __future__ import annotations

import time
from uuid import UUID

from opening_targets import OPENINGS
from parser_targets import PARSERS, Target
from volume_forge import (
    SALT,
)

from vtpm.volume import DEFAULT, Auxiliary, VolumeError
from vtpm.volume.format.extents import Extent, Pointer, encode_list
from vtpm.volume.format.headers import CreationHeader, StaticHeader
from vtpm.volume.format.node import Entry, Form, Node

LONGEST = 10.0
"""Seconds of the processor's time that one input may take, with a coverage tool's instrumentation in the way."""


def run(target: Target, data: bytes) -> bool:
    """Run a target; whether it went through, rather than being refused with a `VolumeError`."""
    start = time.process_time()
    try:
        target(data)
    except VolumeError:
        return False
    finally:
        took = time.process_time() - start
        assert took < LONGEST, f"took {took:.1f} s"
    return True


TARGETS: dict[str, Target] = PARSERS | OPENINGS


def seeds() -> dict[str, list[bytes]]:
    """For each target an input that goes through, to begin with."""
    form, limit = Form(DEFAULT), 32

    def sealed(node: Node) -> bytes:
        return form.encode(node).ljust(112, b"\0")

    def entries(*blocks: int) -> list[Entry]:
        return [Entry(Pointer(Extent(block, 1))) for block in blocks]

    first = Node(1, [1, 2, 3], entries(9, 10, 3), following=2)
    second = Node(1, [16, 17, 18], entries(11, 12, 13))
    root = Node(2, [16], children=[1, 2])
    alone = Node(1, [1, 2, 3, 16], entries(9, 10, 1, 11))
    static = StaticHeader(DEFAULT, SALT).encode()
    creation = CreationHeader(DEFAULT, SALT, 64).encode()
    return {
        **{name: [b""] for name in OPENINGS},
        "header": [bytes([1])],
        "lists": [bytes([0, 0, 5])],
        "journal": [bytes([0, 0, 0, 1])],
        "node": [
            bytes([node.is_leaf]) + limit.to_bytes(3, "little") + sealed(node)
            for node in (first, second, root)
        ],
        "nodes": [sealed(first) + sealed(second) + sealed(root), sealed(alone)],
        "raw-header": [bytes([0, 0]) + static[8:], bytes([0, 1]) + creation[8:]],
        "records": [Auxiliary(((UUID(int=1), b"one"), (UUID(int=2), b"")), 1024).encode()],
        "log": [bytes([0, 0, 1, 1]), bytes([1, 0, 1, 1, 0, 1, 1])],
        "leb128": [bytes([2]) + (256).to_bytes(4, "little") + encode_list([Extent(3, 4), Extent(9, 200)])],
    }
