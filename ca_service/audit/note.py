"""Signing the log's notes; reading them is `vtpm.wire.note`'s."""

from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ca_service.judgment import VtpmCaError
from vtpm.wire.note import VerifierKey, check_text


class NoteSigner(Protocol):
    """Holds one Ed25519 private key; `Ed25519PrivateKey` of the cryptography package is one."""

    def public_key(self) -> Ed25519PublicKey:
        """The key's public half."""

    def sign(self, data: bytes, /) -> bytes:
        """The Ed25519 signature (RFC 8032) over `data`, 64 bytes."""


def verifier_key(name: str, signer: NoteSigner) -> VerifierKey:
    """The key with which others verify what `signer` signs under this name; raises `WireError` for a bad name."""
    return VerifierKey(name, signer.public_key().public_bytes_raw())


def sign_note(text: str, key: VerifierKey, signer: NoteSigner) -> bytes:
    """A note with one signature, as UTF-8.

    The signature is verified before anybody sees it: a fault during signing can reveal the key.

    Raises:
        WireError: the text cannot be a note's.
        VtpmCaError: the signature does not verify (code ``signer``).
    """
    check_text(text)
    signature = signer.sign(text.encode("utf-8"))
    if not key.verify(text, signature):
        raise VtpmCaError("the log's signer made a signature that does not verify", code="signer")
    return (text + "\n" + key.line(signature)).encode("utf-8")
