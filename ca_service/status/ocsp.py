"""OCSP requests and responses (RFC 6960, section 4), as values. Nothing here knows a database or a clock.

A request is hostile input. It is read by `cryptography`'s strict DER reader against the structures below, so what they
do not describe is malformed: signed requests, for which there is no use here, and requestor names, which come with
them. A response is written from a few values of this CA, and the CertIDs in it are those of the request, byte for byte.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from functools import lru_cache
from typing import Annotated, Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.judgment import BadRequest
from ca_service.profiles import certified_key
from ca_service.profiles.encoding import der_value
from ca_service.profiles.structures import PublicKeyInfo, decode
from ca_service.status.encoding import CODES, generalized_time

MAX_REQUEST: Final = 4096
"""Largest request, in octets of DER."""

MOST_CERT_IDS: Final = 32
"""Certificates that one request may ask about."""

MAX_NONCE: Final = 128
"""Octets of a nonce (RFC 9654, section 2.1)."""

_DIGESTS: Final = {"1.3.14.3.2.26": "sha1", "2.16.840.1.101.3.4.2.1": "sha256"}
_NONCE = "1.3.6.1.5.5.7.48.1.2"
_NONCE_OID = bytes.fromhex("06092b0601050507300102")
_BASIC = bytes.fromhex("06092b0601050507300101")
_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_OCTETS, _BITS, _ENUMERATED, _SEQUENCE = 0x04, 0x03, 0x0A, 0x30
_EXPLICIT_0, _EXPLICIT_1, _EXPLICIT_2 = 0xA0, 0xA1, 0xA2
_GOOD, _UNKNOWN = bytes.fromhex("8000"), bytes.fromhex("8200")
_REVOKED = 0xA1
_NO_UNUSED_BITS = b"\x00"


class Failure(IntEnum):
    """Why there is no answer: OCSPResponseStatus (RFC 6960, section 4.2.1)."""

    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    UNAUTHORIZED = 6


@asn1.sequence
class _Algorithm:
    algorithm: x509.ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class _CertId:
    hash_algorithm: _Algorithm
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial_number: asn1.TLV


@asn1.sequence
class _Extension:
    id: x509.ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]
    value: bytes


@asn1.sequence
class _Single:
    cert_id: _CertId
    extensions: Annotated[list[_Extension] | None, asn1.Explicit(0)]


@asn1.sequence
class _TbsRequest:
    version: Annotated[int, asn1.Explicit(0), asn1.Default(0)]
    requests: list[_Single]
    extensions: Annotated[list[_Extension] | None, asn1.Explicit(2)]


@asn1.sequence
class _Request:
    tbs: _TbsRequest


@dataclass(frozen=True)
class CertId:
    """One certificate that a request asks about.

    Attributes:
        digest: name of the hash, as `hashlib` has it; empty for another than SHA-1 and SHA-256.
        name_hash: over the issuer's name.
        key_hash: over the issuer's public key.
        serial: the serial number, which may be any integer.
        der: the CertID as it stood in the request.
    """

    digest: str
    name_hash: bytes
    key_hash: bytes
    serial: int
    der: bytes = field(repr=False)

    def names(self, issuer: x509.Certificate) -> bool:
        """Whether the certificate is one of this issuer's."""
        return bool(self.digest) and (self.name_hash, self.key_hash) == _issuer_hashes(issuer, self.digest)


@dataclass(frozen=True)
class OcspRequest:
    """What is asked: at least one certificate; `nonce` as it is to be repeated, None without one."""

    cert_ids: tuple[CertId, ...]
    nonce: bytes | None


def parse_request(der: bytes) -> OcspRequest:
    """Read a request.

    Raises:
        BadRequest: it is none, or one that this CA does not answer: signed, of another version, with a critical
            extension, about no or too many certificates, or with a nonce that is not 1 to 128 octets (RFC 9654).
    """
    if len(der) > MAX_REQUEST:
        raise BadRequest("request", f"must be at most {MAX_REQUEST} bytes long")
    try:
        tbs = asn1.decode_der(_Request, der).tbs
        cert_ids = tuple(_cert_id(single.cert_id) for single in tbs.requests)
    except ValueError as error:
        raise BadRequest("request", f"is no OCSP request: {error}") from None
    if tbs.version != 0:
        raise BadRequest("request.version", "must be 1")
    if not 1 <= len(cert_ids) <= MOST_CERT_IDS:
        raise BadRequest("request.requestList", f"must ask about 1 to {MOST_CERT_IDS} certificates")
    return OcspRequest(cert_ids, _nonce(tbs))


def _cert_id(value: _CertId) -> CertId:
    return CertId(
        digest=_DIGESTS.get(value.hash_algorithm.algorithm.dotted_string, ""),
        name_hash=value.issuer_name_hash,
        key_hash=value.issuer_key_hash,
        serial=_integer(value.serial_number),
        der=asn1.encode_der(value),
    )


def _integer(value: asn1.TLV) -> int:
    """A serial number of any length; the reader's own integers end at 64 bits."""
    octets = bytes(value.data)
    if asn1.encode_der(value)[0] != 0x02 or not octets:  # noqa: PLR2004 - the tag of an INTEGER
        raise ValueError("a serial number must be an INTEGER")
    if len(octets) > 1 and octets[0] in (0x00, 0xFF) and octets[0] >> 7 == octets[1] >> 7:
        raise ValueError("a serial number must be as short as it can be")
    return int.from_bytes(octets, "big", signed=True)


def _nonce(tbs: _TbsRequest) -> bytes | None:
    """The nonce is an extension of the whole request; those of single certificates mean nothing here."""
    nonces = [extension.value for extension in tbs.extensions or () if extension.id.dotted_string == _NONCE]
    others = [extension for extension in tbs.extensions or () if extension.id.dotted_string != _NONCE]
    for extension in (*others, *(one for single in tbs.requests for one in single.extensions or ())):
        if extension.critical:
            raise BadRequest("request.extensions", f"has a critical {extension.id.dotted_string}")
    if not nonces:
        return None
    try:
        # An OCTET STRING within that of the extension.
        value: bytes = asn1.decode_der(bytes, nonces[0])
    except ValueError:
        value = b""
    if len(nonces) > 1 or not 1 <= len(value) <= MAX_NONCE:
        raise BadRequest("request.nonce", f"must be there once, and have 1 to {MAX_NONCE} octets")
    return value


@dataclass(frozen=True)
class Answer:
    """What is known about one certificate.

    Attributes:
        cert_id: the one that was asked about.
        known: whether its issuer has issued it, or put its serial number on a list.
        revoked_at: when it was revoked; None if it was not.
        reason: why, as in `REASONS`.
    """

    cert_id: CertId
    known: bool
    revoked_at: datetime | None = None
    reason: str = "unspecified"


def build_response(
    answers: Sequence[Answer],
    *,
    certificate: bytes,
    key: ec.EllipticCurvePrivateKey,
    this_update: datetime,
    next_update: datetime,
    nonce: bytes | None,
) -> bytes:
    """Write and sign a response.

    Args:
        answers: in the order in which was asked.
        certificate: DER of the responder's certificate.
        key: the responder's key, on P-256.
        this_update: when the answers were looked up, aware; also the time of the response.
        next_update: until when they may be gone by, aware.
        nonce: to be repeated.

    Returns:
        DER of an OCSPResponse, status successful.
    """
    responder = x509.load_der_x509_certificate(certificate)
    key_hash = hashlib.sha1(_key_bits(responder), usedforsecurity=False).digest()
    extensions = b""
    if nonce is not None:
        value = der_value(_OCTETS, der_value(_OCTETS, nonce))
        extension = der_value(_SEQUENCE, _NONCE_OID, value)
        extensions = der_value(_EXPLICIT_1, der_value(_SEQUENCE, extension))
    times = generalized_time(this_update), der_value(_EXPLICIT_0, generalized_time(next_update))
    singles = [der_value(_SEQUENCE, one.cert_id.der, _status(one), *times) for one in answers]
    data = der_value(
        _SEQUENCE,
        der_value(_EXPLICIT_2, der_value(_OCTETS, key_hash)),
        times[0],
        der_value(_SEQUENCE, *singles),
        extensions,
    )
    basic = der_value(
        _SEQUENCE,
        data,
        _ECDSA_WITH_SHA256,
        der_value(_BITS, _NO_UNUSED_BITS, key.sign(data, ec.ECDSA(hashes.SHA256()))),
        der_value(_EXPLICIT_0, der_value(_SEQUENCE, certificate)),
    )
    inside = der_value(_SEQUENCE, _BASIC, der_value(_OCTETS, basic))
    return der_value(_SEQUENCE, der_value(_ENUMERATED, b"\x00"), der_value(_EXPLICIT_0, inside))


def failure_response(failure: Failure) -> bytes:
    """The response that says why there is no answer; nobody signs it."""
    return der_value(_SEQUENCE, der_value(_ENUMERATED, bytes([failure])))


def _status(answer: Answer) -> bytes:
    if answer.revoked_at is not None:
        code = b""
        if answer.reason != "unspecified":
            code = der_value(_EXPLICIT_0, der_value(_ENUMERATED, bytes([CODES[answer.reason]])))
        return der_value(_REVOKED, generalized_time(answer.revoked_at), code)
    return _GOOD if answer.known else _UNKNOWN


@lru_cache(maxsize=64)
def _issuer_hashes(issuer: x509.Certificate, digest: str) -> tuple[bytes, bytes]:
    """Over its name and its key; a CA has few issuers, and everybody may ask."""
    name, key = (
        hashlib.new(digest, value, usedforsecurity=False).digest()
        for value in (issuer.subject.public_bytes(), _key_bits(issuer))
    )
    return name, key


def _key_bits(certificate: x509.Certificate) -> bytes:
    spki = certified_key(certificate.tbs_certificate_bytes)
    return decode(PublicKeyInfo, spki).key.as_bytes()
