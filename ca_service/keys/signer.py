"""Who can sign in the name of a CA."""

from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.judgment import BadRequest, VtpmCaError

_ECDSA_SHA384: Final = ec.ECDSA(hashes.SHA384())


class Signer(Protocol):
    """Holds or reaches one P-384 private key of a CA."""

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The key's public half."""

    def sign(self, data: bytes) -> bytes:
        """ECDSA with SHA-384 over `data`, as DER of an ECDSA-Sig-Value."""


class FileSigner:
    """A signer whose key came out of a sealed file and lives in this process."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        if private_key.curve.name != "secp384r1":
            raise BadRequest("key", "a CA key must be on P-384")
        self._private_key = private_key
        self._public_key = private_key.public_key()

    @classmethod
    def from_der(cls, pkcs8: bytes) -> "FileSigner":
        """Load an unencrypted PKCS#8 private key, as it comes out of a sealed file.

        Raises:
            BadRequest: the bytes hold no P-384 key.
        """
        try:
            key = serialization.load_der_private_key(pkcs8, password=None)
        except (ValueError, TypeError):
            raise BadRequest("key", "must be a PKCS#8 private key") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise BadRequest("key", "a CA key must be on P-384")
        return cls(key)

    def __repr__(self) -> str:
        return "FileSigner(P-384)"

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The key's public half."""
        return self._public_key

    def sign(self, data: bytes) -> bytes:
        """ECDSA with SHA-384 over `data`, as DER of an ECDSA-Sig-Value."""
        return self._private_key.sign(data, _ECDSA_SHA384)


def sign_and_check(signer: Signer, data: bytes) -> bytes:
    """Sign, and verify the signature before anybody else sees it (a fault during signing can reveal the key).

    Raises:
        VtpmCaError: the signature does not verify (code ``signer``).
    """
    signature = signer.sign(data)
    try:
        signer.public_key().verify(signature, data, _ECDSA_SHA384)
    except InvalidSignature:
        raise VtpmCaError("the CA's signer made a signature that does not verify", code="signer") from None
    return signature
