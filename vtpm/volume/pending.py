"""The journal of one transaction: where its staged IO blocks wait, and the log that says what is to be done with them.

The blocks are disguised, so that a disk at rest does not show by two equal blocks which of them is free.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from vtpm.volume.format import bitmap, journal
from vtpm.volume.format.disguise import Disguise
from vtpm.volume.format.entities import Entropy
from vtpm.volume.format.extents import Extent, merge
from vtpm.volume.format.inodes import INODE_BITMAP, INODE_TREE
from vtpm.volume.format.journal import Copy, Log
from vtpm.volume.space import Space
from vtpm.volume.state import State
from vtpm.volume.verified import data_blocks_of


@dataclass(frozen=True)
class Journal:
    """A journal that is ready to be written: its log's `head`, and the `writes` that must be durable before it."""

    head: bytes
    writes: tuple[tuple[int, bytes], ...]


def write_journal(
    state: State,
    space: Space,
    staged: Mapping[int, bytes],
    digests: Mapping[int, bytes],
    entropy: Entropy,
) -> Journal:
    """The journal of a transaction; nothing is written here.

    Args:
        state: before the transaction.
        space: blocks that are free before and after it; the journal takes its own from there.
        staged: new content of IO blocks in which something lives, by where they begin.
        digests: new HMACs of data blocks, by number.
        entropy: random bytes by number.

    Raises:
        VolumeFull: there is no room for it.
    """
    layout = state.static.layout
    copies = _place(space, layout.io_block, sorted(staged))
    disguise = Disguise.new(layout.cipher, entropy)
    log = Log(
        tree=state.locations[INODE_TREE].data,
        bitmap=state.locations[INODE_BITMAP].data,
        bitmap_digests=tuple(_bitmap_digests(state, digests)),
        copies=tuple(_joined(copies)),
        changed=tuple(merge(Extent(state.geometry.place(n), layout.data_block) for n in digests)),
        disguise=disguise,
        auxiliary=state.header.auxiliary,
    )
    payload = log.encode(state.keys, layout)
    chain = journal.chain(state.keys, layout)
    extents = chain.place(
        len(payload), lambda length: space.piece(length, layout.journal_block), state.static.journal
    )
    head, *tail = chain.seal(payload, extents, entropy, journal.plain_header(layout, log.auxiliary))
    writes = [
        (extent.start << layout.block_shift, data) for extent, data in zip(extents[1:], tail, strict=True)
    ]
    writes += _disguised(copies, staged, disguise, layout.block_shift)
    return Journal(journal.protect_head(head, layout), tuple(writes))


def _place(space: Space, unit: int, targets: list[int]) -> list[Copy]:
    """Free IO blocks for the staged ones."""
    places = space.pieces(len(targets) * unit, unit)
    sources = [start for place in places for start in range(place.start, place.end, unit)]
    return [Copy(target, source, unit) for target, source in zip(targets, sources, strict=True)]


def _disguised(
    copies: list[Copy], staged: Mapping[int, bytes], disguise: Disguise, shift: int
) -> list[tuple[int, bytes]]:
    """The writes of the staged blocks in their disguise."""
    blocks, pairs = [], []
    for copy in copies:
        for i in range(copy.length):
            blocks.append(staged[copy.target][i << shift : (i + 1) << shift])
            pairs.append((copy.target + i, copy.source + i))
    worn = disguise.put_on(blocks, pairs)
    return [(source << shift, data) for (_, source), data in zip(pairs, worn, strict=True)]


def _bitmap_digests(state: State, digests: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """HMACs of the bitmap's data blocks that say what is allocated under the leaf nodes that change.

    A replay computes those nodes anew, and must not decrypt a part of the bitmap that nobody vouches for.
    """
    geometry, layout = state.geometry, state.static.layout
    span = 1 << geometry.shape.leaf_log2
    runs = [
        run
        for first in {number & -span for number in digests}
        for _, run in geometry.runs(first, min(first + span, geometry.data_blocks))
    ]
    starts: set[int] = set()
    for index in bitmap.blocks_covering(layout, runs):
        place = bitmap.file_block(layout, state.locations[INODE_BITMAP].data, index)
        starts.update(data_blocks_of(layout, place))
    for start in sorted(starts):
        number = geometry.data_block(start)
        yield start, digests.get(number) or state.tree.digests(number, 1)[0]


def _joined(copies: Iterable[Copy]) -> Iterator[Copy]:
    """The same copies in the order of their targets, neighbours in one."""
    current: Copy | None = None
    for copy in copies:
        if current is None:
            current = copy
        elif (copy.target, copy.source) == (current.target + current.length, current.source + current.length):
            current = replace(current, length=current.length + copy.length)
        else:
            yield current
            current = copy
    if current is not None:
        yield current
