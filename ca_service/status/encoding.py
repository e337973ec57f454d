"""The to-be-signed bytes of a revocation list, put together from their parts.

`cryptography` builds a list entry by entry, which takes longer than all the rest. The entries are alike in all but two
members, so here they are only framed. What comes out is read back by two parsers before anybody signs it: see `crl`.

Source: RFC 5280, section 5.1.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from cryptography import x509

from ca_service.judgment import BadRequest
from ca_service.profiles.encoding import der_value, encoded
from ca_service.profiles.structures import ECDSA_WITH_SHA384

CODES: Final = {
    "unspecified": 0,
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "privilegeWithdrawn": 9,
}
"""CRLReason (RFC 5280, section 5.3.1): those that this CA gives. It puts nothing on hold."""

_V2 = bytes.fromhex("020101")
_REASON_CODE = bytes.fromhex("0603551d15")
_INTEGER, _OCTETS, _ENUMERATED = 0x02, 0x04, 0x0A
_GENERALIZED_TIME, _SEQUENCE, _EXTENSIONS = 0x18, 0x30, 0xA0
_MAX_OCTETS = 20
_MAX_SERIAL = 2 ** (8 * _MAX_OCTETS - 1)
_FIRST_GENERALIZED = 2050


def tbs_certlist(
    issuer: bytes,
    this_update: datetime,
    next_update: datetime,
    entries: bytes,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
) -> bytes:
    """DER of a TBSCertList of version 2, to be signed by ECDSA with SHA-384.

    Args:
        issuer: DER of the issuer's name.
        this_update: when the list is made, aware.
        next_update: when the next one will be there at the latest, aware.
        entries: as `revoked_certificates` gives them. The member is left out if there are none.
        extensions: of the list, each with its criticality.
    """
    return der_value(
        _SEQUENCE,
        _V2,
        ECDSA_WITH_SHA384,
        issuer,
        _time(this_update),
        _time(next_update),
        der_value(_SEQUENCE, entries) if entries else b"",
        der_value(_EXTENSIONS, der_value(_SEQUENCE, *(encoded(*extension) for extension in extensions))),
    )


def revoked_certificates(entries: Iterable[tuple[int, datetime, str]]) -> bytes:
    """DER of the entries of a list, one after the other; `unspecified` is no reason to be given (section 5.3.1).

    Args:
        entries: serial number, time (aware) and reason (one of `CODES`) of each, in the order of the list.

    Raises:
        BadRequest: a serial number is out of range, or a reason is none of `CODES`.
    """
    written, latest, moment = list[bytes](), None, b""
    # There may be a hundred thousand: each call counts.
    for serial, at, reason in entries:
        if not 0 < serial < _MAX_SERIAL:
            raise BadRequest("serial", "must be positive and at most 20 octets long")
        if at is not latest:
            latest, moment = at, _time(at)
        tail = moment + _reason(reason)
        size = serial.bit_length() // 8 + 1
        written.append(_heads(len(tail))[size] + serial.to_bytes(size, "big") + tail)
    return b"".join(written)


@lru_cache(maxsize=8)
def _heads(tail: int) -> tuple[bytes, ...]:
    """What stands before a serial number, by its octets: head of an entry with such a tail, and of the number."""
    return tuple(bytes((_SEQUENCE, 2 + size + tail, _INTEGER, size)) for size in range(_MAX_OCTETS + 1))


@lru_cache(maxsize=len(CODES))
def _reason(name: str) -> bytes:
    if name not in CODES:
        raise BadRequest("reason", "must be one of " + ", ".join(CODES))
    if name == "unspecified":
        return b""
    code = der_value(_OCTETS, der_value(_ENUMERATED, bytes([CODES[name]])))
    return der_value(_SEQUENCE, der_value(_SEQUENCE, _REASON_CODE, code))


def _time(moment: datetime) -> bytes:
    """UTCTime up to 2049, GeneralizedTime from then on (RFC 5280, section 5.1.2.4)."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    if utc.year >= _FIRST_GENERALIZED:
        return generalized_time(utc)
    return b"\x17\x0d%02d%02d%02d%02d%02d%02dZ" % (
        utc.year % 100,
        utc.month,
        utc.day,
        utc.hour,
        utc.minute,
        utc.second,
    )


def generalized_time(moment: datetime) -> bytes:
    """GeneralizedTime of whole seconds (RFC 5280, section 4.1.2.5.2); of an aware time."""
    utc = moment.astimezone(UTC)
    return der_value(_GENERALIZED_TIME, f"{utc.year:04}{utc:%m%d%H%M%S}Z".encode("ascii"))
