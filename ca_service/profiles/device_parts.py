"""The parts of device certificates: names and encoded extensions.

Most of them are the same in many certificates, in all under an issuer, in all of a kind of TPM, or in both of a TPM;
these are encoded once.
"""

from functools import lru_cache

from cryptography import x509

from ca_service.profiles import extensions, oids, structures
from ca_service.profiles.encoding import REMEMBERED, encoded
from ca_service.profiles.model import Provenance
from ca_service.profiles.naming import (
    DEVICE_SERIAL_DIGITS,
    KEY_ID_SIZE,
    device_name,
    device_serial,
    key_id,
)
from ca_service.profiles.structures import KeyUsageName
from vtpm.wire.public_area import PublicArea
from vtpm.wire.runtime_data import TpmSpec
from vtpm.wire.templates import Role

_POLICY_OF_ROLE = {Role.IAK: oids.VERIFIED_TPM_RESTRICTED, Role.IDEVID: oids.VERIFIED_TPM_FIXED}


_KEY_ID_HEAD = encoded(x509.SubjectKeyIdentifier(bytes(KEY_ID_SIZE)), critical=False)[:-KEY_ID_SIZE]
_NAME_HEAD = device_name(b"").public_bytes()[:-DEVICE_SERIAL_DIGITS]
"""What stands before the key id and the device's serial number, which have always the same length."""
_NO_NAME = x509.Name([]).public_bytes()


def subject_key_id(area: PublicArea) -> bytes:
    """The subjectKeyIdentifier of a TPM's key."""
    spki = area.spki()
    # To make a key of an elliptic curve is dear, and its point is enough.
    bits = extensions.point(spki, area.bits) if area.curve else extensions.key_bits(area.public_key(), spki)
    return _KEY_ID_HEAD + key_id(bits)


@lru_cache(maxsize=REMEMBERED)
def authority_key_id(issuer_key_id: bytes) -> bytes:
    """The authorityKeyIdentifier of certificates under an issuer."""
    return encoded(*extensions.authority_key_id(issuer_key_id))


@lru_cache(maxsize=REMEMBERED)
def publication(certificate_url: str, crl_url: str, ocsp_url: str | None) -> tuple[bytes, ...]:
    """The authorityInfoAccess and cRLDistributionPoints of certificates under an issuer that name one list."""
    found = extensions.publication(certificate_url, crl_url, ocsp_url)
    return tuple(encoded(*extension) for extension in found)


@lru_cache(maxsize=REMEMBERED)
def key_usage(name: KeyUsageName) -> bytes:
    """The keyUsage with just this bit."""
    return encoded(*extensions.key_usage(name))


@lru_cache(maxsize=1)
def no_ca() -> bytes:
    """The basicConstraints that say that this is no CA."""
    return encoded(x509.BasicConstraints(ca=False, path_length=None), critical=True)


@lru_cache(maxsize=REMEMBERED)
def purpose(oid: x509.ObjectIdentifier, *, critical: bool = False) -> bytes:
    """The extendedKeyUsage with just this purpose."""
    return encoded(x509.ExtendedKeyUsage([oid]), critical)


@lru_cache(maxsize=REMEMBERED)
def subject(ek_name: bytes | None) -> bytes:
    """The subject of a device's identity; the empty name without an EK Name."""
    return _NO_NAME if ek_name is None else _NAME_HEAD + device_serial(ek_name).encode("ascii")


@lru_cache(maxsize=REMEMBERED)
def provenance(origin: Provenance) -> bytes:
    """The whole provenance."""
    return encoded(*extensions.provenance_extension(origin))


@lru_cache(maxsize=REMEMBERED)
def tpm_names(manufacturer: str, vendor: str, firmware: str) -> bytes:
    """The subjectAltName of an EK."""
    names = x509.SubjectAlternativeName([tpm_name(manufacturer, vendor, firmware)])
    return encoded(names, critical=True)


def tpm_name(manufacturer: str, vendor: str, firmware: str) -> x509.DirectoryName:
    """Three single-valued RDNs, so that the order of a SET needs no care; as swtpm writes them."""
    return x509.DirectoryName(
        x509.Name(
            [
                x509.NameAttribute(oids.TPM_MANUFACTURER, f"id:{manufacturer.upper()}"),
                x509.NameAttribute(oids.TPM_MODEL, vendor),
                x509.NameAttribute(oids.TPM_VERSION, f"id:{firmware[:8].upper()}"),
            ]
        )
    )


@lru_cache(maxsize=REMEMBERED)
def tpm_specification(spec: TpmSpec) -> bytes:
    """The subjectDirectoryAttributes with the TPM's specification."""
    value = structures.TpmSpecification(
        family=spec.family, level=int(spec.level), revision=int(spec.revision)
    )
    attribute = structures.TpmSpecificationAttribute(
        type=oids.TPM_SPECIFICATION, values=structures.set_of(value)
    )
    der = structures.encode(structures.SubjectDirectoryAttributes(specification=attribute))
    return encoded(x509.UnrecognizedExtension(oids.SUBJECT_DIRECTORY_ATTRIBUTES, der), critical=False)


@lru_cache(maxsize=REMEMBERED)
def policies(role: Role) -> bytes:
    """The certificatePolicies of a role."""
    stated = (oids.VERIFIED_TPM_RESIDENCY, _POLICY_OF_ROLE[role])
    value = x509.CertificatePolicies([x509.PolicyInformation(policy, None) for policy in stated])
    return encoded(value, critical=False)


def permanent_identifier(ek_digest: str) -> x509.OtherName:
    """The otherName with the EK certificate's digest."""
    return x509.OtherName(oids.PERMANENT_IDENTIFIER, permanent_identifier_value(ek_digest))


@lru_cache(maxsize=REMEMBERED)
def permanent_identifier_value(ek_digest: str) -> bytes:
    """DER of the PermanentIdentifier with the EK certificate's digest."""
    return structures.encode(
        structures.PermanentIdentifier(identifier_value=ek_digest, assigner=oids.EK_PERMANENT_ID_SHA256)
    )


def device_names(hardware: bytes, ek_digest: str) -> bytes:
    """HardwareModuleName stands first: keylime up to 7.9 looks at the first otherName only."""
    head, middle, end = _around_device_names(len(hardware), len(ek_digest))
    return head + hardware + middle + ek_digest.encode("ascii") + end


@lru_cache(maxsize=REMEMBERED)
def _around_device_names(size: int, digits: int) -> tuple[bytes, bytes, bytes]:
    """What stands before a hwSerialNum of that size, between it and the digest, and behind that."""
    hardware, digest = b"\xff" * size, "0" * digits
    module = structures.HardwareModuleName(hw_type=oids.TPM_20, hw_serial_num=hardware)
    names = x509.SubjectAlternativeName(
        [
            x509.OtherName(oids.HARDWARE_MODULE_NAME, structures.encode(module)),
            permanent_identifier(digest),
        ]
    )
    head, _, rest = encoded(names, critical=False).partition(hardware)
    middle, _, end = rest.partition(digest.encode("ascii"))
    return head, middle, end
