"""First reader of the lint: `cryptography`. It encodes anew whatever could have another encoding.

It reads a certificate, or one part of a certificate alone; `reading` says when which.
"""

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache, wraps
from typing import Annotated, Final, ParamSpec, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtensionOID

from ca_service.profiles import oids, structures
from ca_service.profiles.contract_subject import key_kind
from ca_service.profiles.encoding import der_value
from ca_service.profiles.own_forms import device_name, device_names, provenance
from ca_service.profiles.parts import Parts
from ca_service.profiles.view import (
    AccessView,
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
    SpecificationView,
)
from vtpm.wire.curves import NIST_CURVES

REMEMBERED_KEYS: Final = 64
"""How many keys are remembered: the lint's rules look at the key that was read before."""

_NAME_KINDS: dict[type[x509.GeneralName], str] = {
    x509.DNSName: "dns_name",
    x509.RFC822Name: "rfc822_name",
    x509.UniformResourceIdentifier: "uniform_resource_identifier",
}
_CURVES = {curve.name: curve for curve in NIST_CURVES}
"""By the `key_kind` of keys on them."""
_ALGORITHMS = {"1.2.840.10045.4.3.3": structures.ECDSA_WITH_SHA384}

_SEQUENCE, _EXTENSIONS = 0x30, 0xA3
_V3, _ONE, _NOBODY, _NO_BITS = map(bytes.fromhex, ("a003020102", "020101", "3000", "030100"))
_SOME_TIME = der_value(_SEQUENCE, 2 * (b"\x17\x0d" + b"700101000000Z"))
_SOME_KEY = der_value(_SEQUENCE, bytes.fromhex("300506032b6570"), _NO_BITS)
"""Stand beside the part that is read alone; they only have to be of the right form."""

P = ParamSpec("P")
T = TypeVar("T")


@asn1.sequence
class _UncriticalExtension:
    id: x509.ObjectIdentifier
    value: bytes


@asn1.sequence
class _Frame:
    version: asn1.TLV
    serial: int
    algorithm: asn1.TLV
    issuer: asn1.TLV
    validity: asn1.TLV
    subject: asn1.TLV
    spki: asn1.TLV
    extensions: Annotated[list[asn1.TLV], asn1.Explicit(3)]


def _as_documented(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function raise ValueError, whatever `cryptography` raises."""

    @wraps(function)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
            raise ValueError(str(error)) from error
        except (UnsupportedAlgorithm, TypeError) as error:
            raise ValueError(f"cryptography cannot read it: {error}") from error

    return reading


@_as_documented
def read(der: bytes) -> CertificateView:
    """Read a certificate.

    Raises:
        ValueError: it cannot be read, or a known extension has another form than the profiles use.
    """
    certificate = x509.load_der_x509_certificate(der)
    algorithm = certificate.signature_algorithm_oid.dotted_string
    return CertificateView(
        version=certificate.version.value + 1,
        serial=certificate.serial_number,
        signature_algorithm=_ALGORITHMS.get(algorithm, algorithm.encode()),
        issuer=_name(certificate.issuer),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        subject=_name(certificate.subject),
        spki=certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        extensions=tuple(map(_extension, certificate.extensions)),
    )


def read_serial(tbs: bytes, parts: Parts) -> int:
    """The serial number; raises ValueError if a TBSCertificate has not just as many parts as it is said to have.

    All lengths on the way to them are definite and in their shortest form, or `cryptography` does not read it.
    """
    frame = asn1.decode_der(_Frame, tbs)
    if len(frame.extensions) != len(parts.extensions):
        raise ValueError("has other extensions")
    return frame.serial


@_as_documented
def read_name(der: bytes) -> NameView:
    """Read a name alone; raises as `read`."""
    try:
        return device_name(der)
    except ValueError:
        return _name(_certificate_of(subject=der).subject)


@_as_documented
def read_validity(der: bytes) -> tuple[datetime, datetime]:
    """Read notBefore and notAfter alone; raises as `read`."""
    certificate = _certificate_of(validity=der)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


@_as_documented
def read_extension(der: bytes) -> ExtensionView:
    """Read an extension alone; raises as `read`."""
    try:
        plain = asn1.decode_der(_UncriticalExtension, der)
        value = _OWN[plain.id](plain.value)
    except (ValueError, KeyError):
        (extension,) = _certificate_of(extension=der).extensions
        return _extension(extension)
    return ExtensionView(plain.id.dotted_string, critical=False, der=plain.value, value=value)


def read_spki(spki: bytes) -> bytes:
    """A SubjectPublicKeyInfo, encoded anew; raises as `read`.

    After the head of its curve an uncompressed point has one encoding. Whether it is a point, the curve's equation
    says; to load it as a key takes longer than to read all the rest of a certificate.
    """
    curve = _CURVES.get(key_kind(spki))
    if curve is None:
        return read_key(spki)[1]
    x, y = spki[-2 * curve.size : -curve.size], spki[-curve.size :]
    if not curve.has(int.from_bytes(x, "big"), int.from_bytes(y, "big")):
        raise ValueError("the key is no point of its curve")
    return spki


@lru_cache(maxsize=REMEMBERED_KEYS)
@_as_documented
def read_key(spki: bytes) -> tuple[PublicKeyTypes, bytes]:
    """Read a SubjectPublicKeyInfo: the key, and its encoding; raises as `read`."""
    key = serialization.load_der_public_key(spki)
    if isinstance(key, ec.EllipticCurvePublicKey) and key_kind(spki):
        # After the head of its curve an uncompressed point has one encoding, and this one was found to be a point.
        # Making it anew from the projective form costs more than all the rest of reading.
        return key, spki
    return key, key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _certificate_of(
    *, subject: bytes = _NOBODY, validity: bytes = _SOME_TIME, extension: bytes | None = None
) -> x509.Certificate:
    """A certificate that says nothing but what is named."""
    extensions = [] if extension is None else [der_value(_EXTENSIONS, der_value(_SEQUENCE, extension))]
    algorithm = structures.ECDSA_WITH_SHA384
    tbs = der_value(_SEQUENCE, _V3, _ONE, algorithm, _NOBODY, validity, subject, _SOME_KEY, *extensions)
    return x509.load_der_x509_certificate(der_value(_SEQUENCE, tbs, algorithm, _NO_BITS))


def _extension(extension: x509.Extension[x509.ExtensionType]) -> ExtensionView:
    value = extension.value
    return ExtensionView(extension.oid.dotted_string, extension.critical, value.public_bytes(), _value(value))


def _name(name: x509.Name) -> NameView:
    rdns = tuple(tuple((a.oid.dotted_string, _text(a.value)) for a in rdn) for rdn in name.rdns)
    return NameView(name.public_bytes(), rdns)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.hex()


def _value(value: x509.ExtensionType) -> ExtensionValue:  # noqa: C901, PLR0911 - one return per kind of extension
    match value:
        case x509.BasicConstraints():
            return BasicConstraintsView(value.ca, value.path_length)
        case x509.KeyUsage():
            return _key_usage(value)
        case x509.ExtendedKeyUsage():
            return tuple(purpose.dotted_string for purpose in value)
        case x509.SubjectKeyIdentifier():
            return value.digest
        case x509.AuthorityKeyIdentifier():
            names_issuer = (
                value.authority_cert_issuer is not None or value.authority_cert_serial_number is not None
            )
            return AuthorityKeyView(value.key_identifier, names_issuer)
        case x509.AuthorityInformationAccess():
            return AccessView(tuple((d.access_method.dotted_string, _uri(d.access_location)) for d in value))
        case x509.CRLDistributionPoints():
            return _distribution(value)
        case x509.CertificatePolicies():
            return PoliciesView(
                tuple(p.policy_identifier.dotted_string for p in value),
                any(p.policy_qualifiers is not None for p in value),
            )
        case x509.SubjectAlternativeName():
            return tuple(_general_name(name) for name in value)
        case x509.UnrecognizedExtension():
            return _own(value)
        case _:
            return value.public_bytes()


def _key_usage(value: x509.KeyUsage) -> frozenset[str]:
    names = {
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
    }
    if value.key_agreement:  # the other two bits have no meaning without it, and reading them raises
        names |= {"encipher_only", "decipher_only"}
    return frozenset(name for name in names if getattr(value, name))


def _uri(name: x509.GeneralName) -> str:
    if not isinstance(name, x509.UniformResourceIdentifier):
        raise ValueError("must be a URI")  # noqa: TRY004 - the documented error of reading
    return name.value


def _distribution(value: x509.CRLDistributionPoints) -> DistributionView:
    names = [name for point in value for name in point.full_name or ()]
    plain = all(
        p.relative_name is None and p.reasons is None and p.crl_issuer is None and len(p.full_name or ()) == 1
        for p in value
    )
    return DistributionView(tuple(_uri(name) for name in names), plain)


def _general_name(name: x509.GeneralName) -> GeneralNameView:
    if isinstance(name, x509.DirectoryName):
        return _name(name.value)
    if isinstance(name, x509.OtherName):
        if name.type_id == oids.HARDWARE_MODULE_NAME:
            module = structures.decode(structures.HardwareModuleName, name.value)
            return HardwareModuleView(module.hw_type.dotted_string, module.hw_serial_num)
        if name.type_id == oids.PERMANENT_IDENTIFIER:
            permanent = structures.decode(structures.PermanentIdentifier, name.value)
            return PermanentIdentifierView(permanent.identifier_value, permanent.assigner.dotted_string)
        return OtherNameView(name.type_id.dotted_string, name.value)
    return OtherNameView(_NAME_KINDS.get(type(name), ""), str(name.value).encode())


def _own(value: x509.UnrecognizedExtension) -> ExtensionValue:
    if value.oid == oids.SUBJECT_DIRECTORY_ATTRIBUTES:
        attributes = structures.decode(structures.SubjectDirectoryAttributes, value.value)
        (spec,) = attributes.specification.values.as_list()
        return SpecificationView(
            attributes.specification.type.dotted_string, spec.family, spec.level, spec.revision
        )
    if value.oid in (oids.PROVENANCE, oids.FORMER_PROVENANCE):
        return provenance(value.value)
    return value.value


def _octets(der: bytes) -> bytes:
    return asn1.decode_der(bytes, der)


_OWN: Final[dict[x509.ObjectIdentifier, Callable[[bytes], ExtensionValue]]] = {
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: _octets,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: device_names,
    oids.PROVENANCE: provenance,
}
"""Extensions that are new in nearly every certificate, if they are not critical, and have the form of a device's: they
need no certificate around them to be read, as all others do."""
