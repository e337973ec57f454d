"""TPMT_PUBLIC, the public area of a TPM key, and the Names made from it.

A small reader of our own, so that hostile bytes never reach a C library. Structures: TPM 2.0 Library, Part 2,
section 12.2; Names: Part 1, section 16.
"""

import struct
from functools import cache, lru_cache
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vtpm.wire.curves import P256, P384, P521, Curve
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property
from vtpm.wire.policy_digests import HASH_ALGORITHMS, digest

MAX_PUBLIC = 1024
"""Largest TPMT_PUBLIC that is looked at, in bytes. RSA-4096 with a SHA-512 policy needs 602."""

ALG_RSA = 0x0001
ALG_AES = 0x0006
ALG_NULL = 0x0010
ALG_RSASSA = 0x0014
ALG_RSAES = 0x0015
ALG_RSAPSS = 0x0016
ALG_OAEP = 0x0017
ALG_ECDSA = 0x0018
ALG_ECDH = 0x0019
ALG_ECSCHNORR = 0x001C
ALG_ECC = 0x0023
ALG_CFB = 0x0043

ECC_CURVES: dict[int, Curve] = {0x0003: P256, 0x0004: P384, 0x0005: P521}
"""TPM_ECC_CURVE to curve: the NIST curves that TCG templates use."""

CURVES = {number: (curve.bits, curve.group) for number, curve in ECC_CURVES.items()}
"""TPM_ECC_CURVE to key size in bits and curve."""

CURVE_IDS = {curve.bits: number for number, curve in ECC_CURVES.items()}
"""Key size in bits to TPM_ECC_CURVE."""

REMEMBERED: Final = 2048
"""How many public areas and Names are remembered by their bytes: many checks look at each key of a TPM."""

_HASH_NAMES = {algorithm: name for name, algorithm in HASH_ALGORITHMS.items()}
_RSA_SCHEMES = (ALG_RSASSA, ALG_RSAPSS, ALG_OAEP)
_ECC_SCHEMES = (ALG_ECDSA, ALG_ECDH, ALG_ECSCHNORR)
_KDF_SCHEMES = (0x0007, 0x0020, 0x0021, 0x0022)
_MIN_RSA_BITS = 1024
_MAX_RSA_BITS = 4096
_DEFAULT_EXPONENT = 65537
_USUAL_EXPONENT = bytes.fromhex("0203010001")
"""The default exponent as it stands at the end of a SubjectPublicKeyInfo."""

_RH_ENDORSEMENT = struct.pack(">I", 0x4000000B)


class Symmetric(NamedTuple):
    """TPMT_SYM_DEF_OBJECT: TPM_ALG_ID of the cipher, key size in bits, TPM_ALG_ID of the mode (0 if NULL)."""

    algorithm: int = ALG_NULL
    bits: int = 0
    mode: int = 0


class Scheme(NamedTuple):
    """A signing, encryption or key derivation scheme: its TPM_ALG_ID and its hash (0 if it takes none)."""

    algorithm: int = ALG_NULL
    hash_algorithm: int = 0


@frozen
class PublicArea:
    """A decoded TPMT_PUBLIC.

    Attributes:
        kind: "rsa" or "ecc".
        name_alg: "sha256", "sha384" or "sha512".
        attributes: TPMA_OBJECT.
        policy: authPolicy, as it stands.
        symmetric: the cipher with which a storage key protects its children.
        scheme: signing or encryption scheme.
        bits: size of the RSA modulus, or of the curve's field.
        curve: TPM_ECC_CURVE; 0 for RSA.
        exponent: RSA public exponent as it stands, 0 meaning 65537; 0 for ECC.
        kdf: key derivation scheme; NULL for RSA.
        unique: the modulus alone, or the coordinates x and y, as they stand.
    """

    kind: str
    name_alg: str
    attributes: int
    policy: bytes
    symmetric: Symmetric
    scheme: Scheme
    bits: int
    curve: int
    exponent: int
    kdf: Scheme
    unique: tuple[bytes, ...]

    @cached_property
    def frame(self) -> tuple[object, ...]:
        """All fields but `unique`: what the keys of one template have in common."""
        return (
            self.kind,
            self.name_alg,
            self.attributes,
            self.policy,
            self.symmetric,
            self.scheme,
            self.bits,
            self.curve,
            self.exponent,
            self.kdf,
        )

    def numbers(self) -> tuple[int, ...]:
        """`unique` as numbers: the modulus alone, or the coordinates."""
        return self._numbers

    def public_key(self) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
        """The key as `cryptography` has it.

        Raises:
            WireError: the point is not on the curve, or modulus and exponent can be no RSA key.
        """
        return self._public_key

    def spki(self) -> bytes:
        """The key's SubjectPublicKeyInfo in DER (RFC 5280, section 4.1); raises as `public_key`."""
        return self._spki

    @cached_property
    def _spki(self) -> bytes:
        curve, numbers = ECC_CURVES.get(self.curve), self._numbers
        if self.kind == "ecc" and curve is not None and curve.has(*numbers):
            return curve.spki_head + b"".join([number.to_bytes(curve.size, "big") for number in numbers])
        if self.kind == "rsa" and self._is_usual_rsa:
            return _rsa_spki_head(self.bits) + self.unique[0] + _USUAL_EXPONENT
        return self._public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def _is_usual_rsa(self) -> bool:
        """Whether the modulus has its full length in bits, and the exponent is the default one."""
        (modulus,) = self._numbers
        return (
            self.exponent in (0, _DEFAULT_EXPONENT)
            and modulus.bit_length() == len(self.unique[0]) * 8 == self.bits
        )

    @cached_property
    def _numbers(self) -> tuple[int, ...]:
        return tuple([int.from_bytes(part, "big") for part in self.unique])

    @cached_property
    def _public_key(self) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
        try:
            if self.kind == "rsa":
                return rsa.RSAPublicNumbers(self.exponent or _DEFAULT_EXPONENT, *self._numbers).public_key()
            x, y = self._numbers
            return ec.EllipticCurvePublicNumbers(x, y, ECC_CURVES[self.curve].group).public_key()
        except ValueError as error:
            raise WireError("unique", f"is no {self.bits}-bit {self.kind.upper()} public key") from error


@cache
def _rsa_spki_head(bits: int) -> bytes:
    """What stands before the modulus in the DER of the SubjectPublicKeyInfo (RFC 3279) of every usual key of a size."""
    some_key = rsa.RSAPublicNumbers(_DEFAULT_EXPONENT, 1 << bits - 1 | 1).public_key()
    spki = some_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki[: -len(_USUAL_EXPONENT) - bits // 8]


class _Reader:
    """Takes big-endian fields off the front; every shortage names the field."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int, field: str) -> bytes:
        start = self._at
        self._at = end = start + size
        if end > len(self._data):
            raise WireError(field, f"needs {size} bytes, {len(self._data) - start} are left")
        return self._data[start:end]

    def number(self, field: str) -> int:
        """A number of 16 bits, as nearly all are."""
        data, start = self._data, self._at
        if start + 2 > len(data):
            self.take(2, field)  # which says what is missing
        self._at = start + 2
        return data[start] << 8 | data[start + 1]

    def long(self, field: str) -> int:
        """A number of 32 bits."""
        return int.from_bytes(self.take(4, field), "big")

    def sized(self, field: str, most: int) -> bytes:
        """A TPM2B: 16-bit size, then as many bytes."""
        size = self.number(field)
        if size > most:
            raise WireError(field, f"must be at most {most} bytes, claims {size}")
        return self.take(size, field)

    def hash_name(self, field: str) -> str:
        algorithm = self.number(field)
        if algorithm not in _HASH_NAMES:
            raise WireError(field, "must be SHA-256, SHA-384 or SHA-512")
        return _HASH_NAMES[algorithm]

    def symmetric(self) -> Symmetric:
        algorithm = self.number("symmetric")
        if algorithm == ALG_NULL:
            return Symmetric()
        if algorithm != ALG_AES:
            raise WireError("symmetric", "must be NULL or AES")
        return Symmetric(algorithm, self.number("symmetric"), self.number("symmetric"))

    def scheme(self, field: str, with_hash: tuple[int, ...], without_hash: tuple[int, ...] = ()) -> Scheme:
        algorithm = self.number(field)
        if algorithm == ALG_NULL or algorithm in without_hash:
            return Scheme(algorithm)
        if algorithm not in with_hash:
            raise WireError(field, "is none that TCG key templates know")
        return Scheme(algorithm, self.number(field))

    def end(self) -> None:
        left = len(self._data) - self._at
        if left:
            raise WireError("", f"is followed by {left} bytes that do not belong to it")


def parse_public(data: bytes, path: str = "") -> PublicArea:
    """Read a TPMT_PUBLIC, all of it.

    Only the structure is judged; whether key and attributes are good, `templates.differences` and the
    CA decide.

    Raises:
        WireError: truncated, too long, or an algorithm, curve or scheme that no TCG template of RSA or NIST
            curves uses.
    """
    try:
        return _parsed(data)
    except WireError as error:
        raise error.under(path) from None


@lru_cache(maxsize=REMEMBERED)
def _parsed(data: bytes) -> PublicArea:
    if len(data) > MAX_PUBLIC:
        raise WireError("", f"must be at most {MAX_PUBLIC} bytes, is {len(data)}")
    reader = _Reader(data)
    kind = reader.number("type")
    if kind not in (ALG_RSA, ALG_ECC):
        raise WireError("type", "must be RSA or ECC")
    name_alg = reader.hash_name("nameAlg")
    attributes = reader.long("objectAttributes")
    policy = reader.sized("authPolicy", 64)
    symmetric = reader.symmetric()
    curve = exponent = 0
    kdf = Scheme()
    unique: tuple[bytes, ...]
    if kind == ALG_RSA:
        scheme = reader.scheme("scheme", _RSA_SCHEMES, (ALG_RSAES,))
        bits = reader.number("keyBits")
        if bits % 8 or not _MIN_RSA_BITS <= bits <= _MAX_RSA_BITS:
            raise WireError("keyBits", f"must be {_MIN_RSA_BITS} to {_MAX_RSA_BITS}, in whole bytes")
        exponent = reader.long("exponent")
        unique = (reader.sized("unique", bits // 8),)
    else:
        scheme = reader.scheme("scheme", _ECC_SCHEMES)
        curve = reader.number("curveID")
        if curve not in ECC_CURVES:
            raise WireError("curveID", "must be NIST P-256, P-384 or P-521")
        bits = ECC_CURVES[curve].bits
        kdf = reader.scheme("kdf", _KDF_SCHEMES)
        size = (bits + 7) // 8
        unique = (reader.sized("unique.x", size), reader.sized("unique.y", size))
    reader.end()
    return PublicArea(
        "rsa" if kind == ALG_RSA else "ecc",
        name_alg,
        attributes,
        policy,
        symmetric,
        scheme,
        bits,
        curve,
        exponent,
        kdf,
        unique,
    )


def _tpm2b(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _pack_scheme(scheme: Scheme) -> bytes:
    if scheme.algorithm in (ALG_NULL, ALG_RSAES):
        return struct.pack(">H", scheme.algorithm)
    return struct.pack(">HH", scheme.algorithm, scheme.hash_algorithm)


def pack_public(area: PublicArea) -> bytes:
    """Inverse of `parse_public`."""
    packed = struct.pack(
        ">HHI", ALG_RSA if area.kind == "rsa" else ALG_ECC, HASH_ALGORITHMS[area.name_alg], area.attributes
    )
    packed += _tpm2b(area.policy)
    packed += struct.pack(">H", area.symmetric.algorithm)
    if area.symmetric.algorithm != ALG_NULL:
        packed += struct.pack(">HH", area.symmetric.bits, area.symmetric.mode)
    packed += _pack_scheme(area.scheme)
    if area.kind == "rsa":
        packed += struct.pack(">HI", area.bits, area.exponent)
    else:
        packed += struct.pack(">H", area.curve) + _pack_scheme(area.kdf)
    return packed + b"".join(_tpm2b(part) for part in area.unique)


@lru_cache(maxsize=REMEMBERED)
def name(public: bytes) -> bytes:
    """The Name of a key: nameAlg || H(TPMT_PUBLIC).

    Raises:
        WireError: `public` names no hash that we know.
    """
    name_alg = _Reader(public[2:]).hash_name("nameAlg")
    return public[2:4] + digest(name_alg, public)


@lru_cache(maxsize=REMEMBERED)
def qualified_name(public: bytes) -> bytes:
    """The Qualified Name of a primary key of the endorsement hierarchy: nameAlg || H(4000000B || Name).

    Raises:
        WireError: as `name`.
    """
    own = name(public)
    return own[:2] + digest(_HASH_NAMES[int.from_bytes(own[:2], "big")], _RH_ENDORSEMENT, own)
