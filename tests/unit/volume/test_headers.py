"""The three headers: where they lie, that they survive, and what is refused."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from volumes import LAYOUTS, SALT, image, layout

from vtpm.volume import DEFAULT, VolumeDamaged, VolumeFull, VolumeUnsupported
from vtpm.volume.format.extents import NIL, Extent, Pointer
from vtpm.volume.format.headers import (
    CreationHeader,
    MutableHeader,
    StaticHeader,
    backup_place,
    encode_auxiliary,
    parse_auxiliary,
)
from vtpm.volume.format.integrity import protect, unprotect

SALTS = [b"", b"\0", SALT, bytes(16), bytes(range(100)), bytes(255)]
STATIC = StaticHeader(DEFAULT, SALT)


def reader(data):
    return lambda size: data[:size]


@pytest.mark.parametrize("salt", SALTS, ids=len)
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_static_header_survives(name, salt):
    header = StaticHeader(LAYOUTS[name], salt)
    data = header.encode()
    assert len(data) == header.extent.length << header.layout.block_shift
    assert data.startswith(b"COCOONFS")
    assert StaticHeader.parse(reader(data + bytes(4096))) == header


@pytest.mark.parametrize("salt", SALTS, ids=len)
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_creation_header_survives(name, salt):
    for size, auxiliary in ((1, 0), (2048, 24), ((1 << 64) - 1, 100_000)):
        header = CreationHeader(LAYOUTS[name], salt, size, auxiliary)
        data = header.encode()
        assert len(data) == header.length << header.layout.block_shift
        assert data.startswith(b"CCFSMKFS")
        assert CreationHeader.parse(reader(data)) == header


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("salt", SALTS, ids=len)
def test_headers_follow_one_another_without_sharing_what_a_torn_write_harms(name, salt):
    header = StaticHeader(LAYOUTS[name], salt)
    given_layout = header.layout
    assert header.extent.start == 0
    assert header.extent.length % given_layout.io_block == 0
    assert header.mutable.start == header.extent.end
    assert header.journal.start >= header.mutable.end
    assert header.journal.start - header.mutable.end < given_layout.journal_block
    assert header.journal.start % given_layout.journal_block == 0
    assert header.journal.length % given_layout.journal_block == 0


@pytest.mark.parametrize(
    ("name", "journal"),
    # Offsets at which the reference implementation was seen to write its journal's head, in bytes.
    [("default-aes128.svsm", 1024), ("aes128-alloc4k.files", 8192), ("aes256-io4k.svsm", 8192)],
)
def test_the_headers_of_the_reference_images_are_read(name, journal):
    data = image(name)
    header = StaticHeader.parse(reader(data))
    shift = header.layout.block_shift
    assert header.journal.start << shift == journal
    mutable = data[header.mutable.start << shift :][: header.mutable.length << shift]
    blocks = len(data) >> shift
    parsed = MutableHeader.parse(mutable, header, blocks)
    assert parsed.size == blocks
    assert parsed.encode() == mutable[: MutableHeader.size_of(header.layout)]


def test_a_reference_creation_header_is_read():
    header = CreationHeader.parse(reader(image("default-aes128.mkfsinfo")))
    assert (header.layout, header.salt, header.size << 7) == (DEFAULT, SALT, 256 << 10)


@pytest.mark.parametrize("kind", [StaticHeader, CreationHeader])
def test_neither_header_is_taken_for_the_other_or_for_anything_else(kind):
    other = CreationHeader(DEFAULT, SALT, 100) if kind is StaticHeader else StaticHeader(DEFAULT, SALT)
    for data in (b"", b"COCOONFS", b"CCFSMKFS", bytes(512), b"\xff" * 512, other.encode()):
        assert kind.parse(reader(data)) is None


@pytest.mark.parametrize(
    "header", [StaticHeader(DEFAULT, bytes(255)), CreationHeader(DEFAULT, bytes(255), 2048)]
)
def test_a_header_that_was_not_written_whole_is_none(header):
    data = header.encode()
    for cut in range(0, len(data), 128):
        assert type(header).parse(reader(data[:cut].ljust(len(data), b"\0"))) is None
        assert type(header).parse(reader(bytes(cut) + data[cut:])) == (None if cut else header)
        assert type(header).parse(reader(data[:cut])) is None


@pytest.mark.parametrize("header", [STATIC, CreationHeader(DEFAULT, SALT, 2048, 30)])
def test_any_flipped_bit_in_a_header_is_noticed(header):
    data = header.encode()
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            parsed = type(header).parse(reader(bytes(flipped)))
        except VolumeUnsupported:
            continue
        assert parsed is None, bit


@pytest.mark.parametrize(("header", "section"), [(STATIC, 31), (CreationHeader(DEFAULT, SALT, 2048), 47)])
@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_not_supported(header, section, version):
    data = bytearray(unprotect(header.encode(), section, DEFAULT))
    data[8] = version
    with pytest.raises(VolumeUnsupported, match=f"version {version} "):
        type(header).parse(reader(protect(bytes(data), section, DEFAULT)))


@pytest.mark.parametrize("position", range(9, 30))
def test_a_static_header_with_any_layout_is_read_or_not_supported(position):
    data = bytearray(STATIC.encode())
    mask = data[31 + 8]
    for value in (0, 1, 7, 64, 127, 255):
        data[position] = value ^ mask or 1
        with suppress(VolumeUnsupported):
            assert StaticHeader.parse(reader(bytes(data))) in {None, STATIC}


@given(st.binary(min_size=128, max_size=1024), st.sampled_from([b"COCOONFS", b"CCFSMKFS"]))
def test_any_bytes_after_a_magic_are_no_header_or_not_supported(data, magic):
    for kind in (StaticHeader, CreationHeader):
        with suppress(VolumeUnsupported):
            assert kind.parse(reader(magic + data)) is None


def mutable(**changes):
    fields = {
        "auxiliary": NIL * 2,
        "root": b"r" * 32,
        "counter": b"c" * 16,
        "leaf_tag": b"t" * 32,
        "leaf": 100,
        "size": 2048,
    }
    return MutableHeader(**fields | changes)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_mutable_header_survives(name):
    given_layout = LAYOUTS[name]
    static = StaticHeader(given_layout, SALT)
    header = mutable(
        root=bytes(given_layout.root_hash.digest_size), leaf_tag=b"t" * given_layout.preauth_hash.digest_size
    )
    data = header.encode()
    assert len(data) == MutableHeader.size_of(given_layout)
    assert (
        MutableHeader.parse(data.ljust(static.mutable.length << given_layout.block_shift), static, 2048)
        == header
    )


@pytest.mark.parametrize("size", [0, 4, 2049, 2052, 2046, (1 << 64) - 4])
def test_an_image_that_does_not_lie_on_the_disk_is_refused(size):
    with pytest.raises(VolumeDamaged, match="image of") as refused:
        MutableHeader.parse(mutable(size=size).encode(), STATIC, 2048)
    assert (refused.value.part, refused.value.block) == ("mutable header", 4)


@pytest.mark.parametrize("leaf", [0, 2048, 4000, 1 << 57])
def test_an_entry_leaf_outside_of_the_image_is_refused(leaf):
    data = mutable().encode()
    data = data[:-16] + struct.pack("<QQ", (leaf << 7) % (1 << 64), 2048)
    with pytest.raises(VolumeDamaged, match="outside"):
        MutableHeader.parse(data, STATIC, 4096)


def test_a_mutable_header_without_an_entry_leaf_is_refused():
    with pytest.raises(VolumeDamaged, match="no entry leaf"):
        MutableHeader.parse(mutable(leaf=None).encode(), STATIC, 2048)


@pytest.mark.parametrize("heads", [None, (Extent(8, 4), None), (Extent(8, 64), Extent(100, 1))])
def test_pointers_to_auxiliary_metadata_survive(heads):
    assert parse_auxiliary(encode_auxiliary(heads), 200, "test") == heads


@pytest.mark.parametrize(
    "data",
    [
        NIL + Pointer(Extent(8, 4)).encode(),
        Pointer(Extent(8, 4), indirect=True).encode() + NIL,
        Pointer(Extent(8, 4)).encode() + Pointer(Extent(12, 4), indirect=True).encode(),
        Pointer(Extent(198, 3)).encode() + NIL,
        bytes(16),
    ],
)
def test_pointers_to_auxiliary_metadata_that_make_no_sense_are_refused(data):
    with pytest.raises(VolumeDamaged):
        parse_auxiliary(data, 200, "test")


@pytest.mark.parametrize(
    ("size", "place"),
    [
        (262_144, 245_760),
        (8192, 7680),
        (16_384, 15_360),
        (1 << 30, (1 << 30) - (1 << 26)),
        (100_000, 98_304 - 4096),
    ],
)
def test_the_creation_headers_copy_lies_in_the_last_of_sixteen_or_more_parts(size, place):
    assert backup_place(size) == place


@given(st.integers(8192, 1 << 42))
def test_the_copys_part_is_whole_and_there_are_sixteen_or_more(size):
    place = backup_place(size)
    units = size // 128 * 128
    part = next(1 << shift for shift in range(60, 0, -1) if 16 << shift <= units)
    assert place % part == 0
    assert place // part >= 15
    assert part <= units - place < 2 * part


@pytest.mark.parametrize("size", [0, 512, 4096, 8191])
def test_a_disk_too_small_for_a_copy_is_refused(size):
    with pytest.raises(VolumeFull, match="8 KiB"):
        backup_place(size)


def test_a_large_layouts_header_asks_for_no_more_than_it_needs():
    asked = []

    def read(size):
        asked.append(size)
        return StaticHeader(layout(io_block_log2=6, allocation_block_log2=5), SALT).encode()[:size]

    StaticHeader.parse(read)
    assert asked == [128, 262_144]


def test_a_header_that_the_disk_cuts_off_is_none_even_if_its_checksum_fits_what_is_left():
    given_layout = LAYOUTS["all-smallest"]
    whole = StaticHeader(given_layout, bytes(range(255)))
    assert whole.extent.length > 1
    front = b"COCOONFS\x01" + given_layout.encode() + b"\xff" + bytes(given_layout.integrity_size)
    cut = protect((front + bytes(range(255)))[:128], len(front) - given_layout.integrity_size, given_layout)
    assert StaticHeader.parse(lambda size: whole.encode()[:size]) == whole
    assert StaticHeader.parse(lambda size: cut[:size]) is None
