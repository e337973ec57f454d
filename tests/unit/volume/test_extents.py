"""Pointers, LEB128 and extents lists."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtpm.volume.errors import VolumeDamaged
from vtpm.volume.extents import (
    NIL,
    Extent,
    Leb128,
    Pointer,
    disjoint,
    encode_block,
    encode_list,
    encode_signed,
    encode_unsigned,
    merge,
    parse_block,
    parse_list,
)

LIMIT = 1 << 20
WORD = 1 << 64


def unsigned(data):
    reader = Leb128(data, "test")
    value = reader.unsigned()
    reader.end()
    return value


def signed(data):
    reader = Leb128(data, "test")
    value = reader.signed()
    reader.end()
    return value


def disjoint_extents(draw_gaps, draw_lengths):
    extents, end = [], 1
    for gap, length in zip(draw_gaps, draw_lengths, strict=False):
        extents.append(Extent(end + gap, length))
        end = extents[-1].end
    return extents


extents_lists = st.builds(
    disjoint_extents,
    st.lists(st.integers(0, 300), max_size=30),
    st.lists(st.integers(1, 300), min_size=30, max_size=30),
).flatmap(st.permutations)


@given(st.integers(0, WORD - 1))
def test_unsigned_numbers_survive(value):
    assert unsigned(encode_unsigned(value)) == value


@given(st.integers(-(WORD >> 1), (WORD >> 1) - 1))
def test_signed_numbers_survive(value):
    assert signed(encode_signed(value)) == value


@pytest.mark.parametrize(
    ("value", "encoded"),
    # The first of each are the examples of the DWARF standard, where LEB128 comes from.
    [(2, "02"), (127, "7f"), (128, "8001"), (129, "8101"), (12857, "b964"), (WORD - 1, "ff" * 9 + "01")],
)
def test_unsigned_numbers_are_encoded_as_dwarf_has_them(value, encoded):
    assert encode_unsigned(value).hex() == encoded


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (2, "02"),
        (-2, "7e"),
        (127, "ff00"),
        (-127, "817f"),
        (128, "8001"),
        (-128, "807f"),
        (129, "8101"),
        (-129, "ff7e"),
        (-(WORD >> 1), "80" * 9 + "7f"),
        ((WORD >> 1) - 1, "ff" * 9 + "00"),
    ],
)
def test_signed_numbers_are_encoded_as_dwarf_has_them(value, encoded):
    assert encode_signed(value).hex() == encoded
    assert signed(bytes.fromhex(encoded)) == value


@pytest.mark.parametrize("value", [WORD, WORD + 1, (1 << 70) - 1])
def test_unsigned_numbers_of_more_than_64_bits_are_refused(value):
    with pytest.raises(VolumeDamaged, match="64 bits"):
        unsigned(encode_unsigned(value))


@pytest.mark.parametrize("value", [WORD >> 1, -(WORD >> 1) - 1, (1 << 69) - 1, -(1 << 69)])
def test_signed_numbers_of_more_than_64_bits_are_refused(value):
    with pytest.raises(VolumeDamaged, match="64 bits"):
        signed(encode_signed(value))


@pytest.mark.parametrize("read", [unsigned, signed])
def test_numbers_that_do_not_end_are_refused(read):
    for length in range(10):
        with pytest.raises(VolumeDamaged, match="cut off"):
            read(b"\x80" * length)
    for length in (10, 11, 1000):
        with pytest.raises(VolumeDamaged, match="does not end"):
            read(b"\x80" * length + b"\0")


def test_bytes_beyond_the_end_are_not_given():
    reader = Leb128(b"abc", "test")
    assert reader.take(2) == b"ab"
    with pytest.raises(VolumeDamaged, match="cut off"):
        reader.take(2)
    assert reader.more()
    with pytest.raises(VolumeDamaged, match="after its end"):
        reader.end()
    assert reader.take(1) == b"c"
    reader.end()


@given(extents_lists)
def test_extents_lists_survive_in_their_order(extents):
    assert parse_list(encode_list(extents), LIMIT, "test") == tuple(extents)


def test_an_extents_list_of_the_reference_kind():
    # Gap 112, length 128; back by 200 from the end at 240, length 3; the end.
    data = b"\xf0\x00\x80\x01" + b"\xb8\x7e\x03" + b"\0\0"
    assert parse_list(data, LIMIT, "test") == (Extent(112, 128), Extent(40, 3))
    assert encode_list([Extent(112, 128), Extent(40, 3)]) == data


@given(extents_lists.filter(bool), st.data())
def test_extents_that_share_a_block_are_refused(extents, data):
    one = data.draw(st.sampled_from(extents))
    start = data.draw(st.integers(one.start, one.end - 1))
    extents.insert(data.draw(st.integers(0, len(extents))), Extent(start, data.draw(st.integers(1, 400))))
    with pytest.raises(VolumeDamaged, match="overlap"):
        parse_list(encode_list(extents), LIMIT, "test")


@given(extents_lists.filter(bool), st.data())
def test_a_list_that_is_cut_off_is_refused(extents, data):
    encoded = encode_list(extents)
    with pytest.raises(VolumeDamaged):
        parse_list(encoded[: data.draw(st.integers(0, len(encoded) - 1))], LIMIT, "test")


def test_a_list_with_bytes_after_its_end_is_refused():
    with pytest.raises(VolumeDamaged, match="after its end"):
        parse_list(encode_list([Extent(1, 1)]) + b"\0", LIMIT, "test")


@pytest.mark.parametrize(
    "extent",
    [
        Extent(0, 1),
        Extent(LIMIT, 1),
        Extent(LIMIT - 1, 2),
        Extent(1, LIMIT),
        Extent(1, WORD - 1),
        Extent(WORD - 1, 1),
        Extent((WORD >> 1) - 1, 1),
    ],
)
def test_extents_outside_of_the_image_are_refused(extent):
    gap = encode_signed(extent.start if extent.start < WORD >> 1 else extent.start - WORD)
    with pytest.raises(VolumeDamaged, match="outside"):
        parse_list(gap + encode_unsigned(extent.length) + b"\0\0", LIMIT, "test")


@pytest.mark.parametrize("gap", [1, -1, 64])
def test_an_extent_of_no_length_is_refused(gap):
    with pytest.raises(VolumeDamaged, match="no length"):
        parse_list(encode_signed(gap) + b"\0" + b"\0\0", LIMIT, "test")


def test_an_extent_behind_the_beginning_of_the_disk_is_refused():
    with pytest.raises(VolumeDamaged, match="outside"):
        parse_list(b"\x10\x04" + encode_signed(-21) + b"\x01" + b"\0\0", LIMIT, "test")


@given(st.binary(max_size=40))
def test_any_bytes_are_a_list_or_damage(data):
    try:
        extents = parse_list(data, LIMIT, "test")
    except VolumeDamaged:
        return
    assert disjoint(extents)
    assert all(0 < extent.start < extent.end <= LIMIT for extent in extents)
    assert parse_list(encode_list(extents), LIMIT, "test") == extents


@given(st.integers(1, LIMIT - 64), st.integers(1, 64), st.booleans())
def test_extent_pointers_survive(start, length, indirect):
    pointer = Pointer(Extent(start, length), indirect=indirect)
    assert len(pointer.encode()) == 8
    assert Pointer.parse(pointer.encode(), LIMIT, "test") == pointer


def test_an_extent_pointer_is_what_the_format_says():
    assert Pointer(Extent(3, 64), indirect=True).encode() == (3 << 7 | 63 << 1 | 1).to_bytes(8, "little")
    assert Pointer.parse(NIL, LIMIT, "test") is None
    assert NIL == b"\xff" * 8


@given(st.integers(0, WORD - 2))
def test_an_extent_pointer_never_leaves_the_image(value):
    try:
        pointer = Pointer.parse(value.to_bytes(8, "little"), 1000, "test")
    except VolumeDamaged:
        assert not 0 < value >> 7 < (value >> 7) + (value >> 1 & 63) + 1 <= 1000
        return
    assert 0 < pointer.extent.start < pointer.extent.end <= 1000


def test_a_block_pointer_survives_and_nil_is_none():
    assert parse_block(encode_block(77), 4, 81, "test") == 77
    assert parse_block(encode_block(None), 4, 81, "test") is None
    with pytest.raises(VolumeDamaged, match="outside"):
        parse_block(encode_block(77), 5, 81, "test")
    with pytest.raises(VolumeDamaged, match="outside"):
        parse_block(encode_block(0), 1, 81, "test")


@pytest.mark.parametrize("bit", range(7))
def test_reserved_bits_in_a_block_pointer_are_refused(bit):
    with pytest.raises(VolumeDamaged, match="reserved"):
        parse_block((77 << 7 | 1 << bit).to_bytes(8, "little"), 1, LIMIT, "test")


@given(st.lists(st.builds(Extent, st.integers(1, 60), st.integers(1, 12)), max_size=12))
def test_merging_keeps_the_blocks_and_joins_neighbours(extents):
    merged = list(merge(extents))
    assert {block for extent in merged for block in extent.blocks()} == {
        block for extent in extents for block in extent.blocks()
    }
    assert all(one.end < other.start for one, other in pairwise(merged))


@given(st.lists(st.builds(Extent, st.integers(1, 60), st.integers(1, 6)), max_size=8))
def test_disjoint_says_whether_a_block_is_in_two(extents):
    blocks = [block for extent in extents for block in extent.blocks()]
    assert disjoint(extents) == (len(blocks) == len(set(blocks)))
