"""What is new in nearly every certificate of this CA, read by `cryptography` by its structure: for the first reader.

Sources: RFC 5280, section 4.1.2.4 (names); TCG TPM 2.0 Keys for Device Identity and Attestation v1.00 r12, section 8
(what a device's identity is called); and `structures`.
"""

from typing import Annotated

from cryptography import x509
from cryptography.hazmat import asn1

from ca_service.profiles import oids, structures
from ca_service.profiles.view import (
    GeneralNameView,
    HardwareModuleView,
    NameView,
    PermanentIdentifierView,
    ProvenanceView,
)

_DEVICE_NAMES = oids.HARDWARE_MODULE_NAME, oids.PERMANENT_IDENTIFIER


@asn1.sequence
class _HardwareName:
    id: x509.ObjectIdentifier
    value: Annotated[structures.HardwareModuleName, asn1.Explicit(0)]


@asn1.sequence
class _PermanentName:
    id: x509.ObjectIdentifier
    value: Annotated[structures.PermanentIdentifier, asn1.Explicit(0)]


@asn1.sequence
class _DeviceNames:
    hardware: Annotated[_HardwareName, asn1.Implicit(0)]
    permanent: Annotated[_PermanentName, asn1.Implicit(0)]


@asn1.sequence
class _CommonName:
    id: x509.ObjectIdentifier
    text: str


@asn1.sequence
class _SerialNumber:
    id: x509.ObjectIdentifier
    text: asn1.PrintableString


@asn1.sequence
class _DeviceName:
    common_name: asn1.SetOf[_CommonName]
    serial_number: asn1.SetOf[_SerialNumber]


def provenance(der: bytes) -> ProvenanceView:
    """The provenance, in each of its versions; raises ValueError if it is none."""
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


def device_name(der: bytes) -> NameView:
    """The subject of a device's identity; raises ValueError if a name has another form."""
    name = asn1.decode_der(_DeviceName, der)
    (common,), (serial,) = name.common_name.as_list(), name.serial_number.as_list()
    rdns = ((common.id.dotted_string, common.text),), ((serial.id.dotted_string, serial.text.as_str()),)
    return NameView(asn1.encode_der(name), rdns)


def device_names(der: bytes) -> tuple[GeneralNameView, ...]:
    """The subjectAltName of a device's identity; raises ValueError if there are other names."""
    names = asn1.decode_der(_DeviceNames, der)
    hardware, permanent = names.hardware, names.permanent
    if (hardware.id, permanent.id) != _DEVICE_NAMES or asn1.encode_der(names) != der:
        raise ValueError("has other names than a device's")
    module, identifier = hardware.value, permanent.value
    return (
        HardwareModuleView(module.hw_type.dotted_string, module.hw_serial_num),
        PermanentIdentifierView(identifier.identifier_value, identifier.assigner.dotted_string),
    )
