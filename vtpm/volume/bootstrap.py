"""Opening a volume: from a disk and a key to a state of which every allocated byte has been verified.

The order keeps ciphertexts that nobody has vouched for away from the cipher: first the entry leaf's HMAC, then the
tagged lists of the tree's and the bitmap's extents, then the tree under its root HMAC, then the bitmap, then the rest.
"""

from collections.abc import Callable

from cryptography.hazmat.primitives import constant_time

from vtpm.volume.device import Disk, Overlay, read_exactly
from vtpm.volume.errors import VolumeDamaged, VolumeKeyError
from vtpm.volume.format import auxiliary, bitmap, journal
from vtpm.volume.format.bitmap import Bits
from vtpm.volume.format.entities import Chain, open_block
from vtpm.volume.format.extents import Extent, disjoint, parse_list
from vtpm.volume.format.extents_list import extents_chain
from vtpm.volume.format.geometry import Geometry
from vtpm.volume.format.headers import MutableHeader, StaticHeader, parse_auxiliary
from vtpm.volume.format.index import load, parse_leaf, special_entry
from vtpm.volume.format.inodes import FIRST_FILE, INODE_BITMAP, INODE_INDEX, INODE_TREE
from vtpm.volume.format.journal import Log
from vtpm.volume.format.kdf import Keys
from vtpm.volume.format.node import PART as INDEX
from vtpm.volume.format.node import Entry, Form, Node, leaf_tag
from vtpm.volume.format.tree import RootContext, Tree
from vtpm.volume.state import Location, State, exclude
from vtpm.volume.verified import VerifiedDisk, data_blocks_of, digest


def read_log(disk: Disk, static: StaticHeader, keys: Keys) -> Log | None:
    """The journal log of a pending transaction; None if none is active.

    Raises:
        VolumeDamaged: a journal is active, and is not one that was written under this key.
    """
    layout = static.layout
    head = journal.active_head(_read(disk, static, static.journal), layout)
    if head is None:
        return None
    limit = disk.size >> layout.block_shift

    def read(extent: Extent) -> bytes:
        return head if extent == static.journal else _read(disk, static, extent)

    payload, extents = journal.chain(keys, layout).open(static.journal, read, limit)
    log = Log.parse(payload, keys, layout, limit, journal.head_auxiliary(head, layout))
    # Without these a replay that is cut off could not start over, and the volume not be opened a second time.
    kept = [static.extent, *extents]
    if not disjoint(kept + [Extent(copy.target, copy.length) for copy in log.copies]):
        raise VolumeDamaged("copies over the static header or itself", part=journal.PART)
    return log


def replayed(disk: Disk, static: StaticHeader, log: Log) -> Overlay:
    """The disk with a journal's copies made, in memory."""
    layout = static.layout
    overlay = Overlay(disk, layout.block_size)
    for copy in log.copies:
        data = _read(disk, static, Extent(copy.source, copy.length))
        if log.disguise is not None:
            parts = [data[at : at + layout.block_size] for at in range(0, len(data), layout.block_size)]
            places = [(copy.target + i, copy.source + i) for i in range(copy.length)]
            data = b"".join(log.disguise.take_off(parts, places))
        overlay.write(copy.target << layout.block_shift, data)
    return overlay


def read_state(
    disk: Disk, static: StaticHeader, keys: Keys, log: Log | None = None
) -> tuple[State, dict[int, bytes]]:
    """The state of a volume, verified, and the nodes of the tree that had to be rebuilt for it.

    Args:
        disk: with the copies of the journal made, if there is one.
        static: the volume's static header.
        keys: of the volume.
        log: the journal whose copies were made.

    Raises:
        VolumeKeyError: the volume was made under another key, or what would tell is damaged.
        VolumeDamaged: any other part is not what was written.
    """
    opening = _Opening(disk, static, keys)
    rebuilt = opening.bootstrap(log)
    return opening.finish(), rebuilt


class _Opening:
    """One opening, step by step: each method needs what the ones before it found."""

    def __init__(self, disk: Disk, static: StaticHeader, keys: Keys) -> None:
        self._disk = disk
        self._static = static
        self._layout = static.layout
        self._keys = keys
        self._form = Form(static.layout)
        data = _read(disk, static, static.mutable)
        self._header = MutableHeader.parse(data, static, disk.size >> static.layout.block_shift)
        self._limit = self._header.size

    def bootstrap(self, log: Log | None) -> dict[int, bytes]:
        """Entry leaf, tree, bitmap: all that it takes to verify anything else."""
        header, layout = self._header, self._layout
        leaf = self._entry_leaf()
        self._tree_location = self._special(leaf, INODE_TREE)
        self._bitmap_location = self._special(leaf, INODE_BITMAP)
        if log is not None and (log.tree, log.bitmap) != (
            self._tree_location.data,
            self._bitmap_location.data,
        ):
            raise VolumeDamaged("names other extents than the index", part=journal.PART)
        geometry = Geometry(layout, header.size, self._tree_location.data)
        bitmap.check_extents(layout, header.size, self._bitmap_location.data)
        nodes = b"".join(_read(self._disk, self._static, extent) for extent in geometry.extents)
        self._tree = Tree(geometry, self._keys, bytearray(nodes))
        heads = parse_auxiliary(
            header.auxiliary if log is None else log.auxiliary, self._limit, "mutable header"
        )
        self._ring = None
        if heads is not None:
            self._ring = auxiliary.read_ring(heads, self._raw, layout, self._limit)
        rebuilt = {} if log is None else self._rebuild(log)
        self._tree.apply(rebuilt)
        context = RootContext(header.counter, header.leaf, self._bitmap_location.data)
        self._tree.verify(header.root, context)
        self._allocated = self._read_bitmap()
        self._covered = exclude(self._allocated, self._fixed())
        self._verified = VerifiedDisk(self._disk, self._tree, self._covered)
        return rebuilt

    def finish(self) -> State:
        """Everything else that is allocated."""
        self._verified.check_everything()
        index = load(self._form, self._header.leaf, self._node_payload, self._limit)
        locations = {INODE_TREE: self._tree_location, INODE_BITMAP: self._bitmap_location}
        for inode, entry in index.items():
            if inode in {INODE_TREE, INODE_BITMAP, INODE_INDEX}:
                continue
            if inode < FIRST_FILE:
                raise VolumeDamaged(f"inode {inode} is reserved", part=INDEX)
            locations[inode] = self._location(inode, entry)
        state = State(
            self._static,
            self._keys,
            self._header,
            self._tree,
            self._allocated,
            self._covered,
            index,
            locations,
            self._ring,
        )
        occupied = [*self._fixed(), *index.extents()]
        for location in locations.values():
            occupied += location.all
        if not disjoint(occupied):
            raise VolumeDamaged("two things share a block", part=INDEX)
        lost = next((extent for extent in occupied if not self._allocated.all_set(extent)), None)
        if lost is not None:
            raise VolumeDamaged("holds something and is not allocated", part=bitmap.PART, block=lost.start)
        if sum(extent.length for extent in occupied) != self._allocated.count():
            raise VolumeDamaged("blocks are allocated and hold nothing", part=bitmap.PART)
        return state

    def _fixed(self) -> list[Extent]:
        return self._static.fixed(() if self._ring is None else self._ring.extents)

    def _raw(self, extent: Extent) -> bytes:
        return _read(self._disk, self._static, extent)

    def _node_payload(self, extent: Extent) -> bytes:
        return open_block(self._keys.cipher(INODE_INDEX), self._verified.read(extent))

    def _entry_leaf(self) -> Node:
        extent = Extent(self._header.leaf, self._layout.leaf)
        data = self._raw(extent)
        tag = leaf_tag(self._keys, self._layout, data)
        if not constant_time.bytes_eq(tag, self._header.leaf_tag):
            raise VolumeKeyError(
                "the volume was made under another key, or is damaged here", part=INDEX, block=extent.start
            )
        payload = open_block(self._keys.cipher(INODE_INDEX), data)
        return parse_leaf(self._form, extent.start, lambda _: payload, self._limit)

    def _special(self, leaf: Node, inode: int) -> Location:
        """Where the tree or the bitmap lies; the lists of their extents have tags."""
        entry = special_entry(leaf, inode, self._header.leaf)
        return self._follow(inode, entry, extents_chain(self._keys, self._layout, inode), self._raw)

    def _location(self, inode: int, entry: Entry) -> Location:
        return self._follow(inode, entry, extents_chain(self._keys, self._layout, inode), self._verified.read)

    def _follow(self, inode: int, entry: Entry, chain: Chain, read: Callable[[Extent], bytes]) -> Location:
        if not entry.pointer.indirect:
            return Location((entry.pointer.extent,))
        payload, extents = chain.open(entry.pointer.extent, read, self._limit)
        listed = parse_list(payload, self._limit, f"extents list of inode {inode:#x}")
        if not listed:
            raise VolumeDamaged("is empty", part=f"extents list of inode {inode:#x}")
        return Location(listed, tuple(extents))

    def _read_bitmap(self) -> Bits:
        """The bitmap, once the tree vouches for it: its data blocks are allocated by definition."""
        everything = Bits(self._limit)
        everything.fill(self._bitmap_location.data, allocated=True)
        words = bytearray()
        for extent in self._bitmap_location.data:
            data = VerifiedDisk(self._disk, self._tree, everything).read(extent)
            size = self._layout.bitmap_block << self._layout.block_shift
            for at in range(0, len(data), size):
                words += bitmap.open_bits(self._keys, self._layout, data[at : at + size])
        bits = Bits(self._limit, words)
        if any(words[len(bits.data) :]) or bits.mask(self._limit, -self._limit % 64):
            raise VolumeDamaged("bits beyond the image are set", part=bitmap.PART)
        return bits

    def _rebuild(self, log: Log) -> dict[int, bytes]:
        """The tree's nodes above the data blocks that a journal has changed."""
        geometry, shape = self._tree.geometry, self._tree.geometry.shape
        numbers = [
            geometry.data_block(block)
            for extent in log.changed
            for block in range(extent.start, extent.end, self._layout.data_block)
        ]
        span = 1 << shape.leaf_log2
        firsts = sorted({number & -span for number in numbers})
        covered = exclude(self._authenticated_fragments(log, firsts), self._fixed())
        disk = VerifiedDisk(self._disk, self._tree, covered)
        leaves: dict[int, bytes] = {}
        for first in firsts:
            node = b"".join(disk.fresh_digests(first, min(first + span, geometry.data_blocks)))
            leaves[first] = node.ljust(shape.node_size, b"\0")
        return self._tree.rebuilt(leaves)

    def _authenticated_fragments(self, log: Log, firsts: list[int]) -> Bits:
        """The parts of the bitmap that say what is allocated under these leaf nodes; the journal vouches for them."""
        geometry, layout = self._tree.geometry, self._layout
        span = 1 << geometry.shape.leaf_log2
        extents = [
            run
            for first in firsts
            for _, run in geometry.runs(first, min(first + span, geometry.data_blocks))
        ]
        needed = bitmap.blocks_covering(layout, extents)
        expected = dict(log.bitmap_digests)
        checked: dict[int, bytes] = {}
        full = (1 << layout.data_block) - 1
        bits = Bits(self._limit)
        size = layout.bitmap_words * 8
        for index in sorted(needed):
            place = bitmap.file_block(layout, self._bitmap_location.data, index)
            unit = layout.data_block
            starts = data_blocks_of(layout, place)
            first = starts.start
            for start in starts:
                if start in checked:
                    continue
                data = self._raw(Extent(start, unit))
                number = geometry.data_block(start)
                computed = digest(self._keys, layout, number, full, data)
                if not constant_time.bytes_eq(computed, expected.get(start, b"")):
                    raise VolumeDamaged("the journal does not vouch for it", part=bitmap.PART, block=start)
                checked[start] = data
            whole = b"".join(checked[start] for start in starts)
            at = (place.start - first) << layout.block_shift
            block = whole[at : at + (place.length << layout.block_shift)]
            words = bitmap.open_bits(self._keys, layout, block)
            room = len(bits.data) - index * size
            bits.data[index * size : index * size + min(size, room)] = words[:room]
        return bits


def _read(disk: Disk, static: StaticHeader, extent: Extent) -> bytes:
    """An extent's bytes as they lie there; raises `VolumeDamaged` where the disk ends before."""
    shift = static.layout.block_shift
    return read_exactly(disk, extent.start << shift, extent.length << shift)
