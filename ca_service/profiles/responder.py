"""Draft of the certificate of an OCSP responder (RFC 6960, section 4.2.2.2).

Such a certificate lets a key that is not the CA's own answer for the CA. It lives for days, and says that nobody need
ask whether it is revoked (id-pkix-ocsp-nocheck): that would lead in a circle. So it is good for nothing but this, which
its critical extendedKeyUsage says.
"""

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ca_service.profiles import device_parts as parts
from ca_service.profiles import oids
from ca_service.profiles.encoding import Frame, encoded, parts_of, tbs_certificate
from ca_service.profiles.extensions import subject_key_id
from ca_service.profiles.model import Draft, IssuerInfo, OcspContent, Validity

RESPONDER_NAME = "OCSP responder"


def draft_ocsp(
    *, public_key: ec.EllipticCurvePublicKey, serial: int, validity: Validity, issuer: IssuerInfo
) -> Draft:
    """Draft the certificate of an OCSP responder.

    Args:
        public_key: the responder's key, on P-256.
        serial: from `new_serial`.
        validity: from when to when, at most `OCSP_LIMIT`.
        issuer: the issuing CA about whose certificates it answers.
    """
    spki = public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    extensions = [
        parts.authority_key_id(issuer.key_id),
        encoded(*subject_key_id(public_key)),
        parts.key_usage("digital_signature"),
        parts.no_ca(),
        parts.purpose(oids.OCSP_SIGNING, critical=True),
        encoded(x509.OCSPNoCheck(), critical=False),
    ]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, RESPONDER_NAME)]).public_bytes()
    made = parts_of(Frame(name, spki, serial, validity, issuer.name), extensions)
    content = OcspContent(public_key, serial, validity)
    return Draft("ocsp", tbs_certificate(made), None, serial, content, made)
