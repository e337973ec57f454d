"""The allocation bitmap: equal to a set of blocks, and stored as the format has it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from volumes import KEY, LAYOUTS, SALT, entropy, layout

from vtpm.volume.bitmap import (
    Bits,
    BitsDraft,
    blocks_covering,
    check_extents,
    file_block,
    file_length,
    open_bits,
    seal_bits,
)
from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.extents import Extent
from vtpm.volume.kdf import Keys

SIZE = 300
LAYOUT = layout()
extents = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 100)).map(
    lambda pair: Extent(pair[0], min(pair[1], SIZE - pair[0]))
)
changes = st.lists(st.tuples(extents, st.booleans()), max_size=12)


def applied(done, bits, expected):
    for extent, allocated in done:
        bits.fill([extent], allocated=allocated)
        expected = expected | set(extent.blocks()) if allocated else expected - set(extent.blocks())
    return expected


def blocks_of(bits):
    return {block for block in range(bits.size) if bits.mask(block, 1)}


@given(changes)
def test_bits_equal_a_set(done):
    bits = Bits(SIZE)
    expected = applied(done, bits, set())
    assert blocks_of(bits) == expected
    assert bits.count() == len(expected)


@given(changes, st.integers(0, SIZE + 40), st.integers(1, 64))
def test_a_mask_has_the_bits_of_its_blocks_and_none_beyond_the_image(done, start, length):
    bits = Bits(SIZE)
    expected = applied(done, bits, set())
    assert bits.mask(start, length) == sum(1 << i for i in range(length) if start + i in expected)


@given(changes, st.sampled_from([1, 2, 4, 8, 16, 32, 64]), st.data())
def test_masks_are_the_mask_of_each_unit(done, unit, data):
    bits = Bits(SIZE)
    applied(done, bits, set())
    first = data.draw(st.integers(0, SIZE // unit))
    number = data.draw(st.integers(0, SIZE // unit + 2 - first))
    expected = [bits.mask((first + i) * unit, unit) for i in range(number)]
    assert bits.masks(first * unit, number, unit) == expected


@given(changes, extents)
def test_any_set_misses_nothing_and_all_set_claims_nothing(done, extent):
    bits = Bits(SIZE)
    expected = applied(done, bits, set())
    blocks = set(extent.blocks())
    assert bits.any_set(*extent) or not blocks & expected
    near = set(range(extent.start // 8 * 8, -(-extent.end // 8) * 8))
    assert not bits.any_set(*extent) or near & expected
    assert bits.all_set(extent) == (blocks <= expected)


@given(changes)
def test_clear_runs_are_the_longest_there_are(done):
    bits = Bits(SIZE)
    expected = applied(done, bits, set())
    runs = list(bits.clear_runs())
    assert {block for run in runs for block in run.blocks()} == set(range(SIZE)) - expected
    assert all(one.end < other.start for one, other in pairwise(runs))


@given(changes, changes)
def test_a_draft_equals_bits_and_leaves_those_below_alone_until_it_is_applied(before, after):
    bits = Bits(SIZE)
    applied(before, bits, set())
    expected = bits.copy()
    applied(after, expected, set())
    untouched = bytes(bits.data)
    draft = BitsDraft(bits)
    for extent, allocated in after:
        draft.fill([extent], allocated=allocated)
    for first in range(6):
        for number in (1, 2, 62):
            assert draft.words(first, number) == expected.words(first, number)
    assert [draft.mask(start, 4) for start in range(0, SIZE, 4)] == [
        expected.mask(start, 4) for start in range(0, SIZE, 4)
    ]
    assert bits.data == untouched
    draft.apply()
    assert bits.data == expected.data


def test_a_copy_is_one():
    bits = Bits(64)
    bits.copy().fill([Extent(0, 64)], allocated=True)
    assert bits.count() == 0


def test_words_are_little_endian_with_the_first_block_in_the_lowest_bit():
    bits = Bits(128)
    bits.fill([Extent(0, 1), Extent(9, 1), Extent(127, 1)], allocated=True)
    assert bits.words(0, 2) == (1 << 0 | 1 << 9 | 1 << 127).to_bytes(16, "little")


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [64, 1024, 64 * 63, 64 * 63 * 5 + 64, 100_000 * 64])
def test_the_file_has_room_for_every_bit_and_is_whole_units(name, size):
    given_layout = LAYOUTS[name]
    length = file_length(given_layout, size)
    room = length // given_layout.bitmap_block * given_layout.bitmap_words * 64
    unit = max(given_layout.data_block, given_layout.bitmap_block)
    assert room >= size
    assert length % unit == 0
    less = (length - unit) // given_layout.bitmap_block * given_layout.bitmap_words * 64
    assert less < size


def test_the_file_of_the_reference_default_takes_one_block_for_each_3968_blocks():
    assert [file_length(LAYOUT, size) for size in (2048, 62 * 64, 62 * 64 + 1, 8192)] == [4, 4, 8, 12]


@pytest.mark.parametrize("name", LAYOUTS)
def test_bits_survive_encryption_block_by_block(name):
    given_layout = LAYOUTS[name]
    keys = Keys(KEY, given_layout, SALT)
    size = given_layout.bitmap_words * 64 * 2 + 100
    bits = Bits(size)
    bits.fill([Extent(at, 3) for at in range(0, size - 3, 7)], allocated=True)
    random, words = entropy(), b""
    for index in range(3):
        data = seal_bits(keys, given_layout, bits, index, random)
        assert len(data) == given_layout.bitmap_block << given_layout.block_shift
        assert seal_bits(keys, given_layout, BitsDraft(bits), index, entropy()) == seal_bits(
            keys, given_layout, bits, index, entropy()
        )
        words += open_bits(keys, given_layout, data)
    assert words.startswith(bits.data)
    assert not any(words[len(bits.data) :])


@given(st.lists(extents, max_size=6))
def test_the_blocks_that_hold_some_bits_are_found(some):
    given_layout = layout(bitmap_block_log2=0)
    bits = given_layout.bitmap_words * 64
    wide = [Extent(extent.start * 50, extent.length * 50) for extent in some]
    expected = {block // bits for extent in wide for block in extent.blocks()}
    assert blocks_covering(given_layout, wide) == expected


def test_blocks_of_the_file_are_found_in_any_of_its_extents():
    places = [
        file_block(LAYOUT, [Extent(100, 8), Extent(40, 4), Extent(200, 4)], index) for index in range(4)
    ]
    assert places == [Extent(100, 4), Extent(104, 4), Extent(40, 4), Extent(200, 4)]


@pytest.mark.parametrize(
    ("extents", "match"),
    [
        ((Extent(4, 4),), None),
        ((Extent(8, 4), Extent(4, 4)), None),
        ((Extent(5, 4),), "aligned"),
        ((Extent(4, 5),), "aligned"),
        ((Extent(4, 2), Extent(8, 2)), "aligned"),
        ((), "too short"),
    ],
)
def test_extents_that_cannot_be_the_bitmaps_are_refused(extents, match):
    if match is None:
        check_extents(LAYOUT, 2048, extents)
        return
    with pytest.raises(VolumeDamaged, match=match):
        check_extents(LAYOUT, 2048, extents)


def test_a_bitmap_that_is_too_short_for_the_image_is_refused():
    check_extents(LAYOUT, 62 * 64, (Extent(4, 4),))
    with pytest.raises(VolumeDamaged, match="too short"):
        check_extents(LAYOUT, 62 * 64 + 4, (Extent(4, 4),))
