"""Two readers of a revocation list that share no code with each other, nor with what has written it.

The first one is `cryptography`, which reads serial number and time of every entry. Of the entries' extensions, which
are the reason and little else, it reads those of the same octets once: there are few, and to read them is dear.

The second one takes the list apart with `asn1crypto`. Entries that differ in nothing but the digits of serial number
and time are read by it once, which says where these stand; in the others they are looked up there. It reads only what
this CA is about to sign.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from asn1crypto import crl as second
from asn1crypto import parser
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509.oid import CRLEntryExtensionOID

from ca_service.judgment import VtpmCaError
from ca_service.profiles.containers import elements, inside
from ca_service.profiles.scope import scope_of

_SEQUENCE, _INTEGER, _EXTENSIONS = 0x30, 0x02, 0xA0
_UTC_TIME = 15
"""Octets of a time in its shorter form."""
_ENTRY = 128
"""More octets than an entry of this CA takes."""
_USUAL = re.compile(
    rb"(\x30.\x02\x11)"  # an entry, and in it an INTEGER of 17 octets, as this CA's serial numbers have
    rb"([\x01-\x7f].{16})"  # in the shortest form, and positive
    rb"(\x17\x0d)([0-4][0-9]{5})([0-9]{6}Z)"  # a UTCTime of this century: day and time
    rb"((?:\x30\x0c\x30.{11})?)",  # extensions, if there are any
    re.DOTALL,
)
"""An entry as this CA writes most of them; whether all its octets are in order, `_shape` says."""

Entry = tuple[int, datetime, str]
"""Serial number, time and reason of a revocation."""


@dataclass(frozen=True)
class ListView:
    """What a list says.

    Attributes:
        issuer: DER of the issuer's name.
        this_update: when it was made.
        next_update: when the next one will be there.
        number: its cRLNumber.
        key_id: its authority key id.
        scope: the one URI of its distribution point, from a critical issuingDistributionPoint that says nothing else;
            None if it has no such extension.
        extensions: dotted ids of all its extensions, in their order.
        entries: what is revoked, in the order of the list.
    """

    issuer: bytes
    this_update: datetime
    next_update: datetime | None
    number: int
    key_id: bytes | None
    scope: str | None
    extensions: tuple[str, ...]
    entries: Sequence[Entry]


def read_first(der: bytes) -> ListView:
    """As `cryptography` reads it; raises ValueError if it cannot, or if there is more than this CA writes."""
    crl = x509.load_der_x509_crl(der)
    extensions = crl.extensions
    try:
        number = extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        key_id = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound as error:
        raise ValueError(f"lacks {error.oid.dotted_string}") from None
    return ListView(
        crl.issuer.public_bytes(),
        crl.last_update_utc,
        crl.next_update_utc,
        number,
        key_id,
        scope_of(crl),
        tuple(extension.oid.dotted_string for extension in extensions),
        _first_entries(crl, der) if len(crl) else [],
    )


@asn1.sequence
class _Tbs:
    version: int
    signature: asn1.TLV
    issuer: asn1.TLV
    this_update: asn1.TLV
    next_update: asn1.TLV
    entries: asn1.TLV
    extensions: asn1.TLV


@asn1.sequence
class _List:
    tbs: _Tbs
    algorithm: asn1.TLV
    signature: asn1.BitString


def _first_entries(crl: x509.CertificateRevocationList, der: bytes) -> list[Entry]:
    contents = bytes(asn1.decode_der(_List, der).tbs.entries.data)
    entries, reasons, start = list[Entry](), dict[bytes, str](), 0
    for row in crl:
        if start + 1 >= len(contents):
            raise ValueError("an entry has another length than this CA's have")
        serial, end = row.serial_number, start + 2 + contents[start + 1]
        # The extensions; before them the end of a time that is no UTCTime.
        tail = contents[start + 4 + serial.bit_length() // 8 + 1 + _UTC_TIME : end]
        reason = reasons.get(tail)
        if reason is None:
            reason = reasons[tail] = _reason(row)
        entries.append((serial, row.revocation_date_utc, reason))
        start = end
    if start != len(contents):
        raise ValueError("an entry has another length than this CA's have")
    return entries


def _reason(revoked: x509.RevokedCertificate) -> str:
    extensions = list(revoked.extensions)
    if not extensions:
        return "unspecified"
    (extension,) = extensions
    if extension.oid != CRLEntryExtensionOID.CRL_REASON or extension.critical:
        raise ValueError("an entry has another extension than its reason")
    value = extension.value
    return value.reason.value if isinstance(value, x509.CRLReason) else ""


def read_second(der: bytes) -> ListView:
    """As `asn1crypto` reads it; raises ValueError if it cannot, or if there is more than this CA writes."""
    try:
        return _read_second(der)
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"asn1crypto cannot read it: {type(error).__name__}") from error


def _read_second(der: bytes) -> ListView:
    tbs = elements(inside(elements(inside(der, _SEQUENCE))[0], _SEQUENCE))
    tail = tbs[5:]
    entries = _entries(inside(tail.pop(0), _SEQUENCE)) if len(tail) > 1 else []
    (extensions,) = tail
    if extensions[0] != _EXTENSIONS:
        raise ValueError("a list ends with its extensions")
    # What is not an entry is read by the full reader, as a list without entries.
    frame = second.TbsCertList.load(_sequence([*tbs[:5], extensions]), strict=True)
    if frame["version"].native != "v2" or frame["signature"]["algorithm"].native != "sha384_ecdsa":
        raise ValueError("a list is of version 2, and signed by ECDSA with SHA-384")
    values = {e["extn_id"].dotted: e for e in frame["crl_extensions"]}
    point = values.get("2.5.29.28")
    return ListView(
        frame["issuer"].dump(),
        frame["this_update"].native,
        frame["next_update"].native,
        values["2.5.29.20"]["extn_value"].parsed.native,
        values["2.5.29.35"]["extn_value"].parsed["key_identifier"].native,
        None if point is None else _scope(point),
        tuple(e["extn_id"].dotted for e in frame["crl_extensions"]),
        entries,
    )


def _scope(extension: Any) -> str:
    point = extension["extn_value"].parsed
    said = [name for name, value in point.native.items() if value]
    names = list(point["distribution_point"].chosen)
    if not extension["critical"].native or said != ["distribution_point"] or len(names) != 1:
        raise ValueError("the issuingDistributionPoint must be critical, and name one place and nothing else")
    if names[0].name != "uniform_resource_identifier":
        raise ValueError("the issuingDistributionPoint must be a URI")
    # Not `native`, which turns the URI into an IRI and drops default ports.
    return str(names[0].chosen.contents.decode("ascii"))


def _sequence(elements: list[bytes]) -> bytes:
    der: bytes = parser.emit(0, 1, 16, b"".join(elements))
    return der


def _entries(contents: bytes) -> list[Entry]:
    """What stands in revokedCertificates. There may be a hundred thousand: most are not looked at one by one."""
    entries, reasons, size = list[Entry](), dict[tuple[bytes, bytes], tuple[str, int]](), 0
    for head, serial, tag, day, time, extensions in _USUAL.findall(contents):
        known = reasons.get((head, extensions))
        if known is None:
            whole = b"".join((head, serial, tag, day, time, extensions))
            known = reasons[head, extensions] = _shape(whole), len(whole)
        reason, length = known
        size += length
        moment = datetime.fromisoformat(f"20{day.decode()}T{time.decode()}")
        entries.append((int.from_bytes(serial, "big"), moment, reason))
    # Those found stand in the order of the list, and none is in another. If they fill it, there is nothing else in it.
    return entries if size == len(contents) else _unusual_entries(contents)


def _shape(entry: bytes) -> str:
    """The reason in an entry, if `asn1crypto` sees serial number and time in it where `_USUAL` does."""
    if parser.peek(entry) != len(entry):
        raise ValueError("an entry has another length than it says")
    ((serial, moment, reason),) = _unusual_entries(entry)
    found = _USUAL.fullmatch(entry)
    if found is None or serial != int.from_bytes(found[2], "big"):
        raise ValueError("a serial number does not stand where it should")
    if moment != datetime.fromisoformat(f"20{found[4].decode()}T{found[5].decode()}"):
        raise ValueError("a time does not stand where it should")
    return reason


def _unusual_entries(contents: bytes) -> list[Entry]:
    """The same, entry by entry."""
    entries, start, end = list[Entry](), 0, len(contents)
    while start < end:
        # Not all that follows: it would be copied for each entry.
        _, _, _, head, inside, _ = parser.parse(contents[start : start + _ENTRY])
        if head[0] != _SEQUENCE:
            raise ValueError("an entry must be a SEQUENCE")
        start += len(head) + len(inside)
        _, _, _, head, serial, _ = parser.parse(inside)
        if head[0] != _INTEGER:
            raise ValueError("a serial number must be an INTEGER")
        rest = inside[len(head) + len(serial) :]
        size = parser.peek(rest)
        reason = _reason_of(rest[size:]) if size < len(rest) else "unspecified"
        moment = second.Time.load(rest[:size], strict=True).native
        entries.append((int.from_bytes(serial, "big", signed=True), moment, reason))
    return entries


@lru_cache(maxsize=64)
def _reason_of(der: bytes) -> str:
    (extension,) = second.CRLEntryExtensions.load(der, strict=True)
    if extension["extn_id"].native != "crl_reason" or extension["critical"].native:
        raise ValueError("an entry has another extension than its reason")
    return _CAMEL[extension["extn_value"].parsed.native]


_CAMEL = {
    "unspecified": "unspecified",
    "key_compromise": "keyCompromise",
    "ca_compromise": "cACompromise",
    "affiliation_changed": "affiliationChanged",
    "superseded": "superseded",
    "cessation_of_operation": "cessationOfOperation",
    "privilege_withdrawn": "privilegeWithdrawn",
}


def check_read(der: bytes, wanted: ListView) -> None:
    """Raise `VtpmCaError` (code ``lint``) unless both readers see just what was wanted.

    Args:
        der: DER of the CertificateList under any signature.
        wanted: what it shall say.
    """
    for read in (read_first, read_second):
        try:
            found = read(der)
        except ValueError as error:
            detail = f"the revocation list cannot be read: {error}"
            raise VtpmCaError(detail, code="lint") from None
        if found != wanted:
            raise VtpmCaError("the revocation list does not say what it should", code="lint")
