"""Targets that take bytes to one parser by itself: fast, and far into each structure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from choosing import Chooser, xor
from volume_forge import (
    LAYOUTS,
    SECRET,
    MeteredDisk,
    base,
)
from volume_traces import chance

from vtpm.volume import DEFAULT, Auxiliary, Layout
from vtpm.volume.format import journal
from vtpm.volume.format.extents import (
    NIL,
    Extent,
    Leb128,
    encode_list,
    encode_signed,
    encode_unsigned,
    parse_list,
)
from vtpm.volume.format.headers import CREATION_MAGIC, CreationHeader, StaticHeader
from vtpm.volume.format.index import load
from vtpm.volume.format.inodes import INODE_BITMAP, INODE_TREE
from vtpm.volume.format.journal import Log
from vtpm.volume.format.kdf import MAGIC
from vtpm.volume.format.node import Form
from vtpm.volume.opening import open_disk

Target = Callable[[bytes], None]


def _leb128(data: bytes) -> None:
    """Numbers and lists of extents: what parses means the same when it is encoded again."""
    choose = Chooser(data)
    kind, limit, rest = choose.byte() % 4, choose.number(4), choose.rest()
    reader = Leb128(rest, "fuzz")
    if kind == 0:
        while reader.more():
            value = reader.unsigned()
            assert Leb128(encode_unsigned(value), "fuzz").unsigned() == value < 1 << 64
    elif kind == 1:
        while reader.more():
            value = reader.signed()
            assert Leb128(encode_signed(value), "fuzz").signed() == value
    else:
        extents = parse_list(rest, limit, "fuzz")
        assert all(extent.start > 0 and extent.length > 0 and extent.end <= limit for extent in extents)
        assert parse_list(encode_list(extents), limit, "fuzz") == extents


def _log(data: bytes) -> None:
    """The journal log's fields, with a fitting HMAC in front of the third."""
    choose = Chooser(data)
    layout = LAYOUTS[choose.byte() % len(LAYOUTS)]
    _, state = base(layout)
    limit = choose.number(2)
    payload = log_payload(choose, layout)
    log = Log.parse(payload, state.keys, layout, limit, NIL + NIL)
    again = Log.parse(log.encode(state.keys, layout), state.keys, layout, limit, NIL + NIL)
    assert again == log


def log_payload(choose: Chooser, layout: Layout) -> bytes:
    """A log's fields: raw, or a real log's with some altered, or all of the fuzzer's making."""
    _, state = base(layout)
    kind = choose.byte() % 3
    if kind == 0:
        return choose.rest()
    real = {
        1: encode_list(state.locations[INODE_TREE].data),
        2: encode_list(state.locations[INODE_BITMAP].data),
        3: _bitmap_records(layout),
        4: bytes(3),
        5: bytes(2),
    }
    altered = choose.byte()
    if choose.byte() & 1:
        real[6] = bytes(2)
    if choose.byte() & 1:
        real[7] = layout.cipher.encode() + bytes(layout.cipher.key_bits // 4)
    fields = {
        tag: xor(value, choose.take(choose.byte())) if altered >> tag & 1 else value
        for tag, value in real.items()
    }
    if 3 in fields:
        fields[3] += journal._digests_tag(state.keys, layout, fields[2], fields[3])
    return b"".join(
        encode_unsigned(tag) + encode_unsigned(len(value)) + value for tag, value in fields.items()
    )


def _bitmap_records(layout: Layout) -> bytes:
    """The digests of all of the bitmap's data blocks, as a log has them."""
    _, state = base(layout)
    records, end = b"", 0
    for extent in state.locations[INODE_BITMAP].data:
        for start in range(extent.start, extent.end, layout.data_block):
            digest = state.tree.digests(state.geometry.data_block(start), 1)[0]
            records += encode_unsigned((start - end) >> layout.data_block_log2) + digest
            end = start + layout.data_block
    return records


def _node(data: bytes) -> None:
    """An index node by itself."""
    choose = Chooser(data)
    kind, limit = choose.byte(), choose.number(3)
    layout = replace(DEFAULT, leaf_log2=kind >> 1 & 1, inner_log2=kind >> 2 & 1)
    form, leaf = Form(layout), bool(kind & 1)
    payload = choose.rest().ljust((form.length(leaf=leaf) << layout.block_shift) - 16, b"\0")
    node = form.parse(payload, 0, limit, leaf=leaf)
    assert form.parse(form.encode(node).ljust(len(payload), b"\0"), 0, limit, leaf=leaf) == node


def _nodes(data: bytes) -> None:
    """A whole index, its nodes made of the fuzzer's bytes: it is a tree or it is refused."""
    choose = Chooser(data)
    form, limit = Form(DEFAULT), 32
    payloads = {block: bytearray(choose.take(112)) for block in range(1, 5)}
    payloads[1][48:72] = b"".join(inode.to_bytes(8, "little") for inode in (1, 2, 3))
    count = 0

    def read(extent: Extent) -> bytes:
        nonlocal count
        count += 1
        assert count <= 2 * limit, "reads nodes without end"
        return bytes(payloads.get(extent.start, bytes(112)))

    index = load(form, 1, read, limit)
    inodes = [inode for inode, _ in index.items()]
    assert inodes == sorted(set(inodes))
    assert all(index.get(inode) is not None for inode in inodes)


def _records(data: bytes) -> None:
    """Auxiliary metadata by itself."""
    found = Auxiliary.parse(data)
    assert Auxiliary.parse(found.encode()) == found


def _raw_header(data: bytes) -> None:
    """Bytes at the disk's beginning as they are: headers' parsers before any checksum."""
    choose = Chooser(data)
    size = 8192 + 128 * (choose.byte() % 64)
    magic = (MAGIC, CREATION_MAGIC, b"")[choose.byte() % 3]
    disk = MeteredDisk((magic + choose.rest()).ljust(size, b"\0")[:size])
    for kind in (StaticHeader, CreationHeader):
        found = kind.parse(lambda count: disk.read(0, count))
        if found is not None:
            again = found.encode()
            assert kind.parse(lambda count, again=again: again[:count]) == found
    open_disk(disk, SECRET, entropy=chance(1).randbytes)


PARSERS: dict[str, Target] = {
    "leb128": _leb128,
    "log": _log,
    "node": _node,
    "nodes": _nodes,
    "records": _records,
    "raw-header": _raw_header,
}
