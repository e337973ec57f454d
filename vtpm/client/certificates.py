"""Are the certificates that came through the host about our keys, and do they belong together?

The SVSM has no trust anchor for the CA, so this is no path validation: relying parties do that. What it
can know, and must check, is that nobody planted certificates of another TPM.
"""

import hashlib

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vtpm.errors import VtpmError
from vtpm.wire.enrollment import CertificateEntry, CertificatesReply
from vtpm.wire.errors import WireError
from vtpm.wire.runtime_data import KeyStatement
from vtpm.wire.templates import parse_public

MAX_NV_CERTIFICATE = 2048
"""Largest content of one NV index of the TPM, in bytes."""

_ON_PERMANENT_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.3")
_EK_PERMANENT_ID_SHA256 = x509.ObjectIdentifier("2.23.133.12.1")

_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises on a certificate that it cannot make sense of, at loading or when its fields are read."""


@asn1.sequence
class _PermanentIdentifier:
    """RFC 4043, section 2."""

    identifier_value: str
    assigner: x509.ObjectIdentifier


def check_certificates(
    reply: CertificatesReply,
    *,
    eks: tuple[KeyStatement, ...],
    iak: KeyStatement,
    idevid: KeyStatement,
) -> None:
    """Hold the certificates against the keys that the SVSM made.

    Each certificate's key must be ours, and IAK and IDevID must name the first EK certificate by its SHA-256
    (permanentIdentifier, RFC 4043, assigner tcg-on-ekPermIdSha256).

    Raises:
        VtpmError: they do not fit; the rule says which (``certificates.key``, ``certificates.names-ek``,
            ``certificates.size``, ``certificates.count``).
    """
    if len(reply.ek) != len(eks):
        raise VtpmError("the CA's answer has not one certificate per EK", rule="certificates.count")
    for entry, key in zip((*reply.ek, reply.iak, reply.idevid), (*eks, iak, idevid), strict=True):
        _check_key(entry, key)
    digest = hashlib.sha256(reply.ek[0].certificate).hexdigest()
    for role, entry in (("IAK", reply.iak), ("IDevID", reply.idevid)):
        if _permanent_identifier(entry.certificate) != digest:
            raise VtpmError(
                f"the {role} certificate does not name this TPM's EK certificate",
                rule="certificates.names-ek",
            )


def _check_key(entry: CertificateEntry, key: KeyStatement) -> None:
    if len(entry.certificate) > MAX_NV_CERTIFICATE:
        raise VtpmError("a certificate does not fit into the TPM", rule="certificates.size")
    try:
        certified = x509.load_der_x509_certificate(entry.certificate).public_key()
        own = parse_public(key.public, "key").public_key()
    except (*_UNREADABLE, WireError) as error:
        raise VtpmError("a certificate cannot be read", rule="certificates.key") from error
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if entry.template != key.template or certified.public_bytes(*spki) != own.public_bytes(*spki):
        raise VtpmError("a certificate is for a key that is not this TPM's", rule="certificates.key")


def _permanent_identifier(certificate: bytes) -> str | None:
    """The EK digest that an IAK or IDevID certificate names, or None if it names none."""
    try:
        names = (
            x509.load_der_x509_certificate(certificate)
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value
        )
        for name in names.get_values_for_type(x509.OtherName):
            if name.type_id == _ON_PERMANENT_IDENTIFIER:
                value = asn1.decode_der(_PermanentIdentifier, name.value)
                return value.identifier_value if value.assigner == _EK_PERMANENT_ID_SHA256 else None
    except (*_UNREADABLE, x509.ExtensionNotFound):
        return None
    return None
