"""ASN.1 structures that `cryptography.x509` has no class for, and the frame of a signed object.

Sources: HardwareModuleName RFC 4108 section 5, PermanentIdentifier RFC 4043 section 2, TPMSpecification TCG
EK Credential Profile section 3.1, SubjectDirectoryAttributes RFC 5280 section 4.2.1.8.
"""

from typing import Literal, TypeVar

from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier

T = TypeVar("T")

ECDSA_WITH_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
"""AlgorithmIdentifier of ecdsa-with-SHA384, parameters absent (RFC 5758, section 3.2)."""


@asn1.sequence
class HardwareModuleName:
    """Value of the otherName that ties a device certificate to a piece of hardware."""

    hw_type: ObjectIdentifier
    hw_serial_num: bytes


@asn1.sequence
class PermanentIdentifier:
    """Value of the otherName that names the device by the hex digest of its EK certificate."""

    identifier_value: str
    assigner: ObjectIdentifier


@asn1.sequence
class TpmSpecification:
    """Family, level and revision of the TPM library specification that the TPM implements."""

    family: str
    level: int
    revision: int


@asn1.sequence
class TpmSpecificationAttribute:
    """An X.501 Attribute whose one value is a `TpmSpecification`."""

    type: ObjectIdentifier
    values: asn1.SetOf[TpmSpecification]


@asn1.sequence
class SubjectDirectoryAttributes:
    """The extension with exactly one attribute, the TPM specification."""

    specification: TpmSpecificationAttribute


@asn1.sequence
class ProvenanceValue:
    """Value of the provenance extension, version 1; the octet strings have 32, 48 and 32 octets."""

    version: int
    evidence_profile: str
    kbs_thumbprint: bytes
    resource: str
    measurement: bytes
    policy_digest: bytes
    decision_id: str


@asn1.sequence
class UngrantedProvenanceValue:
    """Value of the provenance extension, version 2: as version 1, for evidence without a key broker's grant."""

    version: int
    evidence_profile: str
    measurement: bytes
    policy_digest: bytes
    decision_id: str


@asn1.sequence
class PublicKeyInfo:
    """SubjectPublicKeyInfo (RFC 5280, section 4.1): `key` are the bits that key identifiers are made of."""

    algorithm: asn1.TLV
    key: asn1.BitString


@asn1.sequence
class BriefProvenanceValue:
    """Value of the provenance extension, version 3: as version 1, without what the EK certificate says at length."""

    version: int
    evidence_profile: str
    kbs_thumbprint: bytes
    measurement: bytes
    policy_digest: bytes


@asn1.sequence
class _Signed:
    tbs: asn1.TLV
    algorithm: asn1.TLV
    signature: asn1.BitString


@asn1.sequence
class _TbsCertificate:
    version: asn1.TLV
    serial: asn1.TLV
    signature: asn1.TLV
    issuer: asn1.TLV
    validity: asn1.TLV
    subject: asn1.TLV
    subject_public_key_info: asn1.TLV
    extensions: asn1.TLV


def encode(value: object) -> bytes:
    """DER of one of the structures of this module."""
    return asn1.encode_der(value)


def decode(kind: type[T], data: bytes) -> T:
    """Read one of the structures of this module from DER.

    Raises:
        ValueError: the bytes are no DER of that structure.
    """
    return asn1.decode_der(kind, data)


def set_of(value: T) -> asn1.SetOf[T]:
    """A SET OF with one element."""
    return asn1.SetOf([value])


def take_apart(der: bytes) -> tuple[bytes, bytes]:
    """What `encoding.assemble` put together, octet for octet: the to-be-signed bytes and the signature.

    Raises:
        ValueError: `der` is no signed object, or signed by another algorithm than ECDSA with SHA-384.
    """
    signed = asn1.decode_der(_Signed, der)
    algorithm, padding = asn1.encode_der(signed.algorithm), signed.signature.padding_bits()
    if algorithm != ECDSA_WITH_SHA384 or padding:
        raise ValueError("is not signed by ECDSA with SHA-384")
    return asn1.encode_der(signed.tbs), signed.signature.as_bytes()


def certified_key(tbs: bytes) -> bytes:
    """DER SubjectPublicKeyInfo in a TBSCertificate of version 3 without unique identifiers, as this CA writes them.

    Raises:
        ValueError: `tbs` is none.
    """
    return asn1.encode_der(asn1.decode_der(_TbsCertificate, tbs).subject_public_key_info)


KeyUsageName = Literal[
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
]
"""Bits of keyUsage (RFC 5280, section 4.2.1.3), under the names that `cryptography` gives them."""
