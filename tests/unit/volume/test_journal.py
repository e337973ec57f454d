"""The journal log: what it says survives, and what it may not say is refused."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes import KEY, LAYOUTS, SALT, entropy, layout, pattern

from vtpm.volume.errors import VolumeDamaged, VolumeKeyError, VolumeUnsupported
from vtpm.volume.format import journal
from vtpm.volume.format.disguise import Disguise
from vtpm.volume.format.extents import NIL, Extent, encode_signed, encode_unsigned
from vtpm.volume.format.headers import StaticHeader
from vtpm.volume.format.journal import Copy, Log
from vtpm.volume.format.kdf import Keys

LAYOUT = layout()
KEYS = Keys(KEY, LAYOUT, SALT)
LIMIT = 4000
AUXILIARY = NIL * 2
TREE, BITMAP, DIGESTS, COPIES, CHANGED, TRIM, DISGUISE = range(1, 8)

LOG = Log(
    tree=(Extent(12, 128), Extent(600, 64)),
    bitmap=(Extent(164, 4), Extent(200, 8)),
    bitmap_digests=((164, bytes(32)), (204, b"d" * 32)),
    copies=(Copy(4, 1000, 4), Copy(164, 1004, 4), Copy(400, 900, 40)),
    changed=(Extent(4, 4), Extent(164, 8), Extent(1000, 4)),
    disguise=Disguise.new(LAYOUT.cipher, entropy()),
    auxiliary=AUXILIARY,
)


def parse(data, keys=KEYS, given_layout=LAYOUT, limit=LIMIT):
    return Log.parse(data, keys, given_layout, limit, AUXILIARY)


def fields_of(log=LOG, given_layout=LAYOUT, keys=KEYS):
    """The fields of an encoded log, in their order."""
    data, fields = log.encode(keys, given_layout), {}
    while data:
        tag, size, shift, at = data[0], 0, 0, 1
        while True:
            size |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 128:
                break
        fields[tag], data = data[at : at + size], data[at + size :]
    return fields


def encoded(fields):
    return b"".join(encode_unsigned(tag) + encode_unsigned(len(value)) + value for tag, value in fields)


def altered(**changes):
    """The log with the encoding of some fields replaced; None takes one out."""
    fields = fields_of() | {globals()[name]: value for name, value in changes.items()}
    return encoded((tag, value) for tag, value in sorted(fields.items()) if value is not None)


def with_digests(records, keys=KEYS, bitmap=None):
    """Any records of the bitmap's digests under an HMAC that holds."""
    bitmap = fields_of()[BITMAP] if bitmap is None else bitmap
    return records + journal._digests_tag(keys, LAYOUT, bitmap, records)


def build_ranges(pairs, unit):
    ranges, end = [], 0
    for gap, length in pairs:
        ranges.append(Extent(end + gap * unit, length * unit))
        end = ranges[-1].end
    return tuple(ranges)


def build_copies(pairs, unit, at):
    # Sources in the opposite order of the targets, so that their gaps go back.
    targets, sources = build_ranges(pairs, unit), {}
    for target in reversed(targets):
        sources[target] = at
        at += target.length
    return tuple(Copy(target.start, sources[target], target.length) for target in targets)


pairs = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9)), max_size=8)


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=25)
@given(copies=pairs, changed=pairs, digests=pairs, disguised=st.booleans())
def test_a_log_survives(name, copies, changed, digests, disguised):
    given_layout = LAYOUTS[name]
    keys = Keys(KEY, given_layout, SALT)
    size = given_layout.data_hash.digest_size
    log = Log(
        tree=(Extent(64, 128),),
        bitmap=(Extent(1 << 20, 64), Extent(1 << 18, 64)),
        bitmap_digests=tuple(
            (extent.start, pattern(size, extent.start))
            for extent in build_ranges(digests, given_layout.data_block)
        ),
        copies=build_copies(copies, given_layout.io_block, 1 << 21),
        changed=build_ranges(changed, given_layout.data_block),
        disguise=Disguise.new(given_layout.cipher, entropy()) if disguised else None,
        auxiliary=AUXILIARY,
    )
    assert parse(log.encode(keys, given_layout), keys, given_layout, 1 << 22) == log


def test_the_log_that_is_changed_below_is_one():
    assert parse(altered()) == LOG


@pytest.mark.parametrize("name", ["TREE", "BITMAP", "DIGESTS", "COPIES", "CHANGED"])
def test_a_missing_field_is_refused(name):
    with pytest.raises(VolumeDamaged, match="missing"):
        parse(altered(**{name: None}))


def test_trimming_and_disguise_may_be_missing():
    assert parse(altered(DISGUISE=None)) == replace(LOG, disguise=None)
    assert parse(altered(TRIM=b"\x05\x02\0\0")) == LOG


@pytest.mark.parametrize("tag", [0, 8, 127, 1 << 40])
def test_an_unknown_field_is_refused(tag):
    with pytest.raises(VolumeDamaged, match="unknown or out of order"):
        parse(altered() + encoded([(tag, b"")]))


def test_fields_out_of_order_or_twice_are_refused():
    fields = list(fields_of().items())
    for at in range(len(fields) - 1):
        swapped = [*fields[:at], fields[at + 1], fields[at], *fields[at + 2 :]]
        twice = [*fields[: at + 1], *fields[at:]]
        for wrong in (swapped, twice):
            with pytest.raises(VolumeDamaged, match="out of order"):
                parse(encoded(wrong))


def test_a_log_that_is_cut_off_anywhere_is_refused():
    data = replace(LOG, disguise=None).encode(KEYS, LAYOUT)
    for cut in range(len(data)):
        with pytest.raises(VolumeDamaged):
            parse(data[:cut])


@pytest.mark.parametrize("tag", [TREE, BITMAP, COPIES, CHANGED])
def test_bytes_after_the_end_of_a_field_are_refused(tag):
    fields = fields_of()
    fields[tag] += b"\0"
    fields[DIGESTS] = with_digests(fields[DIGESTS][:-32], bitmap=fields[BITMAP])
    with pytest.raises(VolumeDamaged, match="after its end"):
        parse(encoded(fields.items()))


def test_a_flipped_bit_in_the_bitmaps_extents_or_digests_is_refused():
    fields = fields_of()
    for tag in (BITMAP, DIGESTS):
        for bit in range(len(fields[tag]) * 8):
            flipped = bytearray(fields[tag])
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(VolumeDamaged):
                parse(encoded((fields | {tag: bytes(flipped)}).items()))


def test_digests_of_another_key_or_layout_are_refused():
    for keys, given_layout in (
        (Keys(b"another", LAYOUT, SALT), LAYOUT),
        (KEYS, layout(leaf_log2=1)),
    ):
        with pytest.raises(VolumeDamaged, match="HMAC"):
            parse(altered(), keys, given_layout)


@pytest.mark.parametrize("size", [0, 1, 31])
def test_a_digests_field_without_room_for_its_hmac_is_refused(size):
    with pytest.raises(VolumeDamaged, match="HMAC"):
        parse(altered(DIGESTS=bytes(size)))


@pytest.mark.parametrize(
    ("records", "match"),
    [
        (b"\x01" + bytes(31), "cut off"),
        (encode_unsigned(1000) + bytes(32), "beyond the disk"),
        (encode_unsigned(999) + bytes(32) + b"\0" + bytes(32), "beyond the disk"),
        (b"\xff" * 9 + b"\x01" + bytes(32), "beyond the disk"),
        (b"\x80" * 10, "does not end"),
    ],
)
def test_authentic_digests_that_make_no_sense_are_refused(records, match):
    with pytest.raises(VolumeDamaged, match=match):
        parse(altered(DIGESTS=with_digests(records)))


def copies_field(*copies, end=b"\0\0\0"):
    """Gaps and lengths in IO blocks, as they stand in the field."""
    return b"".join(encode_unsigned(t) + encode_signed(s) + encode_unsigned(n) for t, s, n in copies) + end


@pytest.mark.parametrize(
    ("field", "match"),
    [
        (copies_field((1, 100, 0)), "nothing"),
        (copies_field((0, 100, 0)), "nothing"),
        (copies_field((999, 100, 2)), "beyond"),
        (copies_field((1, 999, 2)), "beyond"),
        (copies_field((1, -1, 1)), "beyond"),
        (copies_field(((1 << 64) - 1, 1, 1)), "beyond"),
        (copies_field((1, 100, 1 << 63)), "beyond"),
        (copies_field((1, 100, 1), end=b""), "cut off"),
        (copies_field((1, 100, 1), end=b"\0\0"), "cut off"),
    ],
)
def test_copies_of_nothing_or_beyond_the_disk_are_refused(field, match):
    with pytest.raises(VolumeDamaged, match=match):
        parse(altered(COPIES=field))


@pytest.mark.parametrize(
    "field",
    [
        copies_field((1, 100, 2), (0, -2, 1)),
        copies_field((1, 100, 2), (0, -1, 1)),
        copies_field((1, 2, 2)),
        copies_field((1, 100, 4), (93, 0, 4)),
        copies_field((10, 100, 4), (10, -4, 4)),
        copies_field((10, 100, 4), (10, -94, 2)),
        copies_field((50, 100, 4), (50, -60, 8)),
    ],
)
def test_copies_that_overlap_are_refused(field):
    with pytest.raises(VolumeDamaged, match="overlap"):
        parse(altered(COPIES=field))


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(-12, 30), st.integers(1, 5)), max_size=6))
def test_no_copy_reads_or_writes_what_another_one_writes(gaps):
    try:
        log = parse(altered(COPIES=copies_field(*gaps)), limit=LIMIT)
    except VolumeDamaged:
        return
    touched = [Extent(copy.target, copy.length) for copy in log.copies]
    touched += [Extent(copy.source, copy.length) for copy in log.copies]
    assert all(one.end <= other.start for one, other in pairwise(sorted(touched)))


@pytest.mark.parametrize("tag", ["CHANGED", "TRIM"])
@pytest.mark.parametrize(
    ("field", "match"),
    [
        (b"\x01\0\0\0", "nothing"),
        (encode_unsigned(1000) + b"\x02\0\0", "beyond"),
        (b"\x01" + encode_unsigned(1001) + b"\0\0", "beyond"),
        (b"\x01" + encode_unsigned((1 << 64) - 1) + b"\0\0", "beyond"),
        (b"\x01\x01", "cut off"),
        (b"\x01\x01\0", "cut off"),
        (b"\x80" * 11, "does not end"),
    ],
)
def test_ranges_of_nothing_or_beyond_the_disk_are_refused(tag, field, match):
    with pytest.raises(VolumeDamaged, match=match):
        parse(altered(**{tag: field}))


def test_a_disguise_of_another_cipher_is_not_supported():
    with pytest.raises(VolumeUnsupported):
        parse(altered(DISGUISE=b"\0\x03\0\x80" + bytes(32)))
    with pytest.raises(VolumeDamaged, match="wrong size"):
        parse(altered(DISGUISE=b"\0\x06\0\x80" + bytes(33)))


@settings(max_examples=300)
@given(st.binary(max_size=120))
def test_any_bytes_are_refused(data):
    with pytest.raises(VolumeDamaged):
        parse(data)


# The head and the chain that it begins.


def sealed(name, payload):
    given_layout = LAYOUTS[name]
    static = StaticHeader(given_layout, SALT)
    chain = journal.chain(Keys(KEY, given_layout, SALT), given_layout)
    places = iter(range(1024, 1 << 20, 64))
    extents = chain.place(len(payload), lambda length: Extent(next(places), length), static.journal)
    front = journal.plain_header(given_layout, bytes(range(16)))
    head, *tail = chain.seal(payload, extents, entropy(), front)
    return given_layout, chain, extents, [journal.protect_head(head, given_layout), *tail]


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("length", [1, 100, 1000, 20_000])
def test_a_log_of_any_length_is_found_from_its_head(name, length):
    given_layout, chain, extents, data = sealed(name, pattern(length))
    assert data[0].startswith(b"CCFSJRNL")
    head = journal.active_head(data[0], given_layout)
    assert journal.head_auxiliary(head, given_layout) == bytes(range(16))
    found = dict(zip(extents, [head, *data[1:]], strict=True))
    assert chain.open(extents[0], found.__getitem__, 1 << 20) == (pattern(length), extents)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_head_is_as_short_as_it_can_be(name):
    given_layout = LAYOUTS[name]
    chain = journal.chain(Keys(KEY, given_layout, SALT), given_layout)
    length = StaticHeader(given_layout, SALT).journal.length
    assert length % given_layout.journal_block == 0
    # A cipher block holds a pointer and eight bytes.
    assert chain.capacity(length, first=True) >= 8
    assert chain.capacity(length - given_layout.journal_block, first=True) < 8


def test_a_head_that_was_not_written_whole_or_was_invalidated_is_none():
    given_layout, _, _, (head, *_) = sealed("default", pattern(100))
    assert journal.active_head(head, given_layout)
    for cut in range(0, 512, 128):
        assert journal.active_head(head[:cut].ljust(512, b"\0"), given_layout) is None
        if cut:
            assert journal.active_head(bytes(cut) + head[cut:], given_layout) is None
    assert journal.active_head(bytes(512), given_layout) is None
    assert journal.active_head(b"COCOONFS" + head[8:], given_layout) is None


def test_a_head_of_another_key_tells_the_key_apart():
    given_layout, _, extents, (head, *_) = sealed("default", pattern(100))
    whole = journal.active_head(head, given_layout)
    other = journal.chain(Keys(b"another", given_layout, SALT), given_layout)
    with pytest.raises(VolumeKeyError):
        other.open(extents[0], lambda _: whole, 1 << 20)
