"""TPM2_MakeCredential without a TPM, for the public area of an EK that was read and judged already.

tpm2-pytss has the same, and the tests hold this against it. But it speaks in structures of the C library, and to fill
and to empty these costs several times what the cryptography does.

Source: TPM 2.0 Library, Part 1, sections 11.4.10 (KDFa, KDFe) and 24 (credential protection), annexes B.10.4 (RSA) and
C.6.4 (ECC).
"""

import hashlib
import hmac
import secrets
from functools import cache
from typing import Final

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from vtpm.wire.public_area import ALG_AES, ALG_CFB, PublicArea

_IDENTITY: Final = b"IDENTITY\x00"
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_NO_IV: Final = CFB(bytes(algorithms.AES.block_size // 8))
"""The key is used once, so the vector is zero (Part 1, section 24.4)."""


def make_credential(ek: PublicArea, secret: bytes, name: bytes) -> tuple[bytes, bytes]:
    """Wrap a secret for the TPM that holds an EK and a key of this Name.

    Args:
        ek: an instance of an EK template: a storage key with AES in CFB mode.
        secret: what is wrapped; no longer than a digest of the EK's nameAlg.
        name: Name of the other key.

    Returns:
        TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.

    Raises:
        WireError: the EK is no key.
        ValueError: the EK protects by another cipher.
    """
    if (ek.symmetric.algorithm, ek.symmetric.mode) != (ALG_AES, ALG_CFB):
        raise ValueError("an EK protects what it stores by AES in CFB mode")
    seed, shared = _seed(ek)
    size = _HASHES[ek.name_alg].digest_size
    key = kdfa(ek.name_alg, seed, b"STORAGE", name, ek.symmetric.bits)
    encryptor = Cipher(algorithms.AES(key), _NO_IV).encryptor()
    identity = encryptor.update(_sized(secret)) + encryptor.finalize()
    mac = hmac.digest(kdfa(ek.name_alg, seed, b"INTEGRITY", b"", 8 * size), identity + name, ek.name_alg)
    return _sized(_sized(mac) + identity), _sized(shared)


def kdfa(hash_name: str, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """The TPM's key derivation from a shared secret: SP 800-108 in counter mode, with HMAC.

    Args:
        hash_name: "sha256", "sha384" or "sha512".
        key: the secret.
        label: what for, without the zero octet that ends it.
        context: of both parties, one after the other.
        bits: of the result, whole octets.
    """
    fixed = label + b"\x00" + context + bits.to_bytes(4, "big")
    size, made, counter = bits // 8, b"", 0
    while len(made) < size:
        counter += 1
        made += hmac.digest(key, counter.to_bytes(4, "big") + fixed, hash_name)
    return made[:size]


def _seed(ek: PublicArea) -> tuple[bytes, bytes]:
    """A seed of the length of a digest, and the form in which the EK's TPM gets it."""
    key = ek.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        seed = secrets.token_bytes(_HASHES[ek.name_alg].digest_size)
        return seed, key.encrypt(seed, _oaep(ek.name_alg))
    mine = ec.generate_private_key(key.curve)
    size = (key.key_size + 7) // 8
    point = mine.public_key().public_numbers()
    x, y = point.x.to_bytes(size, "big"), point.y.to_bytes(size, "big")
    # KDFe (SP 800-56A), of which one round is enough for a digest's length.
    parties = x + ek.numbers()[0].to_bytes(size, "big")
    agreed = (1).to_bytes(4, "big") + mine.exchange(ec.ECDH(), key) + _IDENTITY + parties
    return hashlib.new(ek.name_alg, agreed).digest(), _sized(x) + _sized(y)


@cache
def _oaep(hash_name: str) -> padding.OAEP:
    algorithm = _HASHES[hash_name]
    return padding.OAEP(padding.MGF1(algorithm), algorithm, _IDENTITY)


def _sized(data: bytes) -> bytes:
    """A TPM2B."""
    return len(data).to_bytes(2, "big") + data
