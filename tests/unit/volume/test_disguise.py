"""The disguise of staging copies, against plain CBC of one block after the other."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes import entropy, pattern

from vtpm.volume.algorithms import BlockCipher, cipher_named
from vtpm.volume.disguise import Disguise
from vtpm.volume.errors import VolumeDamaged, VolumeUnsupported

CIPHERS = ["aes128", "aes192", "aes256", "sm4", "camellia256"]
numbers = st.integers(0, (1 << 57) - 1)


def block_by_block(disguise, blocks, places):
    """Each allocation block by itself: CBC, with the encrypted target and source as its IV."""
    worn = []
    for block, (target, source) in zip(blocks, places, strict=True):
        place = target.to_bytes(8, "little") + source.to_bytes(8, "little")
        iv = BlockCipher(disguise.algorithm, disguise.iv_key).encrypt_cbc(bytes(16), place)
        worn.append(BlockCipher(disguise.algorithm, disguise.key).encrypt_cbc(iv, block))
    return worn


@pytest.mark.parametrize("name", CIPHERS)
@settings(max_examples=30)
@given(
    size=st.sampled_from([128, 256, 4096]),
    places=st.lists(st.tuples(numbers, numbers), max_size=9),
    seed=st.integers(0, 99),
)
def test_it_is_cbc_of_each_block_and_comes_off(name, size, places, seed):
    disguise = Disguise.new(cipher_named(name), entropy(seed))
    blocks = [pattern(size, at) for at in range(len(places))]
    worn = disguise.put_on(blocks, places)
    assert worn == block_by_block(disguise, blocks, places)
    assert disguise.take_off(worn, places) == blocks


def test_equal_blocks_at_different_places_do_not_look_alike():
    disguise = Disguise.new(cipher_named("aes128"), entropy())
    worn = disguise.put_on([bytes(128)] * 4, [(1, 2), (2, 1), (1, 3), (3, 2)])
    assert len(set(worn)) == 4


@pytest.mark.parametrize("name", CIPHERS)
def test_its_keys_survive_and_are_two(name):
    disguise = Disguise.new(cipher_named(name), entropy())
    assert Disguise.parse(disguise.encode(), "test") == disguise
    assert disguise.key != disguise.iv_key
    assert len(disguise.encode()) == 4 + 2 * disguise.algorithm.key_bits // 8


def test_keys_of_the_wrong_size_are_refused():
    encoded = Disguise.new(cipher_named("aes128"), entropy()).encode()
    for data in (encoded[:-1], encoded + b"\0", encoded[:4], encoded[:20]):
        with pytest.raises(VolumeDamaged, match="wrong size"):
            Disguise.parse(data, "test")


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\0\x06", b"\0\x06\0\x81" + bytes(32), b"\0\x03\0\x80" + bytes(32)]
)
def test_another_cipher_is_not_supported(data):
    with pytest.raises(VolumeUnsupported, match="not supported here"):
        Disguise.parse(data, "test")


def test_its_keys_are_not_shown():
    disguise = Disguise(cipher_named("aes128"), b"secret secret se", b"hidden hidden hi")
    assert "secret" not in repr(disguise)
    assert "hidden" not in repr(disguise)
