"""Second reader of the lint: `asn1crypto`, a parser that shares no code with the one that wrote the bytes.

It is kept away from hostile input: here it reads only what this CA is about to sign. It reads a certificate, or one
part of a certificate alone; `reading` says when which.
"""

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache, wraps
from itertools import starmap
from typing import Any, Final, ParamSpec, TypeVar

from asn1crypto import core
from asn1crypto import x509 as asn1

from ca_service.profiles.containers import elements, fields, inside, opened, series
from ca_service.profiles.parts import Parts
from ca_service.profiles.view import (
    AccessView,
    Attribute,
    AuthorityKeyView,
    BasicConstraintsView,
    CertificateView,
    DistributionView,
    ExtensionValue,
    ExtensionView,
    GeneralNameView,
    HardwareModuleView,
    NameView,
    OtherNameView,
    PermanentIdentifierView,
    PoliciesView,
    ProvenanceView,
    SpecificationView,
)

REMEMBERED: Final = 512
"""How many object identifiers, attributes of names, and alternative names, are remembered."""

_FIRST_GENERALIZED = 2050
_SEQUENCE, _SET, _BOOLEAN, _INTEGER, _OCTETS, _OID, _UTF8, _PRINTABLE = 0x30, 0x31, 1, 2, 4, 6, 0x0C, 0x13
_EXPLICIT_0, _EXPLICIT_3, _UNIQUE_IDENTIFIERS = 0xA0, 0xA3, (0x81, 0x82)
_TRUE = bytes.fromhex("0101ff")
_VERSIONS = {"v1": 1, "v2": 2, "v3": 3}
_HARDWARE_MODULE_NAME = "1.3.6.1.5.5.7.8.4"
_PERMANENT_IDENTIFIER = "1.3.6.1.5.5.7.8.3"
_SERIAL_NUMBER = bytes.fromhex("060355040513")
"""Begins the serialNumber in a name if its text is printable."""
_PROVENANCE = "1.2.840.113556.1.8000.2554.22.90.55.20305.39874.4691.1706394"
_FORMER_PROVENANCE = "2.25.141280512164668854563368337367618201297"


_PROVENANCES: Final[dict[bytes, dict[str, int]]] = {
    b"\x02\x01\x01": {
        "evidence_profile": _UTF8,
        "kbs_thumbprint": _OCTETS,
        "resource": _UTF8,
        "measurement": _OCTETS,
        "policy_digest": _OCTETS,
        "decision_id": _UTF8,
    },
    b"\x02\x01\x02": {
        "evidence_profile": _UTF8,
        "measurement": _OCTETS,
        "policy_digest": _OCTETS,
        "decision_id": _UTF8,
    },
    b"\x02\x01\x03": {
        "evidence_profile": _UTF8,
        "kbs_thumbprint": _OCTETS,
        "measurement": _OCTETS,
        "policy_digest": _OCTETS,
    },
}
"""Members of the provenance after the version, and their heads; by the version, encoded."""


P = ParamSpec("P")
T = TypeVar("T")


def _as_documented(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function raise ValueError, whatever comes of reading what is not there."""

    @wraps(function)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"asn1crypto cannot read it: {type(error).__name__}") from error

    return reading


@_as_documented
def read(der: bytes) -> CertificateView:
    """Read a certificate.

    Raises:
        ValueError: it cannot be read, or a known extension has another form than the profiles use.
    """
    tbs, outer_algorithm, _ = elements(inside(der, _SEQUENCE))
    parts = elements(inside(tbs, _SEQUENCE))
    version = _version(parts.pop(0)) if parts[0][0] == _EXPLICIT_0 else 1
    serial, algorithm, issuer, validity, subject, spki, *rest = parts
    if outer_algorithm != algorithm:
        raise ValueError("inner and outer signature algorithm differ")
    if rest and rest[0][0] in _UNIQUE_IDENTIFIERS:
        raise ValueError("has unique identifiers")
    if len(rest) > 1:
        raise ValueError("has more parts than a certificate")
    not_before, not_after = read_validity(validity)
    return CertificateView(
        version=version,
        serial=_number(serial),
        signature_algorithm=algorithm,
        issuer=read_name(issuer),
        not_before=not_before,
        not_after=not_after,
        subject=read_name(subject),
        spki=spki,
        extensions=tuple(map(read_extension, _extensions_of(rest[0]))) if rest else (),
    )


@_as_documented
def read_serial(tbs: bytes, parts: Parts) -> int:
    """The serial number; raises ValueError if a TBSCertificate or its extensions are not just what they are said to be.

    Wherever each of two values alone is one value to this parser, it finds the same two one after the other: where a
    value ends, its head says. So it agrees on the parts if it reads every one alone.
    """
    extensions = inside(parts.extension_list, _EXPLICIT_3, _SEQUENCE)
    if inside(tbs, _SEQUENCE) != b"".join(parts[:-1]) or extensions != b"".join(parts.extensions):
        raise ValueError("has other parts")
    return _number(parts.serial)


@_as_documented
def read_name(der: bytes) -> NameView:
    """Read a name alone; raises as `read`."""
    rdns = series(inside(der, _SEQUENCE), _SET)
    return NameView(der, tuple([tuple(map(_attribute, series(rdn, _SEQUENCE))) for rdn in rdns]))


@_as_documented
def read_validity(der: bytes) -> tuple[datetime, datetime]:
    """Read notBefore and notAfter alone; raises as `read`."""
    validity = asn1.Validity.load(der, strict=True)
    moments = [validity[time] for time in ("not_before", "not_after")]
    if any((m.name == "utc_time") != (m.native.year < _FIRST_GENERALIZED) for m in moments):
        raise ValueError("times before 2050 are UTCTime, later ones GeneralizedTime")
    not_before, not_after = (moment.native for moment in moments)
    return not_before, not_after


@_as_documented
def read_extension(der: bytes) -> ExtensionView:
    """Read an extension alone; raises as `read`."""
    whole = inside(der, _SEQUENCE)
    # Criticality is stated by TRUE alone, right after the id.
    critical = whole.startswith(_TRUE, 2 + whole[1])
    oid, *_, octets = fields(whole, _OID, *(_BOOLEAN,) * critical, _OCTETS)
    dotted = _dotted(oid)
    own = _OWN.get(dotted)
    value = _value(asn1.Extension.load(der, strict=True)) if own is None else own(octets)
    return ExtensionView(dotted, critical, octets, value)


@_as_documented
def read_spki(spki: bytes) -> bytes:
    """A SubjectPublicKeyInfo as it stands; raises ValueError if it is not one sequence."""
    inside(spki, _SEQUENCE)
    return spki


def _extensions_of(der: bytes) -> list[bytes]:
    return elements(inside(der, _EXPLICIT_3, _SEQUENCE))


def _version(der: bytes) -> int:
    return _VERSIONS[asn1.Version.load(der, strict=True, explicit=0).native]


@lru_cache(maxsize=REMEMBERED)
def _dotted(contents: bytes) -> str:
    return str(core.ObjectIdentifier(contents=contents).dotted)


def _number(der: bytes) -> int:
    return int.from_bytes(inside(der, _INTEGER), "big", signed=True)


def _octets(der: bytes) -> bytes:
    return inside(der, _OCTETS)


def _attribute(contents: bytes) -> Attribute:
    if contents.startswith(_SERIAL_NUMBER):
        # A device's: the one attribute that is new in nearly every certificate.
        kind, value = fields(contents, _OID, _PRINTABLE)
        return _dotted(kind), value.decode("ascii")
    return _known_attribute(contents)


@lru_cache(maxsize=REMEMBERED)
def _known_attribute(contents: bytes) -> Attribute:
    attribute = asn1.NameTypeAndValue(contents=contents)
    return attribute["type"].dotted, attribute["value"].native


def _value(extension: Any) -> ExtensionValue:  # noqa: PLR0911 - one return per kind of extension
    parsed = extension["extn_value"].parsed
    match extension["extn_id"].native:
        case "basic_constraints":
            return BasicConstraintsView(parsed["ca"].native, parsed["path_len_constraint"].native)
        case "key_usage":
            return frozenset(
                "content_commitment" if bit == "non_repudiation" else bit for bit in parsed.native
            )
        case "extended_key_usage":
            return tuple(purpose.dotted for purpose in parsed)
        case "authority_key_identifier":
            names_issuer = (
                parsed["authority_cert_issuer"].native is not None
                or parsed["authority_cert_serial_number"].native is not None
            )
            return AuthorityKeyView(parsed["key_identifier"].native, names_issuer)
        case "authority_information_access":
            return AccessView(tuple((d["access_method"].dotted, _uri(d["access_location"])) for d in parsed))
        case "crl_distribution_points":
            return _distribution(parsed)
        case "certificate_policies":
            return PoliciesView(
                tuple(p["policy_identifier"].dotted for p in parsed),
                any(p["policy_qualifiers"].native is not None for p in parsed),
            )
        case "subject_directory_attributes":
            return _specification(parsed)
        case _:
            return bytes(extension["extn_value"].contents)


def _uri(name: Any) -> str:
    if name.name != "uniform_resource_identifier":
        raise ValueError("must be a URI")
    # Not `native`, which turns the URI into an IRI and drops default ports.
    return str(name.chosen.contents.decode("ascii"))


def _distribution(points: Any) -> DistributionView:
    urls: list[str] = []
    plain = True
    for point in points:
        where = point["distribution_point"]
        full = where.name == "full_name"
        names = list(where.chosen) if full else []
        urls += [_uri(name) for name in names]
        plain &= (
            full
            and len(names) == 1
            and point["reasons"].native is None
            and point["crl_issuer"].native is None
        )
    return DistributionView(tuple(urls), plain)


def _alternative_names(der: bytes) -> tuple[GeneralNameView, ...]:
    return tuple(starmap(_alternative_name, opened(inside(der, _SEQUENCE))))


@lru_cache(maxsize=REMEMBERED)
def _alternative_name(der: bytes, contents: bytes) -> GeneralNameView:
    if der[0] == _EXPLICIT_0:  # otherName; its value is under such a tag again
        kind, value = fields(contents, _OID, _EXPLICIT_0)
        read_value = _OTHER_NAMES.get(_dotted(kind))
        if read_value is not None:
            return read_value(inside(value, _SEQUENCE))
        return OtherNameView(_dotted(kind), value)
    name = asn1.GeneralName.load(der, strict=True)
    if name.name == "directory_name":
        return read_name(name.chosen.untag().dump())
    return OtherNameView(name.name, str(name.native).encode())


def _hardware_module(contents: bytes) -> HardwareModuleView:
    kind, serial = fields(contents, _OID, _OCTETS)
    return HardwareModuleView(_dotted(kind), serial)


def _permanent_identifier(contents: bytes) -> PermanentIdentifierView:
    identifier, assigner = fields(contents, _UTF8, _OID)
    return PermanentIdentifierView(identifier.decode("utf-8"), _dotted(assigner))


_OTHER_NAMES: Final[dict[str, Callable[[bytes], GeneralNameView]]] = {
    _HARDWARE_MODULE_NAME: _hardware_module,
    _PERMANENT_IDENTIFIER: _permanent_identifier,
}


def _specification(attributes: Any) -> SpecificationView:
    (attribute,) = attributes
    (value,) = attribute["values"]
    return SpecificationView(
        attribute["type"].dotted,
        value["family"].native,
        value["level"].native,
        value["revision"].native,
    )


def _provenance(der: bytes) -> ProvenanceView:
    contents = inside(der, _SEQUENCE)
    heads = _PROVENANCES[contents[:3]]
    version, *stated = fields(contents, _INTEGER, *heads.values())
    members: dict[str, Any] = {"kbs_thumbprint": None, "resource": None, "decision_id": None}
    for (name, head), value in zip(heads.items(), stated, strict=True):
        members[name] = value.decode("utf-8") if head == _UTF8 else value
    return ProvenanceView(version=int.from_bytes(version, "big"), **members)


_OWN: Final[dict[str, Callable[[bytes], ExtensionValue]]] = {
    "2.5.29.14": _octets,
    "2.5.29.17": _alternative_names,
    _PROVENANCE: _provenance,
    _FORMER_PROVENANCE: _provenance,
}
"""Extensions that are new in nearly every certificate: their few parts are taken out one by one."""
