"""Nonces that cost nothing to hand out.

A nonce is ``expiry || random || MAC`` in base64url: 8 bytes of seconds since 1970, 16 random bytes, and the
HMAC-SHA-256 of both and of the CA's id under a key of the CA. Nothing is stored until one is consumed.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ca_service.judgment import Check, Finding, failed, passed
from vtpm.wire.encoding import b64url, unb64url
from vtpm.wire.errors import WireError

_RANDOM = 16
_EXPIRY = 8
_MAC = 32
_DOMAIN = b"vtpm-ca nonce/1\x00"


def _mac(key: bytes, aud: str, body: bytes) -> bytes:
    return hmac.digest(key, _DOMAIN + aud.encode("ascii") + b"\x00" + body, hashlib.sha256)


def make_nonce(key: bytes, aud: str, expires: datetime, random: bytes) -> str:
    """A new nonce.

    Args:
        key: the CA's nonce key.
        aud: the CA's id.
        expires: when it stops to hold; whole seconds count.
        random: 16 unpredictable bytes.
    """
    if len(random) != _RANDOM:
        raise ValueError(f"a nonce needs {_RANDOM} random bytes")
    body = int(expires.timestamp()).to_bytes(_EXPIRY, "big") + random
    return b64url(body + _mac(key, aud, body))


@dataclass(frozen=True)
class NonceEvidence:
    """A nonce as it came back, and what is needed to judge it.

    Attributes:
        nonce: the text in the runtime data.
        aud: the CA id in the runtime data.
        ca_id: our id.
        key: the CA's nonce key.
        at: now.
    """

    nonce: str
    aud: str
    ca_id: str
    key: bytes = field(repr=False)
    at: datetime

    def expiry(self) -> datetime | None:
        """Until when the nonce holds; None if we did not make it for this CA id."""
        try:
            raw = unb64url(self.nonce, "nonce", size=_EXPIRY + _RANDOM + _MAC)
        except WireError:
            return None
        body, mac = raw[:-_MAC], raw[-_MAC:]
        if not hmac.compare_digest(_mac(self.key, self.ca_id, body), mac):
            return None
        return datetime.fromtimestamp(int.from_bytes(body[:_EXPIRY], "big"), UTC)


@dataclass(frozen=True)
class _Audience:
    """The evidence was made for this CA."""

    id: str = "nonce.audience"

    def judge(self, subject: NonceEvidence) -> Finding:
        if subject.aud != subject.ca_id:
            return failed(
                self, "the evidence was made for another CA", expected=subject.ca_id, actual=subject.aud
            )
        return passed(self)


@dataclass(frozen=True)
class _Genuine:
    """The nonce is one of ours."""

    id: str = "nonce.genuine"

    def judge(self, subject: NonceEvidence) -> Finding:
        if subject.expiry() is None:
            return failed(self, "this CA did not issue the nonce")
        return passed(self)


@dataclass(frozen=True)
class _Unexpired:
    """The nonce still holds."""

    id: str = "nonce.unexpired"

    def judge(self, subject: NonceEvidence) -> Finding:
        expiry = subject.expiry()
        if expiry is None or subject.at > expiry:
            return failed(self, "the nonce has expired", expected=f"at most {expiry}", actual=subject.at)
        return passed(self)


NONCE_CHECKS: tuple[Check[NonceEvidence], ...] = (_Audience(), _Genuine(), _Unexpired())
