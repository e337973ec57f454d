"""One flipped bit: in anything that is authenticated it makes the opening fail; where nothing lies it changes nothing.

Authenticated, and flipped here bit by bit:

- the static header, all of its IO block: checksum, and the algorithms and the salt through the key;
- the mutable header's fields: root HMAC, update counter, entry leaf's HMAC and place, image size;
- all entries of the authentication tree's nodes that cover part of the image, those beyond its end (zeros) among them;
- every allocated block that the tree covers: bitmap, index, lists of extents, files.

Left out, because the format lets nothing vouch for it:

- the two pointers to auxiliary metadata in the mutable header, and the auxiliary extents: the host may change them
  without the key, by design. A flip there may make the opening fail, but never gives other files;
- what pads the mutable header to its allocation block, and a node of the tree beyond its last entry (48-byte digests
  leave room there): nobody reads it;
- the place of the journal's head while no journal is active: it counts as allocated, and what it holds is nothing.
"""

import pytest
from volumes import FIRST, files_of, format_memory, open_memory, pattern, rng

from vtpm.volume import DEFAULT, Auxiliary, VolumeError, Write, of_strength
from vtpm.volume.headers import MutableHeader
from vtpm.volume.state import exclude

SIZE = 24 << 10
SAMPLE = 1000


class Image:
    """A small volume: direct and indirect files, an index of two levels, auxiliary metadata in two groups."""

    def __init__(self, layout):
        self.disk = format_memory(SIZE, layout, auxiliary=Auxiliary(reserve=32), fill=True)
        with open_memory(self.disk) as volume:
            volume.transaction({FIRST: b"", FIRST + 1: Write(b"x", 7), FIRST + 2: pattern(300)})
            volume.transaction({FIRST + 3: pattern(8300)})
            volume.transaction({FIRST + 1: Write(pattern(100), 9)})
            self.files = files_of(volume)
            self.state = volume.state
        self.layout = layout

    def bytes_of(self, extent):
        shift = self.layout.block_shift
        return range(extent.start << shift, extent.end << shift)

    def blocks(self, bits, *, allocated):
        """Bytes of the blocks whose bits are so."""
        for block in range(bits.size):
            if bool(bits.mask(block, 1)) == allocated:
                yield from range(block * 128, (block + 1) * 128)

    def tree_entries(self):
        geometry, shape = self.state.geometry, self.state.geometry.shape
        for level in range(shape.levels):
            slots = 1 << (shape.fan_log2 if level else shape.leaf_log2)
            digest = self.layout.node_hash if level else self.layout.data_hash
            for first in range(0, geometry.data_blocks, 1 << shape.span_log2(level)):
                at = geometry.node_place(shape.number(level, first)) * 128
                yield from range(at, at + slots * digest.digest_size)

    def authenticated(self):
        static = self.state.static
        mutable = static.mutable.start * 128
        fields = range(mutable + 16, mutable + MutableHeader.size_of(self.layout))
        parts = [self.bytes_of(static.extent), fields, self.tree_entries(), self.covered()]
        return [byte for part in parts for byte in part]

    def covered(self):
        """What the tree's digests are over: all that is allocated but the fixed parts and the tree itself."""
        bits = exclude(self.state.covered, self.state.geometry.extents)
        return self.blocks(bits, allocated=True)

    def opened_with_flip(self, bit):
        """The files that a reader finds once one bit of the disk is flipped; None if opening fails."""
        content = self.disk.content
        content[bit // 8] ^= 1 << bit % 8
        try:
            with open_memory(self.disk, writable=False) as volume:
                return files_of(volume)
        except VolumeError:
            return None
        finally:
            content[bit // 8] ^= 1 << bit % 8


@pytest.fixture(scope="module")
def image():
    return Image(DEFAULT)


def bits_of(where):
    return [byte * 8 + bit for byte in where for bit in range(8)]


def sample(bits, number=SAMPLE):
    return rng(11).sample(bits, min(number, len(bits)))


def test_the_image_has_all_that_is_to_be_flipped(image):
    state = image.state
    assert state.index.node(state.index.root).level == 2
    assert state.geometry.shape.levels >= 2
    assert [bool(location.chain) for inode, location in sorted(state.locations.items()) if inode >= FIRST] == [
        False, False, False, True,
    ]  # fmt: skip
    assert len(state.auxiliary.extents) == 2


def test_a_flipped_bit_in_what_is_authenticated_makes_the_opening_fail(image):
    for bit in sample(bits_of(image.authenticated())):
        assert image.opened_with_flip(bit) is None, f"bit {bit % 8} of byte {bit // 8}"


def test_a_flipped_bit_in_an_unallocated_block_changes_nothing(image):
    free = list(image.blocks(image.state.allocated, allocated=False))
    assert len(free) > 4096
    for bit in sample(bits_of(free), 300):
        assert image.opened_with_flip(bit) == image.files, f"bit {bit % 8} of byte {bit // 8}"


def test_a_flipped_bit_where_nobody_reads_changes_nothing():
    image = Image(of_strength(192))
    state = image.state
    mutable = state.static.mutable
    padding = range(mutable.start * 128 + MutableHeader.size_of(image.layout), mutable.end * 128)
    tree = {byte for extent in state.geometry.extents for byte in image.bytes_of(extent)}
    rest = sorted(tree - set(image.tree_entries()))
    for where in (padding, image.bytes_of(state.static.journal), rest):
        assert len(where) > 0
        for bit in sample(bits_of(where), 150):
            assert image.opened_with_flip(bit) == image.files, f"bit {bit % 8} of byte {bit // 8}"
    for bit in sample(bits_of(image.authenticated()), 300):
        assert image.opened_with_flip(bit) is None, f"bit {bit % 8} of byte {bit // 8}"


def test_a_flipped_bit_in_auxiliary_metadata_never_gives_other_files(image):
    state = image.state
    for extent in state.auxiliary.extents:
        for bit in sample(bits_of(image.bytes_of(extent)), 150):
            assert image.opened_with_flip(bit) == image.files
    start = state.static.mutable.start * 128
    for bit in bits_of(range(start, start + 16)):
        assert image.opened_with_flip(bit) in (None, image.files)


@pytest.mark.slow
def test_every_flipped_bit_in_what_is_authenticated_makes_the_opening_fail(image):
    bits = bits_of(image.authenticated())
    survived = [bit for bit in bits if image.opened_with_flip(bit) is not None]
    print(
        f"{len(bits)} flips of single bits in {len(bits) // 8} authenticated bytes; {len(survived)} survived"
    )
    assert survived == []
    free = bits_of(image.blocks(image.state.allocated, allocated=False))
    changed = [bit for bit in free if image.opened_with_flip(bit) != image.files]
    print(
        f"{len(free)} flips of single bits in {len(free) // 8} unallocated bytes; {len(changed)} changed something"
    )
    assert changed == []
