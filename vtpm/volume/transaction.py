"""Planning a transaction: from a state and changes to everything that will be written, in the order of the writes.

Nothing is written here. New content goes to free blocks. Blocks that share an IO block with something live are not
written where they lie, since a write that is cut off would harm what lives there: such IO blocks are staged, and copied
to their place once the journal's head is durable (CocoonFs, "journal").
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from vtpm.volume.content import Content
from vtpm.volume.device import Disk
from vtpm.volume.errors import VolumeError, VolumeFull
from vtpm.volume.format import bitmap, journal
from vtpm.volume.format.bitmap import BitsDraft
from vtpm.volume.format.entities import Entropy, seal_block, seal_extents, sealed_size
from vtpm.volume.format.extents import MAX_POINTED, Extent, Pointer, encode_list
from vtpm.volume.format.extents_list import extents_chain
from vtpm.volume.format.headers import MutableHeader, seal_counter
from vtpm.volume.format.index import IndexDraft, path_to
from vtpm.volume.format.inodes import FIRST_FILE, INODE_BITMAP, INODE_INDEX
from vtpm.volume.format.node import MAX_FLAGS, Entry, leaf_tag
from vtpm.volume.pending import write_journal
from vtpm.volume.space import Space
from vtpm.volume.state import Location, State
from vtpm.volume.verified import data_blocks_of, digests

_MAX_INODE = (1 << 64) - 1
_MAX_COUNTER = 1 << 128


@dataclass(frozen=True)
class Write:
    """New content of a file, and its 8 flag bits; None keeps those that the file has, 0 for a new file."""

    content: bytes
    flags: int | None = None


Changes = Mapping[int, Write | None]
"""By inode: a `Write`, or None to remove the file."""

Writes = tuple[tuple[int, bytes], ...]
"""Byte offsets and what is written there."""


@dataclass(frozen=True)
class Plan:
    """Everything that a transaction writes, and what the state becomes by it.

    Attributes:
        prepare: new content in free blocks, staged IO blocks, and the journal log but for its head.
        head: the journal log's head.
        apply: what the journal asks for: the staged IO blocks at their targets, and the tree's changed nodes.
        header: the mutable header to be.
        adopt: makes the state, and the space, what they are once the transaction is through.
    """

    prepare: Writes
    head: bytes
    apply: Writes
    header: MutableHeader
    adopt: Callable[[], None]


def plan(state: State, space: Space, disk: Disk, changes: Changes, entropy: Entropy) -> Plan:
    """Plan a transaction.

    Args:
        state: the present one; not changed.
        space: its free blocks; not changed.
        disk: to read what shares blocks with what is written.
        changes: what to write and remove; removing what is not there changes nothing.
        entropy: random bytes by number.

    Raises:
        VolumeError: an inode or flags that the format has no place for.
        VolumeFull: no room, for the content or for the journal.
        VolumeDamaged: what is read on the way is not what was written.
    """
    return _Transaction(state, space, disk, entropy).plan(changes)


class _Transaction:
    """One transaction while it is planned."""

    def __init__(self, state: State, space: Space, disk: Disk, entropy: Entropy) -> None:
        self._state = state
        self._layout = state.static.layout
        self._disk = disk
        self._entropy = entropy
        self._base_space = space
        self._space = space.copy()
        self._allocated = BitsDraft(state.allocated)
        self._covered = BitsDraft(state.covered)
        self._taken: list[Extent] = []
        self._freed: list[Extent] = []
        self._locations: dict[int, Location | None] = {}
        self._index = IndexDraft(state.index, self._node_block)
        self._content = Content(state, disk)

    def plan(self, changes: Changes) -> Plan:
        for inode, change in changes.items():
            self._check(inode, change)
            self._change(inode, change)
        self._freed += self._index.freed
        self._space_after = self._space.copy()
        self._space_after.give_back(self._freed)
        self._keep_reserve()
        for bits in (self._allocated, self._covered):
            bits.fill(self._taken, allocated=True)
            bits.fill(self._freed, allocated=False)
        tag = self._write_index()
        self._write_bitmap()
        new_digests = self._digests()
        nodes = self._state.tree.updated(new_digests)
        header = self._header(tag, nodes)
        self._write_header(header)
        staged, direct = self._content.split()
        pending = write_journal(self._state, self._space, staged, new_digests, self._entropy)
        targets = [(block << self._layout.block_shift, data) for block, data in staged.items()]
        return Plan(
            prepare=tuple(_joined([*direct, *pending.writes])),
            head=pending.head,
            apply=tuple(_joined([*targets, *self._node_writes(nodes)])),
            header=header,
            adopt=lambda: self._adopt(header, nodes),
        )

    def _keep_reserve(self) -> None:
        """Refuse to grow into the room that the journal of a later removal needs.

        A removal stages nodes of the index, the header, and at most the whole bitmap. Its log has a digest for each of
        the bitmap's data blocks, and at most a range of two bytes for every other data block of the image.
        """
        layout, size = self._layout, self._state.header.size
        unit, path = layout.journal_block, len(path_to(self._index, _MAX_INODE))
        bits = bitmap.file_length(layout, size)
        log = bits // layout.data_block * (layout.data_hash.digest_size + 2) + (
            size >> layout.data_block_log2
        )
        room = journal.chain(self._state.keys, layout).capacity(unit, first=False)
        needed = 3 * path + 6 + -(-bits // unit) + -(-log // room)
        left = self._space_after.units(unit)
        if left < min(needed, size // unit // 16) and self._space_after.free() < self._base_space.free():
            raise VolumeFull("the volume is full but for what its journal needs")

    @staticmethod
    def _check(inode: int, change: Write | None) -> None:
        if not FIRST_FILE <= inode <= _MAX_INODE:
            raise VolumeError(
                f"inode {inode} cannot be used: files have numbers from {FIRST_FILE} to 2^64 - 1",
                rule="store.inode",
            )
        if change is not None and change.flags is not None and not 0 <= change.flags <= MAX_FLAGS:
            raise VolumeError(f"flags are a number from 0 to 255, not {change.flags}", rule="store.flags")

    def _change(self, inode: int, change: Write | None) -> None:
        """Place and encrypt the new content of a file, and free what it had."""
        old = self._state.index.get(inode)
        if old is not None:
            self._freed += self._state.locations[inode].all
        if change is None:
            if old is not None:
                self._index.remove(inode)
                self._locations[inode] = None
            return
        length = self._layout.blocks(sealed_size(len(change.content)))
        extents = self._place(length)
        sealed = seal_extents(
            self._state.keys.cipher(inode),
            change.content,
            length << self._layout.block_shift,
            self._entropy,
        )
        at = 0
        for extent in extents:
            size = extent.length << self._layout.block_shift
            self._content.write(extent, sealed[at : at + size])
            at += size
        pointer, chain = self._point_to(inode, extents)
        flags = change.flags if change.flags is not None else (old.flags if old else 0)
        self._index.put(inode, Entry(pointer, flags))
        self._locations[inode] = Location(tuple(extents), tuple(chain))

    def _place(self, length: int) -> list[Extent]:
        """Free blocks for a file: from the beginning of an IO block on, if it fills one and there is room."""
        unit = self._layout.io_block if length >= self._layout.io_block else 1
        try:
            extents = self._space.pieces(length, unit, whole=False)
        except VolumeFull:
            extents = self._space.pieces(length, 1)
        self._taken += extents
        return extents

    def _point_to(self, inode: int, extents: list[Extent]) -> tuple[Pointer, list[Extent]]:
        """The pointer to a file's only extent, or to a new list of its extents."""
        if len(extents) == 1 and extents[0].length <= MAX_POINTED:
            return Pointer(extents[0]), []
        chain = extents_chain(self._state.keys, self._layout, inode)
        payload = encode_list(extents)
        places = chain.place(len(payload), lambda length: self._space.piece(length, 1))
        self._taken += places
        for extent, data in zip(places, chain.seal(payload, places, self._entropy), strict=True):
            self._content.write(extent, data)
        return Pointer(places[0], indirect=True), places

    def _node_block(self, length: int) -> int:
        start = self._space.block(length, length)
        self._taken.append(Extent(start, length))
        return start

    def _write_index(self) -> bytes:
        """Encrypt the changed nodes; returns the entry leaf's tag."""
        tag = self._state.header.leaf_tag
        form = self._index.form
        for block, node in self._index.changed.items():
            extent = Extent(block, form.length(leaf=node.is_leaf))
            data = seal_block(
                self._state.keys.cipher(INODE_INDEX),
                form.encode(node),
                extent.length << self._layout.block_shift,
                self._entropy,
            )
            self._content.write(extent, data)
            if block == self._state.header.leaf:
                tag = leaf_tag(self._state.keys, self._layout, data)
        return tag

    def _write_bitmap(self) -> None:
        extents = self._state.locations[INODE_BITMAP].data
        for index in sorted(bitmap.blocks_covering(self._layout, [*self._taken, *self._freed])):
            data = bitmap.seal_bits(self._state.keys, self._layout, self._allocated, index, self._entropy)
            self._content.write(bitmap.file_block(self._layout, extents, index), data)

    def _digests(self) -> dict[int, bytes]:
        """New HMACs of the data blocks of which anything was written, allocated or freed."""
        layout, geometry = self._layout, self._state.geometry
        starts: set[int] = set()
        for extent in (*self._content.written(), *self._taken, *self._freed):
            starts.update(data_blocks_of(layout, extent))
        blocks = []
        for start in sorted(starts):
            mask = self._covered.mask(start, layout.data_block)
            data = self._content.read(start, layout.data_block) if mask else b""
            blocks.append((geometry.data_block(start), mask, data))
        computed = digests(self._state.keys, layout, blocks)
        return {number: digest for (number, _, _), digest in zip(blocks, computed, strict=True)}

    def _header(self, tag: bytes, nodes: Mapping[int, bytes]) -> MutableHeader:
        state = self._state
        counter = seal_counter(state.keys, (state.counter + 1) % _MAX_COUNTER)
        header = replace(state.header, counter=counter, leaf_tag=tag)
        context = replace(state.context(), counter=counter)
        return replace(header, root=state.tree.root(nodes, context))

    def _write_header(self, header: MutableHeader) -> None:
        place = self._state.static.mutable
        self._content.write(place, header.encode().ljust(place.length << self._layout.block_shift, b"\0"))

    def _node_writes(self, nodes: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
        for number, node in sorted(nodes.items()):
            yield self._state.geometry.node_place(number) << self._layout.block_shift, node

    def _adopt(self, header: MutableHeader, nodes: Mapping[int, bytes]) -> None:
        state = self._state
        state.header = header
        state.tree.apply(nodes)
        self._allocated.apply()
        self._covered.apply()
        state.index.replace(self._index)
        for inode, location in self._locations.items():
            if location is None:
                del state.locations[inode]
            else:
                state.locations[inode] = location
        self._base_space.become(self._space_after)


def _joined(writes: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The same writes in the order of their places, neighbours in one."""
    start, parts, end = 0, list[bytes](), -1
    for offset, data in sorted(writes):
        if offset != end and parts:
            yield start, b"".join(parts)
            parts = []
        start = start if parts else offset
        parts.append(data)
        end = offset + len(data)
    if parts:
        yield start, b"".join(parts)
