"""Targets that make a whole disk of bytes and open it: they show how the parts trust each other."""

from __future__ import annotations

from dataclasses import replace

from choosing import Chooser, xor
from parser_targets import Target, log_payload
from volume_forge import (
    DIRECT,
    INDIRECT,
    LAYOUTS,
    SALT,
    SECRET,
    SIZE,
    Forgery,
    MeteredDisk,
    base,
    use,
)
from volume_traces import chance

from vtpm.volume import Auxiliary, Layout, VolumeError
from vtpm.volume.format import auxiliary, journal
from vtpm.volume.format.extents import Extent, Pointer, encode_list, parse_list
from vtpm.volume.format.headers import CREATION_MAGIC, CreationHeader, parse_auxiliary
from vtpm.volume.format.inodes import INODE_BITMAP, INODE_TREE
from vtpm.volume.format.integrity import protect
from vtpm.volume.format.journal import Copy, Log
from vtpm.volume.format.kdf import MAGIC
from vtpm.volume.format.node import Entry, Form
from vtpm.volume.opening import open_disk


def _layout(choose: Chooser) -> Layout | bytes:
    """A layout: one that is good, or 21 bytes that differ from a good one."""
    encoded = LAYOUTS[choose.byte() % len(LAYOUTS)].encode()
    return xor(encoded, choose.take(21)) if choose.byte() & 1 else encoded


def _header(data: bytes) -> None:
    """Static and creation headers with fitting checksums, on a disk that is small."""
    choose = Chooser(data)
    creation = choose.byte() & 1
    encoded = bytes(_layout(choose))
    layout = Layout.parse(encoded)
    salt_size, version = choose.byte(), 1 ^ (choose.byte() == 255)
    sizes = choose.take(8) + xor((SIZE >> 7).to_bytes(8, "little"), choose.take(8)) if creation else b""
    front = (CREATION_MAGIC if creation else MAGIC) + bytes([version]) + encoded + sizes + bytes([salt_size])
    section = len(front)
    content = front + bytes(layout.integrity_size) + choose.rest()[:600]
    unit = layout.io_block << layout.block_shift
    if unit > SIZE:
        disk = MeteredDisk(content.ljust(SIZE, b"\0")[:SIZE])
    else:
        content = content.ljust(-(-len(content) // unit) * unit, b"\0")
        disk = MeteredDisk(protect(content, section, layout).ljust(SIZE, b"\0")[:SIZE])
    use(open_disk(disk, SECRET, entropy=chance(1).randbytes), disk)


def _creation(data: bytes) -> None:
    """First use: a creation header, and records beside it behind a fitting checksum."""
    choose = Chooser(data)
    layout = LAYOUTS[choose.byte() % len(LAYOUTS)]
    reserve = choose.number(8)
    kind = choose.byte()
    records = Auxiliary((), reserve if kind & 1 else None).encode()
    if kind & 2:
        records = choose.take(choose.byte()) + records
    size = (SIZE >> 7) ^ choose.number(2)
    header = CreationHeader(layout, SALT, size, len(records) if kind & 4 else 0)
    unit = layout.io_block << layout.block_shift
    front = header.encode() + auxiliary.wrap(records, -(-(len(records) + 8) // unit) * unit)
    disk = MeteredDisk(front.ljust(SIZE, b"\0")[:SIZE])
    use(open_disk(disk, SECRET, entropy=chance(1).randbytes), disk)


def _journal(data: bytes) -> None:
    """A pending transaction of the fuzzer's making."""
    choose = Chooser(data)
    forgery = Forgery(LAYOUTS[choose.byte() % len(LAYOUTS)])
    layout, state = forgery.layout, forgery.state
    heads = xor(state.header.auxiliary, choose.take(16)) if choose.byte() & 1 else state.header.auxiliary
    # Staged copies that are of this volume: any free place as source, any block as target.
    kind = choose.byte()
    if kind & 1:
        unit = layout.io_block
        count = choose.byte() % 4
        copies, at = [], 0
        for _ in range(count):
            target = at + choose.byte() * unit
            copies.append(Copy(target, choose.byte() * unit, unit * (1 + choose.byte() % 3)))
            at = target + copies[-1].length
        changed = []
        at = 0
        for _ in range(choose.byte() % 3):
            start = at + choose.byte() % 64 * layout.data_block
            changed.append(Extent(start, layout.data_block))
            at = changed[-1].end
        log = Log(
            tree=state.locations[INODE_TREE].data,
            bitmap=state.locations[INODE_BITMAP].data,
            bitmap_digests=_digest_pairs(layout),
            copies=tuple(copies),
            changed=tuple(changed),
            disguise=None,
            auxiliary=heads,
        )
        payload = log.encode(state.keys, layout)
    else:
        payload = log_payload(choose, layout)
    chain = journal.chain(state.keys, layout)
    spare = forgery.free()

    def take(length: int) -> Extent:
        run = (
            spare.pop(0) if spare else Extent(state.header.size - layout.journal_block, layout.journal_block)
        )
        if run.length > length:
            spare.insert(0, Extent(run.start + length, run.length - length))
        return Extent(run.start, min(run.length, length))

    where = chain.place(len(payload), take, state.static.journal)[1:]
    forgery.put_journal(payload, where, heads)
    forgery.open()


def _digest_pairs(layout: Layout) -> tuple[tuple[int, bytes], ...]:
    _, state = base(layout)
    return tuple(
        (start, state.tree.digests(state.geometry.data_block(start), 1)[0])
        for extent in state.locations[INODE_BITMAP].data
        for start in range(extent.start, extent.end, layout.data_block)
    )


def _index(data: bytes) -> None:
    """An index node altered and sealed, and the blocks that it names allocated if the fuzzer wants that."""
    choose = Chooser(data)
    forgery = Forgery(LAYOUTS[choose.byte() % len(LAYOUTS)])
    form, index = Form(forgery.layout), forgery.state.index
    blocks = sorted(extent.start for extent in index.extents())
    for _ in range(1 + choose.byte() % 3):
        block = blocks[choose.byte() % len(blocks)]
        node = index.node(block)
        payload = form.encode(node)
        change = choose.take(choose.byte() % (len(payload) + 1))
        forgery.put_node(block, xor(payload, change), form.length(leaf=node.is_leaf))
    for _ in range(choose.byte() % 3):
        forgery.allocated.fill([Extent(choose.byte(), 1)], allocated=bool(choose.byte() & 1))
    forgery.put_bits()
    forgery.seal()
    forgery.open()


def point_to(forgery: Forgery, inode: int, pointer: Pointer) -> None:
    """Have the entry of an inode name another place; the node is sealed anew."""
    form, index = Form(forgery.layout), forgery.state.index
    for extent in index.extents():
        node = index.node(extent.start)
        if node.is_leaf and inode in node.keys:
            node = node.copy()
            node.entries[node.keys.index(inode)] = Entry(pointer)
            forgery.put_node(extent.start, form.encode(node), extent.length)


def _lists(data: bytes) -> None:
    """Lists of extents: of a file, of the tree, of the bitmap; their chains too may lie anywhere."""
    choose = Chooser(data)
    forgery = Forgery(LAYOUTS[choose.byte() % len(LAYOUTS)])
    inode = (INDIRECT, INODE_TREE, INODE_BITMAP, DIRECT)[choose.byte() % 4]
    real = encode_list(forgery.state.locations[inode].data)
    kind = choose.byte()
    spare = forgery.free()[0]
    lengths = [1 + choose.byte() % 6 for _ in range(1 + choose.byte() % 3)]
    where, at = [], spare.start
    for length in lengths:
        where.append(Extent(at, length))
        at += length
    if kind & 2:  # where the fuzzer wants it, over other things or over itself
        where = [Extent(1 + choose.byte(), length) for length in lengths]
    payload = xor(real, choose.rest()) if kind & 1 else choose.rest()
    forgery.put_list(inode, payload, where)
    point_to(forgery, inode, Pointer(where[0], indirect=True))
    if kind & 4:
        forgery.allocated.fill(forgery.state.locations[inode].chain, allocated=False)
        forgery.allocated.fill(where, allocated=True)
    try:
        extents = parse_list(payload, forgery.header.size, "fuzz")
    except VolumeError:
        extents = ()
    if extents and inode == INODE_TREE:
        forgery.tree = extents
    if extents and inode == INODE_BITMAP:
        forgery.bitmap = extents
    if kind & 8:
        forgery.allocated.fill(extents, allocated=True)
    forgery.put_bits()
    forgery.seal()
    forgery.open()


def _bitmap(data: bytes) -> None:
    """Bits of the bitmap, beyond the image too."""
    choose = Chooser(data)
    forgery = Forgery(LAYOUTS[choose.byte() % len(LAYOUTS)])
    while choose.more:
        at = choose.number(2) % forgery.header.size
        length = min(1 + choose.byte() % 64, forgery.header.size - at)
        forgery.allocated.fill([Extent(at, length)], allocated=bool(choose.byte() & 1))
    forgery.put_bits()
    forgery.seal()
    forgery.open()


def _ring(data: bytes) -> None:
    """The ring of the auxiliary metadata, which anybody may alter, with fitting checksums."""
    choose = Chooser(data)
    forgery = Forgery(LAYOUTS[choose.byte() % len(LAYOUTS)])
    layout, ring = forgery.layout, forgery.state.auxiliary
    assert ring is not None
    places = list(ring.extents)
    heads = parse_auxiliary(forgery.header.auxiliary, forgery.header.size, "fuzz")
    altered = choose.byte()
    for number, place in enumerate(places):
        if not altered >> number % 8 & 1:
            continue
        head = place in heads
        pointers = [places[choose.byte() % len(places)] for _ in range(2)]
        if choose.byte() & 1:
            pointers = [Extent(1 + choose.byte(), 1 + choose.byte() % 64) for _ in range(2)]
        front = b"".join(Pointer(extent, indirect=choose.byte() == 255).encode() for extent in pointers)
        front += bytes([choose.byte() % 4]) if head else b""
        size = place.length << layout.block_shift
        content = front + bytes(layout.integrity_size) + choose.take(choose.byte())
        sealed = protect(content.ljust(size, b"\0")[:size], len(front), layout, magic=0)
        if choose.byte() & 1:
            sealed = xor(sealed, choose.take(4))
        forgery.put(place, sealed)
    if choose.byte() & 1:
        forgery.header = replace(forgery.header, auxiliary=xor(forgery.header.auxiliary, choose.take(16)))
    forgery.seal()
    forgery.open()


def _mutable(data: bytes) -> None:
    """The mutable header's fields, with a root HMAC that fits where one can."""
    choose = Chooser(data)
    forgery = Forgery(LAYOUTS[choose.byte() % len(LAYOUTS)])
    header = forgery.header
    kind = choose.byte()
    if kind & 1:
        header = replace(header, size=header.size ^ choose.number(2))
    if kind & 2:
        header = replace(header, leaf=header.leaf ^ choose.number(2))
    if kind & 4:
        header = replace(header, counter=xor(header.counter, choose.take(16)))
    if kind & 8:
        header = replace(header, auxiliary=xor(header.auxiliary, choose.take(16)))
    forgery.header = header
    forgery.seal()
    place = forgery.state.static.mutable
    if choose.byte() & 1:
        forgery.put(place, xor(forgery.bytes_at(place), choose.take(128)))
    forgery.open()


def _image(data: bytes) -> None:
    """A disk altered in some places by somebody without the key: the files are as they were, or it is refused."""
    choose = Chooser(data)
    layout = LAYOUTS[choose.byte() % len(LAYOUTS)]
    image, state = base(layout)
    altered = bytearray(image)
    while choose.more:
        at = choose.number(2) % len(altered)
        change = choose.take(1 + choose.byte() % 16)
        altered[at : at + len(change)] = xor(
            bytes(altered[at : at + len(change)]), change[: len(altered) - at]
        )
    volume = open_disk(MeteredDisk(altered), SECRET, entropy=chance(1).randbytes)
    assert volume.root == state.header.root
    original = open_disk(MeteredDisk(image), SECRET, entropy=chance(1).randbytes)
    assert {i: volume.read(i) for i in volume.inodes()} == {i: original.read(i) for i in original.inodes()}


OPENINGS: dict[str, Target] = {
    "header": _header,
    "creation": _creation,
    "journal": _journal,
    "index": _index,
    "lists": _lists,
    "bitmap": _bitmap,
    "ring": _ring,
    "mutable": _mutable,
    "image": _image,
}
