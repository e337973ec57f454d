"""Checksum and torn-write protection: what was not written whole is noticed."""

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes import layout, pattern, rng, vectors

from vtpm.volume.integrity import checksum, protect, unprotect

SECTION = 31
IO_BLOCKS = {
    128 << blocks + allocation: layout(
        io_block_log2=blocks,
        allocation_block_log2=allocation,
        data_block_log2=0,
        bitmap_block_log2=0,
        tree_node_log2=1,
    )
    for blocks, allocation in ((0, 0), (1, 0), (2, 0), (0, 3), (5, 0), (2, 5), (6, 3), (6, 6))
}


def body(size, given_layout, seed=0, magic=b"COCOONFS"):
    data = bytearray(pattern(size, seed))
    data[: len(magic)] = magic
    data[SECTION : SECTION + given_layout.integrity_size] = bytes(given_layout.integrity_size)
    return bytes(data)


@pytest.mark.parametrize("vector", vectors()["checksum_vectors"])
def test_checksums_are_the_reference_implementations(vector):
    assert checksum(bytes.fromhex(vector["data"])).hex() == vector["checksum"]


@given(st.binary(max_size=300))
def test_the_checksums_second_half_is_over_neighbouring_bits_swapped(data):
    def swapped(byte):
        bits = f"{byte:08b}"
        return int("".join(bits[at + 1] + bits[at] for at in range(0, 8, 2)), 2)

    halves = zlib.crc32(data), zlib.crc32(bytes(map(swapped, data)))
    assert checksum(data) == b"".join(half.to_bytes(4, "little") for half in halves)


def test_io_blocks_up_to_512_kib_are_tried():
    assert sorted(IO_BLOCKS) == [128, 256, 512, 1024, 4096, 16384, 65536, 524288]


@pytest.mark.parametrize("io_block", sorted(IO_BLOCKS))
@settings(max_examples=20)
@given(blocks=st.integers(1, 3), seed=st.integers(0, 50))
def test_protection_comes_off_without_a_trace(io_block, blocks, seed):
    given_layout = IO_BLOCKS[io_block]
    data = body(io_block * blocks, given_layout, seed)
    protected = protect(data, SECTION, given_layout)
    assert len(protected) == len(data)
    assert protected[:8] == data[:8]
    assert 0 not in protected[8:128]
    assert unprotect(protected, SECTION, given_layout) == data


@given(st.binary(min_size=1024, max_size=1024), st.integers(0, 80), st.sampled_from([0, 8]))
def test_any_content_can_be_protected(content, section, magic):
    given_layout = IO_BLOCKS[512]
    section = max(section, magic)
    data = bytearray(content)
    data[section : section + given_layout.integrity_size] = bytes(given_layout.integrity_size)
    protected = protect(bytes(data), section, given_layout, magic=magic)
    assert unprotect(protected, section, given_layout, magic=magic) == data
    assert 0 not in protected[magic:128]


def test_content_with_every_other_byte_value_can_be_protected():
    # 111 different bytes in front leave few masks, none of which may make a zero.
    given_layout = IO_BLOCKS[512]
    for first in range(256):
        data = bytearray(512)
        data[8:128] = bytes((first + 2 * i) % 256 for i in range(120))
        data[SECTION : SECTION + given_layout.integrity_size] = bytes(given_layout.integrity_size)
        protected = protect(bytes(data), SECTION, given_layout)
        assert 0 not in protected[8:128]
        assert unprotect(protected, SECTION, given_layout) == data


@pytest.mark.parametrize("io_block", [256, 512, 4096, 16384])
def test_any_torn_write_at_steps_of_128_bytes_is_noticed(io_block):
    given_layout = IO_BLOCKS[io_block]
    new = protect(body(2 * io_block, given_layout, 1), SECTION, given_layout)
    olds = {
        "zeros": bytes(2 * io_block),
        "another whole one": protect(body(2 * io_block, given_layout, 2), SECTION, given_layout),
        "random bytes": pattern(2 * io_block, 3),
    }
    for what, old in olds.items():
        for cut in range(128, 2 * io_block, 128):
            assert unprotect(new[:cut] + old[cut:], SECTION, given_layout) is None, (what, cut)
            assert unprotect(old[:cut] + new[cut:], SECTION, given_layout) is None, (what, cut)


def test_any_mixture_of_128_byte_pieces_of_two_versions_is_noticed():
    given_layout = IO_BLOCKS[1024]
    versions = [protect(body(1024, given_layout, seed), SECTION, given_layout) for seed in (1, 2)]
    for choice in range(1, 255):
        mixed = b"".join(versions[choice >> i & 1][i * 128 : (i + 1) * 128] for i in range(8))
        assert unprotect(mixed, SECTION, given_layout) is None, choice


@pytest.mark.parametrize("io_block", [128, 512, 1024])
def test_any_single_flipped_bit_is_noticed(io_block):
    given_layout = IO_BLOCKS[io_block]
    protected = protect(body(io_block, given_layout), SECTION, given_layout)
    for bit in range(8 * 8, io_block * 8):  # the magic is its reader's to check
        flipped = bytearray(protected)
        flipped[bit // 8] ^= 1 << bit % 8
        assert unprotect(bytes(flipped), SECTION, given_layout) is None, bit


def test_a_flipped_bit_anywhere_in_a_large_extent_is_noticed():
    given_layout = IO_BLOCKS[65536]
    protected = bytearray(protect(body(65536, given_layout), SECTION, given_layout))
    for bit in rng(5).sample(range(64, 65536 * 8), 100):
        protected[bit // 8] ^= 1 << bit % 8
        assert unprotect(bytes(protected), SECTION, given_layout) is None, bit
        protected[bit // 8] ^= 1 << bit % 8
    assert unprotect(bytes(protected), SECTION, given_layout) is not None


@pytest.mark.parametrize("size", [0, 1, 127, 128, 511])
def test_less_than_an_io_block_is_nothing(size):
    given_layout = IO_BLOCKS[512]
    protected = protect(body(512, given_layout), SECTION, given_layout)
    assert unprotect(protected[:size], SECTION, given_layout) is None


def test_a_zero_byte_in_the_first_128_is_refused_even_where_the_checksum_fits():
    given_layout = IO_BLOCKS[512]
    data = body(512, given_layout)
    protected = bytearray(protect(data, SECTION, given_layout))
    # The same under a mask that the first byte after the magic turns into zero.
    other = protected[SECTION + 8] ^ data[8]
    protected[8:128] = bytes(byte ^ other for byte in protected[8:128])
    commit = bytes(byte ^ other for byte in protect(data, SECTION, given_layout)[SECTION : SECTION + 8])
    protected[SECTION : SECTION + 9] = commit + bytes([data[8]])
    for boundary in (256, 512):
        protected[boundary - 8 : boundary] = commit
    assert protected[8] == 0
    assert unprotect(bytes(protected), SECTION, given_layout) is None
