"""TPMs in plain Python, of every kind of key that the CA certifies.

They state their keys, certify the IDevID by the IAK, and answer challenges: a test that enrols a hundred TPMs should
not start a hundred processes. Sources: TPM 2.0 Library, Part 1, sections 11.4.10 (KDFa, KDFe) and 24 (credential
protection), annexes B and C (how RSA and ECC carry the seed).
"""

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import replace

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from vtpm.wire.enrollment import Certify
from vtpm.wire.public_area import CURVES, pack_public, parse_public
from vtpm.wire.runtime_data import KeyStatement, TpmSpec, TpmStatement
from vtpm.wire.templates import Role, Template, name, qualified_name, template

FIRMWARE = "2023112300000001"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
_LABEL = b"IDENTITY\x00"


def new_key(chosen: Template) -> PrivateKey:
    """A fresh key of the template's kind."""
    if chosen.kind == "rsa":
        return rsa.generate_private_key(65537, chosen.bits)
    return ec.generate_private_key(next(curve for bits, curve in CURVES.values() if bits == chosen.bits))


def _stated(chosen: Template, key: PrivateKey) -> KeyStatement:
    numbers, size = key.public_key().public_numbers(), (chosen.bits + 7) // 8
    values = (numbers.n,) if isinstance(numbers, rsa.RSAPublicNumbers) else (numbers.x, numbers.y)
    unique = tuple(value.to_bytes(size, "big") for value in values)
    return KeyStatement(chosen.id, pack_public(replace(parse_public(chosen.public), unique=unique)))


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _take(data: bytes) -> tuple[bytes, bytes]:
    (size,) = struct.unpack_from(">H", data)
    return data[2 : 2 + size], data[2 + size :]


def _kdfa(name_alg: str, seed: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa for at most one block of the hash."""
    message = struct.pack(">I", 1) + label + b"\x00" + context + struct.pack(">I", bits)
    return hmac.digest(seed, message, name_alg)[: bits // 8]


def _recovered_seed(key: PrivateKey, name_alg: str, secret: bytes) -> bytes:
    """The seed that came with a challenge, as RSA-OAEP or as a one-pass Diffie-Hellman with KDFe."""
    if isinstance(key, rsa.RSAPrivateKey):
        digest = _HASHES[name_alg]
        return key.decrypt(secret, padding.OAEP(padding.MGF1(digest), digest, _LABEL))
    x, rest = _take(secret)
    y, _ = _take(rest)
    peer = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), key.curve)
    shared = key.exchange(ec.ECDH(), peer.public_key())
    own = key.public_key().public_numbers().x.to_bytes((key.key_size + 7) // 8, "big")
    return hashlib.new(name_alg, struct.pack(">I", 1) + shared + _LABEL + x + own).digest()


class SoftTpm:
    """EKs, IAK and IDevID of the templates named, TPM2_Certify and TPM2_ActivateCredential.

    `keys` makes a key for a template; one that keeps what it made spares the time that RSA keys take.
    """

    def __init__(
        self,
        eks: tuple[str, ...] = ("L-1",),
        iak: str = "H-3",
        idevid: str = "H-3",
        keys: Callable[[Template], PrivateKey] = new_key,
    ) -> None:
        chosen = [template(Role.EK, ek) for ek in eks]
        (self._ek, self.ek), *self._others = [(key := keys(ek), _stated(ek, key)) for ek in chosen]
        self._iak = keys(template(Role.IAK, iak))
        self._idevid = keys(template(Role.IDEVID, idevid))
        self.iak = _stated(template(Role.IAK, iak), self._iak)
        self.idevid = _stated(template(Role.IDEVID, idevid), self._idevid)

    @property
    def eks(self) -> tuple[KeyStatement, ...]:
        """All EKs, the one that names the TPM first."""
        return self.ek, *(ek for _, ek in self._others)

    def statement(self) -> TpmStatement:
        return TpmStatement(
            self.eks, self.iak, self.idevid, "49424d00", "SW   TPM", FIRMWARE, TpmSpec("2.0", "0", "164"),
            "manufactured",
        )  # fmt: skip

    def certify(self, qualifier: bytes) -> Certify:
        attest = (
            struct.pack(">IH", 0xFF544347, 0x8017)
            + _sized(qualified_name(self.iak.public))
            + _sized(qualifier)
            + struct.pack(">QIIB", 1000, 1, 0, 1)
            + bytes.fromhex(FIRMWARE)
            + _sized(name(self.idevid.public))
            + _sized(qualified_name(self.idevid.public))
        )
        return Certify(attest, self._signature(attest))

    def _signature(self, attest: bytes) -> bytes:
        """TPMT_SIGNATURE by the IAK in its own scheme (Part 2, section 11.3.4)."""
        area = parse_public(self.iak.public)
        digest = _HASHES[area.name_alg]
        head = struct.pack(">HH", area.scheme.algorithm, area.scheme.hash_algorithm)
        if isinstance(self._iak, rsa.RSAPrivateKey):
            salted = padding.PSS(padding.MGF1(digest), digest.digest_size)
            return head + _sized(self._iak.sign(attest, salted, digest))
        size = (self._iak.key_size + 7) // 8
        numbers = decode_dss_signature(self._iak.sign(attest, ec.ECDSA(digest)))
        return head + b"".join(_sized(number.to_bytes(size, "big")) for number in numbers)

    def activate(self, credential_blob: bytes, secret: bytes, index: int = 0) -> bytes:
        """TPM2_ActivateCredential for the IAK, by the EK at this place of the statement."""
        key, ek = ((self._ek, self.ek), *self._others)[index]
        area = parse_public(ek.public)
        seed = _recovered_seed(key, area.name_alg, _take(secret)[0])
        integrity, encrypted = _take(_take(credential_blob)[0])
        iak_name = name(self.iak.public)
        hmac_key = _kdfa(area.name_alg, seed, b"INTEGRITY", b"", _HASHES[area.name_alg].digest_size * 8)
        wanted = hmac.digest(hmac_key, encrypted + iak_name, area.name_alg)
        assert hmac.compare_digest(wanted, integrity)
        cipher_key = _kdfa(area.name_alg, seed, b"STORAGE", iak_name, area.symmetric.bits)
        plain = Cipher(algorithms.AES(cipher_key), CFB(bytes(16))).decryptor().update(encrypted)
        return _take(plain)[0]
