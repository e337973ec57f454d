"""Hashes, HMAC and ciphers against other implementations of them; and what is refused."""

import hashlib
import hmac

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from hypothesis import given
from hypothesis import strategies as st

from vtpm.volume import VolumeUnsupported, algorithms
from vtpm.volume.algorithms import (
    BlockCipher,
    Hmac,
    cipher_algorithm,
    cipher_named,
    hash_algorithm,
    hash_named,
)

# Numbers of the TCG Algorithm Registry.
HASHES = {
    0x0B: ("sha256", 32),
    0x0C: ("sha384", 48),
    0x0D: ("sha512", 64),
    0x12: ("sm3", 32),
    0x27: ("sha3_256", 32),
    0x28: ("sha3_384", 48),
    0x29: ("sha3_512", 64),
}
CIPHERS = {
    (0x06, 128): "aes128",
    (0x06, 192): "aes192",
    (0x06, 256): "aes256",
    (0x13, 128): "sm4",
    (0x26, 128): "camellia128",
    (0x26, 192): "camellia192",
    (0x26, 256): "camellia256",
}
SHA1 = 0x04


@pytest.mark.parametrize("identifier", HASHES)
@given(
    key=st.one_of(
        st.binary(max_size=40), st.sampled_from([63, 64, 65, 127, 128, 129, 143, 144, 145, 300]).map(bytes)
    ),
    parts=st.lists(st.binary(max_size=200), max_size=4),
)
def test_hmac_is_the_standard_librarys(identifier, key, parts):
    algorithm = hash_algorithm(identifier)
    mac = Hmac(algorithm, key)
    expected = hmac.new(key, b"".join(parts), algorithm.name).digest()
    assert mac.digest(*parts) == expected
    assert mac.digest(*parts) == expected, "a second message is not like the first"


def test_hmac_sha256_gives_rfc_4231s_value():
    mac = Hmac(hash_named("sha256"), b"\x0b" * 20)
    assert (
        mac.digest(b"Hi ", b"There").hex()
        == "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    )


@pytest.mark.parametrize(("identifier", "expected"), HASHES.items())
def test_hashes_have_the_names_and_sizes_of_their_numbers(identifier, expected):
    algorithm = hash_algorithm(identifier)
    assert (algorithm.name, algorithm.digest_size) == expected
    assert hash_named(algorithm.name) is algorithm
    assert algorithm.digest(b"a", b"bc") == hashlib.new(algorithm.name, b"abc").digest()
    assert len(algorithm.digest()) == algorithm.digest_size == Hmac(algorithm, b"k").digest_size


@pytest.mark.parametrize(("identifier", "expected"), CIPHERS.items())
def test_ciphers_have_the_names_and_key_sizes_of_their_numbers(identifier, expected):
    algorithm = cipher_algorithm(*identifier)
    assert algorithm.name == expected
    assert cipher_named(algorithm.name) is algorithm
    assert algorithm.encode() == identifier[0].to_bytes(2, "big") + identifier[1].to_bytes(2, "big")
    key, iv, plain = bytes(range(identifier[1] // 8)), bytes(range(100, 116)), bytes(range(64))
    reference = Cipher(algorithm.make(key), modes.CBC(iv)).encryptor()
    encrypted = reference.update(plain) + reference.finalize()
    cipher = BlockCipher(algorithm, key)
    assert cipher.encrypt_cbc(iv, plain) == encrypted
    assert cipher.decrypt_cbc(iv, encrypted) == plain
    assert cipher.encrypt_blocks(plain[:16]) == cipher.encrypt_cbc(bytes(16), plain[:16])
    assert cipher.decrypt_blocks(cipher.encrypt_blocks(plain)) == plain


@pytest.mark.parametrize(
    ("name", "key", "plain", "encrypted"),
    [
        # FIPS 197, appendix C; RFC 3713, appendix A; GB/T 32907 as in draft-ribose-cfrg-sm4.
        ("aes128", bytes(range(16)), "00112233445566778899aabbccddeeff", "69c4e0d86a7b0430d8cdb78070b4c55a"),
        ("aes192", bytes(range(24)), "00112233445566778899aabbccddeeff", "dda97ca4864cdfe06eaf70a0ec0d7191"),
        ("aes256", bytes(range(32)), "00112233445566778899aabbccddeeff", "8ea2b7ca516745bfeafc49904b496089"),
        ("camellia128", bytes.fromhex("0123456789abcdeffedcba9876543210"), "0123456789abcdeffedcba9876543210",
         "67673138549669730857065648eabe43"),
        ("sm4", bytes.fromhex("0123456789abcdeffedcba9876543210"), "0123456789abcdeffedcba9876543210",
         "681edf34d206965e86b3e94f536e4246"),
    ],
)  # fmt: skip
def test_ciphers_give_their_standards_values(name, key, plain, encrypted):
    assert BlockCipher(cipher_named(name), key).encrypt_blocks(bytes.fromhex(plain)).hex() == encrypted


@pytest.mark.parametrize("identifier", [*sorted(set(range(0x60)) - set(HASHES)), 0xFFFF])
def test_sha1_and_unknown_hashes_are_not_supported(identifier):
    with pytest.raises(VolumeUnsupported, match="not supported here"):
        hash_algorithm(identifier)


def test_sha1_is_not_supported_by_name():
    for name in ("sha1", "md5", "SHA256", ""):
        with pytest.raises(VolumeUnsupported, match="not supported here; known are sha256"):
            hash_named(name)


@pytest.mark.parametrize(
    "identifier", [(0x06, 0), (0x06, 64), (0x06, 512), (0x13, 256), (0x03, 128), (SHA1, 128)]
)
def test_unknown_ciphers_and_key_sizes_are_not_supported(identifier):
    with pytest.raises(VolumeUnsupported, match="not supported here"):
        cipher_algorithm(*identifier)


def test_triple_des_is_not_supported_by_name():
    with pytest.raises(VolumeUnsupported, match="not supported here; known are aes128"):
        cipher_named("3des")


def test_a_hash_that_hashlib_lacks_is_not_supported_here(monkeypatch):
    def without_sm3(name, *rest):
        if name == "sm3":
            raise ValueError("unsupported hash type sm3")
        return hashlib.sha256(*rest)

    monkeypatch.setattr(algorithms.hashlib, "new", without_sm3)
    for find in (lambda: hash_algorithm(0x12), lambda: hash_named("sm3")):
        with pytest.raises(VolumeUnsupported, match="sm3 is not supported here"):
            find()
    assert hash_named("sha256").name == "sha256"


def test_a_cipher_that_cryptography_lacks_is_not_supported_here(monkeypatch):
    def lacking(*_):
        raise UnsupportedAlgorithm("SM4 is not there")

    monkeypatch.setattr(BlockCipher, "encrypt_cbc", lacking)
    for find in (lambda: cipher_algorithm(0x13, 128), lambda: cipher_named("sm4")):
        with pytest.raises(VolumeUnsupported, match="sm4 is not supported here"):
            find()


def test_nothing_secret_is_shown():
    assert "secret" not in repr(Hmac(hash_named("sha256"), b"secret"))
    assert "secret" not in repr(BlockCipher(cipher_named("aes128"), b"secret".ljust(16)))
