"""The keys of the CA's OCSP responders.

A responder's key is derived from a secret that every node of a CA has, for each certificate another one. So it lies
nowhere, needs no copying, and any process can answer for any issuing CA as soon as the database has the certificate.
"""

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.keys import Authority

_PURPOSE = b"vtpm-ca ocsp key/1\x00"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the group of P-256 (SEC 2, section 2.4.2)."""


def responder_key(authority: Authority, issuer: str, serial: str) -> ec.EllipticCurvePrivateKey:
    """The key that a responder's certificate certifies.

    512 bits are reduced to the scalar, so that no value is likelier than another by more than 2^-255 (FIPS 186-5,
    appendix A.2.1).

    Args:
        authority: the CA.
        issuer: subject key id of the issuing CA, hex.
        serial: serial number of the certificate, hex.
    """
    message = _PURPOSE + issuer.encode("ascii") + b"\x00" + serial.encode("ascii")
    digest = hmac.digest(authority.activation_key, message, hashlib.sha512)
    return ec.derive_private_key(int.from_bytes(digest, "big") % (_ORDER - 1) + 1, ec.SECP256R1())
