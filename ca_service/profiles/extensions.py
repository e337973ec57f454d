"""Extensions shared by the profiles."""

from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID

from ca_service.profiles import oids, structures
from ca_service.profiles.model import Provenance
from ca_service.profiles.naming import key_id
from ca_service.profiles.structures import KeyUsageName
from vtpm.wire.encoding import unb64url, unhex

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
Extension = tuple[x509.ExtensionType, bool]
"""An extension and whether it is critical."""

PROVENANCE_VERSION = 1
UNGRANTED_VERSION = 2
BRIEF_VERSION = 3

_KEY_USAGES: tuple[KeyUsageName, ...] = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def key_usage(*names: KeyUsageName) -> Extension:
    """The keyUsage extension, critical, with just these bits."""
    return x509.KeyUsage(**{name: name in names for name in _KEY_USAGES}), True


def subject_key_id(key: PublicKey) -> Extension:
    """The subjectKeyIdentifier of a key."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return x509.SubjectKeyIdentifier(key_id(key_bits(key, spki))), False


def authority_key_id(issuer_key_id: bytes) -> Extension:
    """The authorityKeyIdentifier: the key id alone, so that a CA can be cross-signed."""
    return x509.AuthorityKeyIdentifier(issuer_key_id, None, None), False


def publication(
    certificate_url: str, crl_url: str, ocsp_url: str | None = None
) -> tuple[Extension, Extension]:
    """Where to get the issuer's certificate and its revocation list, and perhaps where to ask."""
    places = {
        AuthorityInformationAccessOID.OCSP: ocsp_url,
        AuthorityInformationAccessOID.CA_ISSUERS: certificate_url,
    }
    access = [
        x509.AccessDescription(method, x509.UniformResourceIdentifier(url))
        for method, url in places.items()
        if url is not None
    ]
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(crl_url)], None, None, None)
    return (
        (x509.AuthorityInformationAccess(access), False),
        (x509.CRLDistributionPoints([point]), False),
    )


def provenance_extension(value: Provenance) -> Extension:
    """The provenance extension: version 1, or version 2 if there was no grant.

    Raises:
        WireError: the thumbprint or digest is not in its text form, or of the wrong length.
    """
    policy_digest = unhex(value.policy_digest, "provenance.policy_digest", size=32)
    structure: structures.ProvenanceValue | structures.UngrantedProvenanceValue
    if value.kbs_thumbprint is None or value.resource is None:
        structure = structures.UngrantedProvenanceValue(
            version=UNGRANTED_VERSION,
            evidence_profile=value.profile,
            measurement=value.measurement,
            policy_digest=policy_digest,
            decision_id=value.decision_id,
        )
    else:
        structure = structures.ProvenanceValue(
            version=PROVENANCE_VERSION,
            evidence_profile=value.profile,
            kbs_thumbprint=unb64url(value.kbs_thumbprint, "provenance.kbs_thumbprint", size=32),
            resource=value.resource,
            measurement=value.measurement,
            policy_digest=policy_digest,
            decision_id=value.decision_id,
        )
    return x509.UnrecognizedExtension(oids.PROVENANCE, structures.encode(structure)), False


def brief_provenance_extension(value: Provenance) -> Extension:
    """The provenance extension, version 3, for certificates in which version 1 has no room.

    Raises:
        WireError: as `provenance_extension`.
        ValueError: there was no grant; then version 2 has room anywhere.
    """
    if value.kbs_thumbprint is None:
        raise ValueError("without a grant there is nothing to leave out")
    structure = structures.BriefProvenanceValue(
        version=BRIEF_VERSION,
        evidence_profile=value.profile,
        kbs_thumbprint=unb64url(value.kbs_thumbprint, "provenance.kbs_thumbprint", size=32),
        measurement=value.measurement,
        policy_digest=unhex(value.policy_digest, "provenance.policy_digest", size=32),
    )
    return x509.UnrecognizedExtension(oids.PROVENANCE, structures.encode(structure)), False


def key_bits(key: PublicKey, spki: bytes) -> bytes:
    """The contents of subjectPublicKey without tag, length and unused-bits octet.

    Args:
        key: the key.
        spki: its DER SubjectPublicKeyInfo.
    """
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    return point(spki, key.key_size)


def point(spki: bytes, bits: int) -> bytes:
    """The uncompressed point that ends the SubjectPublicKeyInfo of a key over a field of so many bits."""
    return spki[-(1 + 2 * ((bits + 7) // 8)) :]


def unsigned(builder: x509.CertificateBuilder, throwaway: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """The to-be-signed bytes of a certificate that a P-384 CA is going to sign.

    `cryptography` gives out to-be-signed bytes only of signed certificates, so a throwaway key signs. The bytes depend
    on the signature's algorithm, ecdsa-with-SHA384, and neither on the key nor on its curve.
    """
    return builder.sign(throwaway or _throwaway(), hashes.SHA384()).tbs_certificate_bytes


@cache
def _throwaway() -> ec.EllipticCurvePrivateKey:
    """Of this process, on P-256, because that is the curve that signs fastest; nobody ever sees its signatures."""
    return ec.generate_private_key(ec.SECP256R1())
