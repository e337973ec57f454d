"""First reader of the lint: `cryptography`.

It encodes every extension anew; what an extension of these bytes means is remembered, see `reader_asn1crypto`.
"""

from collections import OrderedDict
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from ca_service.profiles import oids, structures
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
    ProvenanceView,
    SpecificationView,
)

REMEMBERED: Final = 512
"""How many extensions are remembered."""

_NAME_KINDS: dict[type[x509.GeneralName], str] = {
    x509.DNSName: "dns_name",
    x509.RFC822Name: "rfc822_name",
    x509.UniformResourceIdentifier: "uniform_resource_identifier",
}
_ALGORITHMS = {"1.2.840.10045.4.3.3": structures.ECDSA_WITH_SHA384}


def read(der: bytes) -> CertificateView:
    """Read a certificate.

    Raises:
        ValueError: it cannot be read, or a known extension has another form than the profiles use.
    """
    try:
        return _certificate(x509.load_der_x509_certificate(der))
    except (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(str(error)) from error
    except (UnsupportedAlgorithm, TypeError) as error:
        raise ValueError(f"cryptography cannot read it: {error}") from error


def _certificate(certificate: x509.Certificate) -> CertificateView:
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


_known: OrderedDict[tuple[str, bool, bytes], ExtensionView] = OrderedDict()
_known_names: OrderedDict[bytes, NameView] = OrderedDict()


def _extension(extension: x509.Extension[x509.ExtensionType]) -> ExtensionView:
    """Known by its encoding: two names may be equal to `cryptography` and differ in their bytes."""
    value = extension.value
    key = (extension.oid.dotted_string, extension.critical, value.public_bytes())
    view = _known.get(key)
    if view is None:
        view = _known[key] = ExtensionView(*key, _value(value))
        if len(_known) > REMEMBERED:
            _known.popitem(last=False)
    return view


def _name(name: x509.Name) -> NameView:
    der = name.public_bytes()
    view = _known_names.get(der)
    if view is None:
        rdns = tuple(tuple((a.oid.dotted_string, _text(a.value)) for a in rdn) for rdn in name.rdns)
        view = _known_names[der] = NameView(der, rdns)
        if len(_known_names) > REMEMBERED:
            _known_names.popitem(last=False)
    return view


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
    if value.oid == oids.PROVENANCE:
        return _provenance(value.value)
    return value.value


def _provenance(der: bytes) -> ProvenanceView:
    for read_version in (_granted, _ungranted, _brief):
        try:
            return read_version(der)
        except ValueError:
            continue
    raise ValueError("the provenance has another form than this CA's")


def _granted(der: bytes) -> ProvenanceView:
    v = structures.decode(structures.ProvenanceValue, der)
    return ProvenanceView(
        v.version,
        v.evidence_profile,
        v.kbs_thumbprint,
        v.resource,
        v.measurement,
        v.policy_digest,
        v.decision_id,
    )


def _ungranted(der: bytes) -> ProvenanceView:
    v = structures.decode(structures.UngrantedProvenanceValue, der)
    return ProvenanceView(
        v.version, v.evidence_profile, None, None, v.measurement, v.policy_digest, v.decision_id
    )


def _brief(der: bytes) -> ProvenanceView:
    v = structures.decode(structures.BriefProvenanceValue, der)
    return ProvenanceView(
        v.version, v.evidence_profile, v.kbs_thumbprint, None, v.measurement, v.policy_digest, None
    )
