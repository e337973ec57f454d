"""Whether this CA has signed what it is given, over the octets as they stand."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.profiles.structures import take_apart


def is_signed_by(der: bytes, key: object) -> bool:
    """Whether a certificate or revocation list is signed by a key, by ECDSA with SHA-384 as this CA signs everything.

    `cryptography` has the same for a list, and encodes all of it anew for that: of a long one that takes longer than
    to read it.

    Args:
        der: DER of the Certificate or CertificateList (RFC 5280, sections 4.1 and 5.1).
        key: the signer's public key. One that is not of an elliptic curve has signed nothing here.
    """
    try:
        tbs, signature = take_apart(der)
    except ValueError:
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, tbs, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True
