"""Auxiliary metadata: records, and the ring of extents that keeps them."""

from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from volumes import LAYOUTS, blank_memory, format_memory, layout, open_memory, pattern

from vtpm.volume import Auxiliary, VolumeDamaged, VolumeFull
from vtpm.volume.format.auxiliary import MOST_BYTES, plan_ring, read_ring, unwrap, wrap, write_ring
from vtpm.volume.format.extents import NIL, Extent
from vtpm.volume.format.headers import encode_auxiliary
from vtpm.volume.format.integrity import protect

LAYOUT = layout()
LIMIT = 4000
ONE, TWO, THREE = (UUID(int=number << 100) for number in (1, 2, 3))
ACTIVE, INACTIVE, REALLOCATE = 1, 0, 2

records = st.dictionaries(
    st.integers(1, (1 << 128) - 1).map(lambda i: UUID(int=i)), st.binary(max_size=200)
).map(lambda found: tuple(sorted(found.items(), key=lambda item: item[0].bytes)))
auxiliaries = st.builds(Auxiliary, records, st.none() | st.integers(0, 1 << 40))


@given(auxiliaries, st.integers(0, 300))
def test_records_survive_whatever_follows_them(auxiliary, spare):
    assert Auxiliary.parse(auxiliary.encode() + b"\xa5" * spare) == auxiliary


def test_records_are_what_the_format_says():
    encoded = Auxiliary(((ONE, b"data"),), reserve=258).encode()
    assert encoded == ONE.bytes + b"\4\0\0\0data" + bytes(16) + b"\x08\0\0\0" + (258).to_bytes(8, "little")
    assert Auxiliary().encode() == bytes(20)


@given(auxiliaries, st.data())
def test_records_that_are_cut_off_are_refused(auxiliary, data):
    encoded = auxiliary.encode()
    with pytest.raises(VolumeDamaged, match="auxiliary"):
        Auxiliary.parse(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


def test_records_out_of_order_are_refused():
    with pytest.raises(VolumeDamaged, match="out of order"):
        Auxiliary.parse(Auxiliary(((TWO, b""), (ONE, b""))).encode())


@pytest.mark.parametrize("length", [1, 4, 7, 9, 16])
def test_a_last_record_of_another_size_is_refused(length):
    with pytest.raises(VolumeDamaged, match="last record"):
        Auxiliary.parse(bytes(16) + length.to_bytes(4, "little") + bytes(length))


@given(st.binary(max_size=100))
def test_any_bytes_are_records_or_damage(data):
    try:
        auxiliary = Auxiliary.parse(data)
    except VolumeDamaged:
        return
    assert data.startswith(auxiliary.encode())


@pytest.mark.parametrize(
    ("auxiliary", "trivial"),
    [
        (Auxiliary(), True),
        (Auxiliary(reserve=0), True),
        (Auxiliary(reserve=1), False),
        (Auxiliary(((ONE, b""),)), False),
    ],
)
def test_only_nothing_with_no_reserve_needs_no_extents(auxiliary, trivial):
    assert auxiliary.trivial == trivial


@given(auxiliaries)
def test_records_beside_a_creation_header_survive(auxiliary):
    encoded = auxiliary.encode()
    wrapped = wrap(encoded, len(encoded) + 40)
    assert len(wrapped) == len(encoded) + 40
    assert unwrap(wrapped, len(encoded)) == auxiliary


def test_damaged_records_beside_a_creation_header_are_refused():
    encoded = Auxiliary(((ONE, b"data"),)).encode()
    wrapped = wrap(encoded, 128)
    for bit in range(128 * 8):
        flipped = bytearray(wrapped)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(VolumeDamaged, match="checksum"):
            unwrap(bytes(flipped), len(encoded))


def ring_of(auxiliary, given_layout=LAYOUT, start=64):
    heads, extents = plan_ring(auxiliary, given_layout, start, LIMIT)
    return heads, dict(write_ring(auxiliary, heads, extents, given_layout))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [0, 10, 1000, 20_000])
@pytest.mark.parametrize("reserve", [None, 1, 5000])
def test_a_new_ring_gives_its_records_back(name, size, reserve):
    auxiliary = Auxiliary(((ONE, pattern(size)), (TWO, b"x")), reserve)
    given_layout = LAYOUTS[name]
    heads, data = ring_of(auxiliary, given_layout)
    assert (heads[1] is None) == (reserve is None)
    room = sum(len(value) for value in data.values()) // (1 if reserve is None else 2)
    assert room >= size + (reserve or 0)
    assert all(extent.start % given_layout.journal_block == 0 for extent in data)
    ring = read_ring(heads, data.__getitem__, given_layout, LIMIT)
    assert ring.content == auxiliary
    assert ring.extents == tuple(data)


def link(place, following, after, payload, state=None):
    """One extent of a ring; with a state, the head of a group."""
    front = encode_auxiliary((following, after)) + (b"" if state is None else bytes([state]))
    data = (front + bytes(LAYOUT.integrity_size) + payload).ljust(place.length * 128, b"\0")
    return protect(data, len(front), LAYOUT, magic=0)


def two_groups(states=(ACTIVE, ACTIVE), each=3):
    """A ring of two groups with the records ONE and TWO, each in several extents at places in no order."""
    places = [Extent(start, 4) for start in (400, 80, 120, 40, 800, 200, 600, 320)][: 2 * each]
    contents = []
    for uuid in (ONE, TWO):
        encoded = Auxiliary(((uuid, pattern(400 * each, uuid.int)),), reserve=8).encode()
        first = 512 - 16 - 1 - LAYOUT.integrity_size
        rest = 512 - 16 - LAYOUT.integrity_size
        cuts = [0, *[first + i * rest for i in range(each)]]
        contents += [encoded[one:other] for one, other in pairwise(cuts)]
    data = {}
    for at, place in enumerate(places):
        state = states[at // each] if at % each == 0 else None
        following, after = places[(at + 1) % len(places)], places[(at + 2) % len(places)]
        data[place] = link(place, following, after, contents[at], state)
    return (places[0], places[each]), places, data


def held(heads, data):
    content = read_ring(heads, data.__getitem__, LAYOUT, LIMIT).content
    return None if content is None else [uuid for uuid, _ in content.records]


@pytest.mark.parametrize("each", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((ACTIVE, INACTIVE), [ONE]),
        ((INACTIVE, ACTIVE), [TWO]),
        ((ACTIVE, ACTIVE), [ONE]),
        ((REALLOCATE, INACTIVE), [ONE]),
        ((INACTIVE, REALLOCATE), [TWO]),
        ((INACTIVE, INACTIVE), None),
    ],
)
def test_the_first_active_group_counts(each, states, expected):
    heads, places, data = two_groups(states, each)
    assert held(heads, data) == expected
    assert read_ring(heads, data.__getitem__, LAYOUT, LIMIT).extents == tuple(places)


@pytest.mark.parametrize("each", [1, 2, 3, 4])
@pytest.mark.parametrize("torn_to", ["zeros", "half"])
def test_one_torn_extent_breaks_its_group_and_not_the_ring(each, torn_to):
    heads, places, data = two_groups(each=each)
    for at, place in enumerate(places):
        torn = bytes(512) if torn_to == "zeros" else data[place][:256] + bytes(256)
        ring = read_ring(heads, {**data, place: torn}.__getitem__, LAYOUT, LIMIT)
        assert ring.extents == tuple(places)
        assert [uuid for uuid, _ in ring.content.records] == [TWO if at < each else ONE]


def test_two_torn_neighbours_break_the_ring():
    heads, places, data = two_groups()
    for one, other in zip(places, [*places[1:], places[0]], strict=True):
        with pytest.raises(VolumeDamaged):
            read_ring(heads, {**data, one: bytes(512), other: bytes(512)}.__getitem__, LAYOUT, LIMIT)


def test_a_lone_group_with_a_torn_extent_has_no_content():
    heads, data = ring_of(Auxiliary(((ONE, pattern(20_000)),)))
    assert len(data) > 2
    second = list(data)[1]
    ring = read_ring(heads, {**data, second: bytes(second.length * 128)}.__getitem__, LAYOUT, LIMIT)
    assert (ring.content, ring.extents) == (None, tuple(data))


def test_a_torn_only_head_breaks_the_ring():
    heads, data = ring_of(Auxiliary(((ONE, b"data"),)))
    with pytest.raises(VolumeDamaged, match="broken"):
        read_ring(heads, lambda extent: bytes(len(data[extent])), LAYOUT, LIMIT)


def test_any_flipped_bit_in_an_extent_makes_it_torn():
    heads, data = ring_of(Auxiliary(((ONE, b"data"),), reserve=8))
    second = data[heads[1]]
    for bit in range(len(second) * 8):
        flipped = bytearray(second)
        flipped[bit // 8] ^= 1 << bit % 8
        assert held(heads, {**data, heads[1]: bytes(flipped)}) == [ONE]
    first = bytearray(data[heads[0]])
    first[300] ^= 1
    assert held(heads, {**data, heads[0]: bytes(first)}) is None


@pytest.mark.parametrize("back_to", [1, 2])
def test_a_ring_that_does_not_come_back_to_its_beginning_is_refused(back_to):
    places = [Extent(start, 4) for start in (40, 80, 120, 160)]
    data = {}
    for at, place in enumerate(places):
        following = places[at + 1] if at < 3 else places[back_to]
        data[place] = link(place, following, places[0], b"", ACTIVE if at == 0 else None)
    with pytest.raises(VolumeDamaged, match="does not close"):
        read_ring((places[0], None), data.__getitem__, LAYOUT, LIMIT)


def test_an_endless_ring_is_refused_in_bounded_time():
    reads = []

    def read(extent):
        # Extents that overlap, so that there are many more of them than fit.
        reads.append(extent)
        number = len(reads)
        following = Extent(4 + 4 * (number % 20), 4 + 4 * (number // 20 % 16))
        return link(extent, following, following, b"", ACTIVE if number == 1 else None)

    with pytest.raises(VolumeDamaged):
        read_ring((Extent(100, 4), None), read, LAYOUT, 200)
    assert len(reads) <= 52


def test_a_ring_that_runs_over_itself_is_refused():
    one, other = Extent(40, 8), Extent(44, 8)
    data = {one: link(one, other, one, b"", ACTIVE), other: link(other, one, other, b"")}
    with pytest.raises(VolumeDamaged, match="over itself"):
        read_ring((one, None), data.__getitem__, LAYOUT, LIMIT)


def test_a_ring_that_leaves_out_the_second_head_is_refused():
    heads, _, data = two_groups()
    lone = link(heads[0], heads[0], heads[0], b"", ACTIVE)
    with pytest.raises(VolumeDamaged, match="over itself"):
        read_ring(heads, {**data, heads[0]: lone}.__getitem__, LAYOUT, LIMIT)


@pytest.mark.parametrize("place", [Extent(41, 4), Extent(40, 3), Extent(42, 2)])
def test_an_extent_across_the_units_of_the_tree_is_refused(place):
    with pytest.raises(VolumeDamaged, match="aligned"):
        read_ring((place, None), lambda _: link(place, place, place, b"", ACTIVE), LAYOUT, LIMIT)


@pytest.mark.parametrize(
    "pointers",
    [NIL + NIL, encode_auxiliary((Extent(40, 4), None)), encode_auxiliary((Extent(40, 4), Extent(LIMIT, 4)))],
)
def test_an_extent_that_names_no_next_one_is_refused(pointers):
    place = Extent(40, 4)
    front = pointers + bytes([ACTIVE])
    data = protect((front + bytes(LAYOUT.integrity_size)).ljust(512, b"\0"), len(front), LAYOUT, magic=0)
    with pytest.raises(VolumeDamaged):
        read_ring((place, None), lambda _: data, LAYOUT, LIMIT)


@pytest.mark.parametrize("state", [3, 128, 255])
def test_a_group_in_an_unknown_state_is_refused(state):
    place = Extent(40, 4)
    with pytest.raises(VolumeDamaged, match="state"):
        read_ring((place, None), lambda _: link(place, place, place, b"", state), LAYOUT, LIMIT)


@pytest.mark.parametrize(
    "auxiliary", [Auxiliary(((ONE, b"wrapped key"),)), Auxiliary(((ONE, pattern(9000)),), 100)]
)
@pytest.mark.parametrize("make", [format_memory, blank_memory])
def test_a_volume_keeps_the_metadata_it_was_made_with(auxiliary, make):
    disk = make(128 << 10, auxiliary=auxiliary)
    with open_memory(disk) as volume:
        volume.transaction({16: b"x" * 3000})
        assert volume.state.auxiliary.content == auxiliary
    with open_memory(disk) as volume:
        assert volume.state.auxiliary.content == auxiliary
        assert volume.read(16) == b"x" * 3000


def test_metadata_that_were_changed_without_the_key_do_no_harm():
    auxiliary = Auxiliary(((ONE, b"one"),), reserve=200)
    disk = format_memory(128 << 10, auxiliary=auxiliary)
    with open_memory(disk) as volume:
        volume.transaction({16: b"content"})
        heads = (volume.state.auxiliary.extents[0], volume.state.auxiliary.extents[1])
        root = volume.root
    other = Auxiliary(((ONE, b"other"), (TWO, b"two")), reserve=100)
    for extent, data in write_ring(other, heads, heads, LAYOUT):
        disk.content[extent.start * 128 : extent.end * 128] = data
    with open_memory(disk) as volume:
        assert volume.state.auxiliary.content == other
        assert (volume.root, volume.read(16)) == (root, b"content")


def test_no_more_is_written_than_would_be_read_back():
    most = MOST_BYTES // 4 - len(Auxiliary((), 0).encode())
    heads, extents = plan_ring(Auxiliary((), most), LAYOUT, 64, 1 << 24)
    data = dict(write_ring(Auxiliary((), most), heads, extents, LAYOUT))
    assert read_ring(heads, data.__getitem__, LAYOUT, 1 << 24).content == Auxiliary((), most)
    with pytest.raises(VolumeFull, match="no room"):
        plan_ring(Auxiliary((), most + 1), LAYOUT, 64, 1 << 24)
