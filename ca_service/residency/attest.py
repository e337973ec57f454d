"""TPMS_ATTEST and TPMT_SIGNATURE as tpm2-pytss reads them, under the roof of "never raises".

Structures: TPM 2.0 Library, Part 2, sections 10.12.12 (TPMS_ATTEST), 10.12.3 (TPMS_CERTIFY_INFO) and 11.3.4
(TPMT_SIGNATURE).
"""

import os
from dataclasses import dataclass, field
from typing import Any, Self

# libtss2 writes a line to stderr for each malformed structure: a way for strangers to fill the log. It takes its
# level from the environment at the first line, so this must stand before its import. An operator's setting counts.
os.environ.setdefault("TSS2_LOG", "all+none")

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tpm2_pytss import TPMS_ATTEST, TPMT_SIGNATURE, TSS2_Exception

MAGIC = 0xFF544347
"""TPM_GENERATED_VALUE: restricted keys sign nothing that begins so unless the TPM made it."""

ATTEST_CERTIFY = 0x8017
"""TPM_ST_ATTEST_CERTIFY."""

MAX_SIZE = 1024
"""Largest structure that is looked at, in bytes; TPM2_Certify makes some 300, an RSA-4096 signature 518."""

ALG_RSAPSS = 0x0016
ALG_ECDSA = 0x0018

_NOT_READABLE = (TSS2_Exception, ValueError, TypeError, OverflowError, MemoryError)


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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
        """Read whatever is there; bytes of another type than Certify never reach the C library."""
        magic = int.from_bytes(raw[:4], "big") if len(raw) >= 4 else None  # noqa: PLR2004 - TPM_CONSTANTS32
        type_ = int.from_bytes(raw[4:6], "big") if len(raw) >= 6 else None  # noqa: PLR2004 - then TPM_ST
        info = None
        if magic == MAGIC and type_ == ATTEST_CERTIFY:
            attest = _unmarshal(TPMS_ATTEST, raw)
            if attest is not None:
                certify = attest.attested.certify
                info = CertifyInfo(
                    qualified_signer=bytes(attest.qualifiedSigner),
                    extra_data=bytes(attest.extraData),
                    firmware=int(attest.firmwareVersion),
                    name=bytes(certify.name),
                    qualified_name=bytes(certify.qualifiedName),
                )
        return cls(raw, magic, type_, info)


@dataclass(frozen=True)
class Signature:
    """A TPMT_SIGNATURE: the scheme and hash that stand in front, and the rest if it is well-formed.

    `scheme` is a pair of TPM_ALG_ID, None where the bytes end before it.
    """

    scheme: tuple[int, int] | None
    parsed: Any = field(repr=False)  # a tpm2_pytss.TPMT_SIGNATURE, which has no types, or None

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Read whatever is there; schemes that no IAK has never reach the C library."""
        if len(raw) < 4:  # noqa: PLR2004 - two TPM_ALG_ID
            return cls(None, None)
        scheme = (int.from_bytes(raw[:2], "big"), int.from_bytes(raw[2:4], "big"))
        parsed = _unmarshal(TPMT_SIGNATURE, raw) if scheme[0] in (ALG_RSAPSS, ALG_ECDSA) else None
        return cls(scheme, parsed)

    def fits(self, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bool:
        """Whether the signature's numbers have a length that the key can make."""
        if self.scheme is None or self.parsed is None:
            return False
        size = (key.key_size + 7) // 8
        inside = self.parsed.signature
        if isinstance(key, rsa.RSAPublicKey):
            return self.scheme[0] == ALG_RSAPSS and len(bytes(inside.rsapss.sig)) == size
        numbers = (bytes(inside.ecdsa.signatureR), bytes(inside.ecdsa.signatureS))
        return self.scheme[0] == ALG_ECDSA and all(1 <= len(number) <= size for number in numbers)

    def holds(self, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, signed: bytes) -> bool:
        """Whether this is the key's signature over the bytes, under the signature's own scheme and hash."""
        if not self.fits(key):
            return False
        try:
            self.parsed.verify_signature(key, signed)
        except (InvalidSignature, UnsupportedAlgorithm, *_NOT_READABLE):
            return False
        return True


def _unmarshal(structure: Any, raw: bytes) -> Any:
    """The structure if `raw` is exactly its one encoding, else None."""
    if len(raw) > MAX_SIZE:
        return None
    try:
        parsed, consumed = structure.unmarshal(raw)
        exact = consumed == len(raw) and parsed.marshal() == raw
    except _NOT_READABLE:
        return None
    return parsed if exact else None
