"""Free space: what is given out was free, is given once, and comes back."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtpm.volume.errors import VolumeFull
from vtpm.volume.format.extents import Extent
from vtpm.volume.space import Space

SIZE = 200
used = st.sets(st.integers(0, SIZE - 1), max_size=60)
units = st.sampled_from([1, 2, 4, 8])


def space_of(taken):
    runs, start = [], None
    for block in range(SIZE + 1):
        free = block < SIZE and block not in taken
        if free and start is None:
            start = block
        elif not free and start is not None:
            runs.append(Extent(start, block - start))
            start = None
    return Space(runs)


def free_blocks(space):
    runs = list(zip(space._starts, space._ends, strict=True))
    assert all(start < end for start, end in runs)
    assert all(one[1] < other[0] for one, other in pairwise(runs)), "not the longest runs"
    return {block for start, end in runs for block in range(start, end)}


def longest_at(taken, unit):
    """The most blocks that are free from a multiple of the unit on."""
    best = 0
    for start in range(0, SIZE, unit):
        end = start
        while end < SIZE and end not in taken:
            end += 1
        best = max(best, end - start)
    return best


@given(used, st.integers(1, 40), units)
def test_a_block_is_free_aligned_whole_and_given_once(taken, length, unit):
    space = space_of(taken)
    before = free_blocks(space)
    if longest_at(taken, unit) < length:
        with pytest.raises(VolumeFull):
            space.block(length, unit)
        assert free_blocks(space) == before
        return
    start = space.block(length, unit)
    got = set(range(start, start + length))
    assert start % unit == 0
    assert got <= before
    assert free_blocks(space) == before - got


@given(used, st.integers(1, 20), units, st.booleans())
def test_a_piece_is_as_long_as_is_wanted_or_the_longest_there_is(taken, number, unit, whole):
    space, length = space_of(taken), number * unit
    before = free_blocks(space)
    step = unit if whole else 1
    longest = longest_at(taken, unit) // step * step
    if not longest:
        with pytest.raises(VolumeFull):
            space.piece(length, unit, whole=whole)
        return
    piece = space.piece(length, unit, whole=whole)
    assert piece.start % unit == 0
    assert piece.length == min(length, longest)
    assert set(piece.blocks()) <= before
    assert free_blocks(space) == before - set(piece.blocks())


@given(used, st.integers(0, 40), units)
def test_pieces_are_all_or_none(taken, number, unit):
    space, length = space_of(taken), number * unit
    before, there = free_blocks(space), space.units(unit)
    try:
        pieces = space.pieces(length, unit)
    except VolumeFull:
        assert there < number
        assert free_blocks(space) == before
        return
    got = [block for piece in pieces for block in piece.blocks()]
    assert len(got) == len(set(got)) == length
    assert set(got) <= before
    assert there >= number
    assert free_blocks(space) == before - set(got)


@given(used, st.lists(st.tuples(st.integers(1, 12), units), max_size=12), st.randoms(use_true_random=False))
def test_what_is_given_back_is_free_again_in_any_order(taken, wanted, choose):
    space = space_of(taken)
    before, given_out = free_blocks(space), []
    for length, unit in wanted:
        try:
            given_out.append(Extent(space.block(length, unit), length))
        except VolumeFull:
            continue
    choose.shuffle(given_out)
    space.give_back(given_out)
    assert free_blocks(space) == before


@given(used, units)
def test_free_and_units_count_what_is_there(taken, unit):
    space = space_of(taken)
    assert space.free() == SIZE - len(taken)
    assert space.units(unit) == sum(
        not taken & set(range(start, start + unit)) for start in range(0, SIZE - unit + 1, unit)
    )


def test_a_copy_gives_its_own_and_can_be_become():
    space = space_of(set())
    copy = space.copy()
    copy.block(50, 1)
    assert space.free() == SIZE
    space.become(copy)
    copy.block(10, 1)
    assert space.free() == SIZE - 50


def test_nothing_at_all_gives_nothing():
    space = Space(())
    assert (space.free(), space.units(4), space.pieces(0, 4)) == (0, 0, [])
    for ask in (lambda: space.block(1, 1), lambda: space.piece(1, 1), lambda: space.pieces(1, 1)):
        with pytest.raises(VolumeFull):
            ask()


def test_the_first_place_that_fits_is_taken():
    assert space_of({3, 9}).block(4, 1) == 4
    assert space_of({3, 9}).block(5, 4) == 4
    assert space_of({0, 9}).block(9, 2) == 10


def test_many_pieces_are_taken_without_looking_through_all_runs_for_each():
    space = Space(Extent(start, 1) for start in range(0, 40_000, 2))
    before = time.process_time()
    taken = space.pieces(20_000, 1)
    assert sorted(taken) == [Extent(start, 1) for start in range(0, 40_000, 2)]
    assert time.process_time() - before < 10, "quadratic: minutes"
    assert space.free() == 0
