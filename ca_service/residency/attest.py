"""TPMS_ATTEST of type Certify and TPMT_SIGNATURE, by a reader of our own that takes what libtss2 does and never raises.

Each enrolment brings both, and the way through libtss2 costs as much as a signature on P-256. Only a well-formed
signature by RSASSA-PSS still goes there, to be verified by tpm2-pytss.

Structures: TPM 2.0 Library, Part 2, sections 10.12.12 (TPMS_ATTEST), 10.12.3 (TPMS_CERTIFY_INFO) and 11.3.4
(TPMT_SIGNATURE).
"""

import os
from dataclasses import field
from typing import Final, Self

# libtss2 writes a line to stderr for each malformed structure: a way for strangers to fill the log. It takes its
# level from the environment at the first line, so this must stand before its import. An operator's setting counts.
os.environ.setdefault("TSS2_LOG", "all+none")

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from tpm2_pytss import TPMT_SIGNATURE, TSS2_Exception

from vtpm.wire.frozen import frozen

MAGIC = 0xFF544347
"""TPM_GENERATED_VALUE: restricted keys sign nothing that begins so unless the TPM made it."""

HEAD: Final = 6
"""Octets of magic and type, with which every TPMS_ATTEST begins."""

ATTEST_CERTIFY = 0x8017
"""TPM_ST_ATTEST_CERTIFY."""

ALG_RSAPSS = 0x0016
ALG_ECDSA = 0x0018

_HASHES: Final[dict[int, hashes.HashAlgorithm]] = {
    0x000B: hashes.SHA256(),
    0x000C: hashes.SHA384(),
    0x000D: hashes.SHA512(),
}
"""By TPM_ALG_ID, those that the TCG's templates sign ECDSA with."""

_CLOCK_INFO: Final = 17
_FIRMWARE: Final = 8
_SIGNATURE_HEAD: Final = 4

# Longest TPM2B of each kind, in octets, as libtss2 has them.
_MAX_NAME: Final = 68
_MAX_DATA: Final = 64
_MAX_NUMBER: Final = {ALG_RSAPSS: 512, ALG_ECDSA: 128}

_NOT_READABLE = (TSS2_Exception, ValueError, TypeError, OverflowError, MemoryError)


@frozen
class CertifyInfo:
    """The inside of a TPMS_ATTEST of type Certify.

    Attributes:
        qualified_signer: Qualified Name of the signing key.
        extra_data: the caller's qualifying data.
        firmware: the TPM's firmware version, 64 bits.
        name: Name of the certified key.
        qualified_name: Qualified Name of the certified key.
    """

    qualified_signer: bytes
    extra_data: bytes
    firmware: int
    name: bytes
    qualified_name: bytes


def head_of(raw: bytes) -> tuple[int | None, int | None]:
    """The two fields in front of any TPMS_ATTEST, magic and type; None where the bytes end before them."""
    magic = int.from_bytes(raw[:4], "big") if len(raw) >= 4 else None  # noqa: PLR2004 - TPM_CONSTANTS32
    type_ = int.from_bytes(raw[4:HEAD], "big") if len(raw) >= HEAD else None
    return magic, type_


@frozen
class Attest:
    """A TPMS_ATTEST: the bytes, the two fields in front, and the rest if it is a well-formed Certify structure.

    `magic` and `type` are None where the bytes end before them.
    """

    raw: bytes = field(repr=False)
    magic: int | None
    type: int | None
    info: CertifyInfo | None

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Read whatever is there."""
        magic, type_ = head_of(raw)
        of_certify = magic == MAGIC and type_ == ATTEST_CERTIFY
        return cls(raw, magic, type_, _certify_info(raw) if of_certify else None)


@frozen
class Signature:
    """A TPMT_SIGNATURE: the bytes, the scheme and hash that stand in front, and the rest if it is well-formed.

    `scheme` is a pair of TPM_ALG_ID, None where the bytes end before it. `numbers` are r and s of ECDSA, or the one
    number of RSASSA-PSS, as they stand; none if this is no signature of an IAK.
    """

    raw: bytes = field(repr=False)
    scheme: tuple[int, int] | None
    numbers: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Read whatever is there."""
        if len(raw) < _SIGNATURE_HEAD:
            return cls(raw, None)
        scheme = (int.from_bytes(raw[:2], "big"), int.from_bytes(raw[2:4], "big"))
        return cls(raw, scheme, _numbers(raw, scheme[0]) if scheme[0] in _MAX_NUMBER else ())

    def fits(self, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bool:
        """Whether the signature's numbers have a length that the key can make."""
        if self.scheme is None or not self.numbers:
            return False
        size = (key.key_size + 7) // 8
        if isinstance(key, rsa.RSAPublicKey):
            return self.scheme[0] == ALG_RSAPSS and len(self.numbers[0]) == size
        return self.scheme[0] == ALG_ECDSA and all(1 <= len(number) <= size for number in self.numbers)

    def holds(self, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, signed: bytes) -> bool:
        """Whether this is the key's signature over the bytes, under the signature's own scheme and hash."""
        if not self.fits(key):
            return False
        algorithm = _HASHES.get(self.scheme[1]) if self.scheme is not None else None
        try:
            if isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
                r, s = (int.from_bytes(number, "big") for number in self.numbers)
                key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(algorithm))
            else:
                TPMT_SIGNATURE.unmarshal(self.raw)[0].verify_signature(key, signed)
        except (InvalidSignature, UnsupportedAlgorithm, *_NOT_READABLE):
            return False
        return True


def _sized(raw: bytes, at: int, most: int) -> tuple[bytes, int]:
    """The TPM2B at an offset, and where it ends: behind `raw` if it is cut off. Raises ValueError if it is too long."""
    start = at + 2
    end = start + int.from_bytes(raw[at:start], "big")
    if end - start > most:
        raise ValueError("is longer than may be")
    return raw[start:end], end


def _certify_info(raw: bytes) -> CertifyInfo | None:
    """The fields of a TPMS_ATTEST of type Certify; None if it is not well-formed to the last byte."""
    try:
        signer, at = _sized(raw, HEAD, _MAX_NAME)
        extra_data, at = _sized(raw, at, _MAX_DATA)
        at += _CLOCK_INFO
        firmware = int.from_bytes(raw[at : at + _FIRMWARE], "big")
        name, at = _sized(raw, at + _FIRMWARE, _MAX_NAME)
        qualified_name, at = _sized(raw, at, _MAX_NAME)
    except ValueError:
        return None
    return CertifyInfo(signer, extra_data, firmware, name, qualified_name) if at == len(raw) else None


def _numbers(raw: bytes, algorithm: int) -> tuple[bytes, ...]:
    """The numbers of a TPMT_SIGNATURE of this algorithm; none if it is not well-formed to the last byte."""
    most = _MAX_NUMBER[algorithm]
    numbers, at = [], _SIGNATURE_HEAD
    try:
        for _ in range(2 if algorithm == ALG_ECDSA else 1):
            number, at = _sized(raw, at, most)
            numbers.append(number)
    except ValueError:
        return ()
    return tuple(numbers) if at == len(raw) else ()
