"""The to-be-signed bytes of a device's certificate, put together from their parts, and the frame of what is signed.

`cryptography` encodes the parts, names, keys and extensions; here they are only framed. Its builder gives out the same
bytes (a test holds the two against each other), but only inside a certificate that some key has signed. A part that is
the same in many certificates is encoded once.

Source: RFC 5280, section 4.1.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat import asn1

from ca_service.profiles.model import Validity
from ca_service.profiles.parts import Parts
from ca_service.profiles.structures import ECDSA_WITH_SHA384

REMEMBERED: Final = 256
"""How many encodings of a kind are remembered."""

_BOOLEAN_TRUE = bytes.fromhex("0101ff")
_V3 = bytes.fromhex("a003020102")
_NO_UNUSED_BITS = b"\x00"
_INTEGER, _BITS, _OCTETS, _UTC_TIME, _GENERALIZED_TIME = 0x02, 0x03, 0x04, 0x17, 0x18
_SEQUENCE, _EXTENSIONS = 0x30, 0xA3
_LONG_FORM = 0x80
_FIRST_GENERALIZED = 2050


class Frame(NamedTuple):
    """What a certificate has besides its extensions: DER of subject, SubjectPublicKeyInfo and issuer, and the rest."""

    subject: bytes
    spki: bytes
    serial: int
    validity: Validity
    issuer: bytes


def parts_of(frame: Frame, extensions: Sequence[bytes]) -> Parts:
    """The parts of a TBSCertificate of version 3, to be signed by ECDSA with SHA-384.

    Args:
        frame: what stands before the extensions.
        extensions: DER of each, in their order; see `encoded`.
    """
    return Parts(
        _V3,
        _integer(frame.serial),
        ECDSA_WITH_SHA384,
        frame.issuer,
        _validity(frame.validity.not_before, frame.validity.not_after),
        frame.subject,
        frame.spki,
        der_value(_EXTENSIONS, der_value(_SEQUENCE, *extensions)),
        tuple(extensions),
    )


def tbs_certificate(parts: Parts) -> bytes:
    """DER of the TBSCertificate that is made of these parts."""
    return der_value(_SEQUENCE, *parts[:-1])


def assemble(tbs: bytes, signature: bytes) -> bytes:
    """Put to-be-signed bytes and a signature together to a signed object (Certificate or CertificateList).

    Args:
        tbs: DER of the TBSCertificate or TBSCertList; it names ecdsa-with-SHA384.
        signature: DER of the ECDSA-Sig-Value over `tbs` with SHA-384.

    Returns:
        The DER of the signed object (RFC 5280, section 4.1).
    """
    return der_value(_SEQUENCE, tbs, ECDSA_WITH_SHA384, der_value(_BITS, _NO_UNUSED_BITS, signature))


def encoded(value: x509.ExtensionType, critical: bool) -> bytes:
    """DER of an Extension (RFC 5280, section 4.1)."""
    mark = _BOOLEAN_TRUE if critical else b""
    return der_value(_SEQUENCE, _oid(value.oid), mark, der_value(_OCTETS, value.public_bytes()))


@lru_cache(maxsize=REMEMBERED)
def _oid(oid: x509.ObjectIdentifier) -> bytes:
    return asn1.encode_der(oid)


@lru_cache(maxsize=REMEMBERED)
def _validity(not_before: datetime, not_after: datetime) -> bytes:
    return der_value(_SEQUENCE, _time(not_before), _time(not_after))


def _time(moment: datetime) -> bytes:
    """UTCTime up to 2049, GeneralizedTime from then on (RFC 5280, section 4.1.2.5); `Validity` has times in UTC."""
    text = f"{moment.year:04}{moment:%m%d%H%M%S}Z".encode("ascii")
    if moment.year < _FIRST_GENERALIZED:
        return der_value(_UTC_TIME, text[2:])
    return der_value(_GENERALIZED_TIME, text)


def _integer(number: int) -> bytes:
    return der_value(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def der_value(tag: int, *parts: bytes) -> bytes:
    """One value of the distinguished encoding: tag of one octet, shortest length, and the parts as its contents."""
    size = sum(map(len, parts))
    if size < _LONG_FORM:
        return b"".join((bytes((tag, size)), *parts))
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return b"".join((bytes((tag, _LONG_FORM | len(length))), length, *parts))
