"""The hashes and block ciphers that a volume may name, by their numbers in the TCG Algorithm Registry.

The SVSM's kernel has SHA-256/384/512 and AES. SHA-3, SM3, Camellia and SM4 work where hashlib and `cryptography`
provide them. SHA-1 is refused wherever it stands.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4

from vtpm.volume.errors import VolumeUnsupported

CIPHER_BLOCK = 16
"""Bytes of a cipher block and of an IV: the same for every cipher of the registry that a volume may use."""

_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))


@dataclass(frozen=True)
class HashAlgorithm:
    """A hash: `identifier` (TPM_ALG_ID), `name` as hashlib has it, `digest_size` in bytes."""

    identifier: int
    name: str
    digest_size: int

    def digest(self, *parts: bytes | memoryview) -> bytes:
        """Hash of the parts one after the other."""
        state = hashlib.new(self.name)
        for part in parts:
            state.update(part)
        return state.digest()


class Hmac:
    """HMAC (RFC 2104) under one key, for many short messages: the padded key is hashed once.

    hashlib's own `hmac` costs two to three times as much per message, and an opening makes tens of thousands.
    """

    def __init__(self, algorithm: HashAlgorithm, key: bytes) -> None:
        state = hashlib.new(algorithm.name)
        if len(key) > state.block_size:
            key = algorithm.digest(key)
        padded = key.ljust(state.block_size, b"\0")
        self.digest_size = algorithm.digest_size
        self._inner = hashlib.new(algorithm.name, padded.translate(_INNER_PAD))
        self._outer = hashlib.new(algorithm.name, padded.translate(_OUTER_PAD))

    def each(self, messages: Iterable[tuple[bytes | memoryview, bytes]]) -> Iterator[bytes]:
        """HMAC of each message, given in two parts."""
        new_inner, new_outer = self._inner.copy, self._outer.copy
        for data, context in messages:
            inner, outer = new_inner(), new_outer()
            inner.update(data)
            inner.update(context)
            outer.update(inner.digest())
            yield outer.digest()

    def digest(self, *parts: bytes | bytearray | memoryview) -> bytes:
        """HMAC over the parts one after the other."""
        inner = self._inner.copy()
        for part in parts:
            inner.update(part)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


@dataclass(frozen=True)
class CipherAlgorithm:
    """A block cipher: `identifier` (TPM_ALG_ID), `key_bits`, and its `name` for people."""

    identifier: int
    key_bits: int
    name: str
    make: Callable[[bytes], BlockCipherAlgorithm]

    def encode(self) -> bytes:
        """Identifier and key bits, big-endian, as layouts and authentication contexts have them."""
        return self.identifier.to_bytes(2, "big") + self.key_bits.to_bytes(2, "big")


class BlockCipher:
    """A block cipher under one key, in CBC mode without padding (all that the format uses) and in ECB mode."""

    def __init__(self, algorithm: CipherAlgorithm, key: bytes) -> None:
        self._algorithm = algorithm.make(key)

    def encrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """CBC encryption of whole cipher blocks."""
        state = Cipher(self._algorithm, modes.CBC(iv)).encryptor()
        return state.update(data) + state.finalize()

    def decrypt_cbc(self, iv: bytes, data: bytes | memoryview) -> bytes:
        """CBC decryption of whole cipher blocks."""
        state = Cipher(self._algorithm, modes.CBC(iv)).decryptor()
        return state.update(data) + state.finalize()

    @cached_property
    def _ecb(self) -> Cipher[modes.ECB]:
        # Only over inputs that never repeat under one key, or as the step of a CBC over many chains at once.
        return Cipher(self._algorithm, modes.ECB())  # noqa: S305

    def encrypt_blocks(self, data: bytes) -> bytes:
        """Each cipher block by itself."""
        state = self._ecb.encryptor()
        return state.update(data) + state.finalize()

    def decrypt_blocks(self, data: bytes) -> bytes:
        """Inverse of `encrypt_blocks`."""
        state = self._ecb.decryptor()
        return state.update(data) + state.finalize()


_HASHES = (
    HashAlgorithm(0x000B, "sha256", 32),
    HashAlgorithm(0x000C, "sha384", 48),
    HashAlgorithm(0x000D, "sha512", 64),
    HashAlgorithm(0x0012, "sm3", 32),
    HashAlgorithm(0x0027, "sha3_256", 32),
    HashAlgorithm(0x0028, "sha3_384", 48),
    HashAlgorithm(0x0029, "sha3_512", 64),
)
_CIPHERS = (
    *(CipherAlgorithm(0x0006, bits, f"aes{bits}", AES) for bits in (128, 192, 256)),
    CipherAlgorithm(0x0013, 128, "sm4", SM4),
    *(CipherAlgorithm(0x0026, bits, f"camellia{bits}", Camellia) for bits in (128, 192, 256)),
)

SHA256, SHA384, SHA512 = _HASHES[:3]
AES128, AES192, AES256 = _CIPHERS[:3]


def hash_algorithm(identifier: int) -> HashAlgorithm:
    """The hash of a TPM_ALG_ID; raises `VolumeUnsupported`."""
    for algorithm in _HASHES:
        if algorithm.identifier == identifier:
            return _provided(algorithm)
    raise VolumeUnsupported(f"hash algorithm {identifier:#06x} is not supported here")


def _provided(algorithm: HashAlgorithm) -> HashAlgorithm:
    try:
        hashlib.new(algorithm.name)
    except ValueError as error:
        raise VolumeUnsupported(f"{algorithm.name} is not supported here: hashlib lacks it") from error
    return algorithm


def cipher_algorithm(identifier: int, key_bits: int) -> CipherAlgorithm:
    """The cipher of a TPM_ALG_ID and a key size; raises `VolumeUnsupported`."""
    for algorithm in _CIPHERS:
        if (algorithm.identifier, algorithm.key_bits) == (identifier, key_bits):
            return _working(algorithm)
    raise VolumeUnsupported(f"cipher {identifier:#06x} with {key_bits}-bit keys is not supported here")


def _working(algorithm: CipherAlgorithm) -> CipherAlgorithm:
    try:
        BlockCipher(algorithm, bytes(algorithm.key_bits // 8)).encrypt_cbc(
            bytes(CIPHER_BLOCK), bytes(CIPHER_BLOCK)
        )
    except UnsupportedAlgorithm as error:
        raise VolumeUnsupported(f"{algorithm.name} is not supported here: `cryptography` lacks it") from error
    return algorithm


def hash_named(name: str) -> HashAlgorithm:
    """The hash of a name such as ``sha256``; raises `VolumeUnsupported`."""
    for algorithm in _HASHES:
        if algorithm.name == name:
            return _provided(algorithm)
    raise VolumeUnsupported(
        f"hash {name} is not supported here; known are {', '.join(h.name for h in _HASHES)}"
    )


def cipher_named(name: str) -> CipherAlgorithm:
    """The cipher of a name such as ``aes128``; raises `VolumeUnsupported`."""
    for algorithm in _CIPHERS:
        if algorithm.name == name:
            return _working(algorithm)
    raise VolumeUnsupported(
        f"cipher {name} is not supported here; known are {', '.join(c.name for c in _CIPHERS)}"
    )
