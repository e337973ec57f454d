"""Trees and bitmaps in several extents, in no order: nobody makes such volumes today, and the format allows them."""

import pytest
from volumes import FIRST, KEY, LAYOUTS, SALT, MemoryDisk, entropy, files_of, open_memory, pattern, rng

from vtpm.volume import Auxiliary, StaticHeader, VolumeDamaged, VolumePending, Write
from vtpm.volume.format.extents import Extent
from vtpm.volume.format.kdf import Keys
from vtpm.volume.mkfs import Places, contents, places_for, write_volume

SIZE = 512 << 10


class Lost:
    """A witness that never acknowledges: what it was told of stays pending."""

    def record(self, old, new):
        raise ConnectionError

    def resolve(self, old, new):
        return True


def scattered(static, size):
    """The parts of a volume in pieces: the tree in three and the bitmap in two, last piece first, with gaps."""
    layout = static.layout
    whole = places_for(static, size, Auxiliary())
    unit = max(layout.journal_block, layout.tree_node, layout.bitmap_block)
    at = -(-whole.leaf.end // unit) * unit

    def pieces(extent, count):
        nonlocal at
        share = max(extent.length // count // unit, 1) * unit
        lengths = [share] * (count - 1)
        lengths.append(extent.length - sum(lengths))
        placed = []
        for length in lengths:
            if length > 0:
                placed.append(Extent(at, length))
                at += -(-length // unit) * unit + unit
        return tuple(reversed(placed))

    return Places(pieces(whole.tree[0], 3), None, (), pieces(whole.bitmap[0], 2), Extent(at, layout.leaf))


def scattered_disk(name):
    static = StaticHeader(LAYOUTS[name], SALT)
    size = SIZE >> static.layout.block_shift
    places = scattered(static, size)
    disk = MemoryDisk(SIZE)
    written = contents(static, Keys(KEY, static.layout, SALT), size, Auxiliary(), entropy(1), places)
    write_volume(disk, static, written, (), size, None)
    return disk, places


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_scattered_volume_works_like_any_other(name):
    disk, places = scattered_disk(name)
    random, model = rng(7), {}
    with open_memory(disk) as volume:
        assert volume.state.geometry.extents == places.tree
        assert volume.state.locations[2].data == places.bitmap
    for _ in range(12):
        changes = {
            FIRST + random.randrange(8): random.choice([None, Write(pattern(random.randrange(9000)), 5)])
            for _ in range(3)
        }
        cut = random.random() < 0.5
        volume = open_memory(disk, witness=Lost() if cut else None)
        if cut and any(change is not None or inode in volume for inode, change in changes.items()):
            with pytest.raises(VolumePending):
                volume.transaction(changes)
        else:
            volume.transaction(changes)
        volume.close()
        for inode, change in changes.items():
            model.pop(inode, None)
            if change is not None:
                model[inode] = (change.flags, change.content)
        with open_memory(disk, writable=False) as volume:
            assert files_of(volume) == model


def test_the_pieces_are_several_and_in_no_order():
    all_places = [
        scattered(StaticHeader(given, SALT), SIZE >> given.block_shift) for given in LAYOUTS.values()
    ]
    assert all(len(places.tree) > 1 and places.tree > tuple(sorted(places.tree)) for places in all_places)
    assert any(len(places.bitmap) > 1 for places in all_places)


def test_every_piece_is_verified():
    disk, places = scattered_disk("default")
    for extent in (*places.tree, *places.bitmap):
        at = extent.start << 7
        disk.content[at] ^= 1
        with pytest.raises(VolumeDamaged):
            open_memory(disk)
        disk.content[at] ^= 1
    open_memory(disk).close()
