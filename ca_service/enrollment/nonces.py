"""Nonces that cost nothing to hand out.

A nonce is ``expiry || random || MAC`` in base64url: 8 bytes of seconds since 1970, 16 random bytes, and the
HMAC-SHA-256 of both and of the CA's id under a key of the CA. Nothing is stored until one is consumed.
"""

import hashlib
import hmac
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ca_service.judgment import Check, Finding, Unavailable, failed, passed
from ca_service.store import EpochRow, Store
from vtpm.wire.encoding import b64url, unb64url
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property

_RANDOM = 16
_EXPIRY = 8
_MAC = 32
_DOMAIN = b"vtpm-ca nonce/1\x00"
_EPOCH_DOMAIN = b"vtpm-ca nonce epoch/1\x00"

FRESH_S = 1.0
"""How long a process goes by the epoch that it has seen; a decision is checked against the one of the database."""


def epoch_key(root: bytes, epoch: EpochRow) -> bytes:
    """The key of an epoch's nonces, 32 bytes: none of an earlier epoch is genuine in a later one.

    Args:
        root: the CA's nonce key.
        epoch: the database's present epoch.
    """
    epoch_text = f"{epoch.number}:{epoch.salt}".encode("ascii")
    return hmac.digest(root, _EPOCH_DOMAIN + epoch_text, hashlib.sha256)


@frozen
class NonceKey:
    """The key of one epoch's nonces."""

    epoch: int
    key: bytes = field(repr=False)


class NonceKeys:
    """The nonce key of the present epoch. Safe for threads."""

    def __init__(
        self, store: Store, root: Callable[[], bytes], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._root = root
        self._monotonic = monotonic
        self._guard = threading.Lock()
        self._current: NonceKey | None = None
        self._until = 0.0

    def current(self) -> NonceKey:
        """The key, at most `FRESH_S` old.

        Raises:
            Unavailable: the database has no epoch, or cannot be reached.
        """
        with self._guard:
            if self._current is not None and self._monotonic() < self._until:
                return self._current
        with self._store.read() as tx:
            epoch = tx.epochs.current()
        if epoch is None:
            raise Unavailable("the database has no epoch", code="schema", remedy="Run `vtpm-ca db upgrade`.")
        found = NonceKey(epoch.number, epoch_key(self._root(), epoch))
        with self._guard:
            self._current, self._until = found, self._monotonic() + FRESH_S
        return found

    def forget(self) -> None:
        """The epoch was found to be another one."""
        with self._guard:
            self._current = None


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


@frozen
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

    @cached_property
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
        if subject.expiry is None:
            return failed(
                self,
                "this CA did not issue the nonce",
                expected="one of this CA's",
                actual=ascii(subject.nonce),
            )
        return passed(self)


@dataclass(frozen=True)
class _Unexpired:
    """The nonce still holds."""

    id: str = "nonce.unexpired"

    def judge(self, subject: NonceEvidence) -> Finding:
        expiry = subject.expiry
        if expiry is None or subject.at > expiry:
            return failed(self, "the nonce has expired", expected=f"at most {expiry}", actual=subject.at)
        return passed(self)


NONCE_CHECKS: tuple[Check[NonceEvidence], ...] = (_Audience(), _Genuine(), _Unexpired())
