"""The image layout: 21 bytes, and which of them are accepted."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from volumes import LAYOUTS, layout, manifest

from vtpm.volume import DEFAULT, Layout, VolumeUnsupported, of_strength

ENCODED = "00020102020000000b000b000b000b000b00060080"


def encoded(*sizes, hashes=(0x0B,) * 5, cipher=(0x06, 128)):
    return struct.pack(">7B7H", *sizes, *hashes, *cipher)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_survives(name):
    assert len(LAYOUTS[name].encode()) == 21
    assert Layout.parse(LAYOUTS[name].encode()) == LAYOUTS[name]


def test_the_default_is_the_reference_tools():
    assert DEFAULT.encode().hex() == ENCODED == manifest()["default-aes128.empty"]["derived"]["layout"]
    assert of_strength(128) == DEFAULT


@pytest.mark.parametrize(
    ("bits", "algorithms"), [(192, "000c000c000b000b000b000600c0"), (256, "000d000d000b000b000b00060100")]
)
def test_a_strength_gives_the_reference_tools_algorithms(bits, algorithms):
    assert of_strength(bits).encode().hex() == ENCODED[:14] + algorithms


def test_a_strength_leaves_the_sizes_alone():
    assert of_strength(256, LAYOUTS["io-4k"]).encode()[:7] == LAYOUTS["io-4k"].encode()[:7]
    assert (
        of_strength(
            256, layout(io_block_log2=5, tree_node_log2=0, data_block_log2=5, allocation_block_log2=0)
        ).io_block
        == 32
    )


@pytest.mark.parametrize("bits", [0, 64, 127, 512, -128])
def test_other_strengths_are_refused(bits):
    with pytest.raises(VolumeUnsupported, match="128, 192, 256"):
        of_strength(bits)


def test_sizes_are_the_defaults_in_bytes():
    shift = DEFAULT.block_shift
    sizes = [DEFAULT.block_size]
    sizes += [
        blocks << shift
        for blocks in (DEFAULT.io_block, DEFAULT.tree_node, DEFAULT.data_block, DEFAULT.bitmap_block)
    ]
    sizes += [DEFAULT.leaf << shift, DEFAULT.inner << shift]
    assert sizes == [128, 512, 1024, 512, 512, 128, 128]
    assert DEFAULT.bitmap_words == (512 - 16) // 8
    assert DEFAULT.integrity_size == 8 + 1 + 8 * 2
    assert DEFAULT.journal_block == 4


@pytest.mark.parametrize(("size", "blocks"), [(0, 0), (1, 1), (4096, 1), (4097, 2), (8192, 2)])
def test_blocks_are_rounded_up(size, blocks):
    assert LAYOUTS["alloc-4k"].blocks(size) == blocks


@pytest.mark.parametrize("field", [1, 3, 5, 6])
def test_more_than_64_allocation_blocks_are_refused(field):
    sizes = [0, 2, 1, 2, 2, 0, 0]
    sizes[field] = 6
    assert Layout.parse(encoded(*sizes))
    sizes[field] = 7
    with pytest.raises(VolumeUnsupported, match="at most 64"):
        Layout.parse(encoded(*sizes))


@pytest.mark.parametrize("field", range(7))
def test_absurd_sizes_are_refused(field):
    sizes = [0, 2, 1, 2, 2, 0, 0]
    sizes[field] = 255
    with pytest.raises(VolumeUnsupported, match="layout"):
        Layout.parse(encoded(*sizes))


@pytest.mark.parametrize(
    ("sizes", "hashes"),
    [
        ((0, 0, 0, 0, 0, 0, 0), (0x0C, 0x0B, 0x0B, 0x0B, 0x0B)),
        ((0, 0, 0, 0, 0, 0, 0), (0x0B, 0x0C, 0x0B, 0x0B, 0x0B)),
    ],
)
def test_a_tree_node_that_does_not_hold_two_digests_is_refused(sizes, hashes):
    # 128 bytes hold two digests of 64 bytes at most, so nothing at all can be too small for the digests known here.
    assert Layout.parse(encoded(*sizes, hashes=hashes)).tree_node == 1


@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize("identifier", [0x04, 0x00, 0x10, 0x0E, 0xFFFF])
def test_sha1_and_unknown_hashes_are_refused_wherever_they_stand(position, identifier):
    hashes = [0x0B] * 5
    hashes[position] = identifier
    with pytest.raises(VolumeUnsupported, match="not supported here"):
        Layout.parse(encoded(0, 2, 1, 2, 2, 0, 0, hashes=hashes))


@pytest.mark.parametrize("cipher", [(0x06, 0), (0x06, 127), (0x03, 128), (0, 0), (0x13, 256)])
def test_unknown_ciphers_are_refused(cipher):
    with pytest.raises(VolumeUnsupported, match="not supported here"):
        Layout.parse(encoded(0, 2, 1, 2, 2, 0, 0, cipher=cipher))


@given(st.binary(min_size=21, max_size=21))
def test_any_21_bytes_are_a_layout_or_not_supported(data):
    try:
        parsed = Layout.parse(data)
    except VolumeUnsupported:
        return
    assert parsed.encode() == data


@given(st.lists(st.integers(0, 40), min_size=7, max_size=7))
def test_any_sizes_are_a_layout_or_not_supported(sizes):
    try:
        parsed = Layout.parse(encoded(*sizes))
    except VolumeUnsupported:
        return
    assert parsed.encode() == encoded(*sizes)
    assert max(parsed.io_block, parsed.data_block, parsed.leaf, parsed.inner) <= 64
    sizes = (parsed.tree_node, parsed.data_block, parsed.bitmap_block, parsed.leaf, parsed.inner)
    assert max(sizes) << parsed.block_shift <= 1 << 24
