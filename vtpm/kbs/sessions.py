"""Sessions of the attestation protocol: a nonce, then an attestation, for five minutes. In memory only."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from vtpm.wire.encoding import b64std
from vtpm.wire.rcar import Attestation

Clock = Callable[[], datetime]
"""The present time, aware."""

Entropy = Callable[[int], bytes]
"""That many random bytes."""

LIFETIME: Final = timedelta(minutes=5)
MOST_SESSIONS: Final = 1024
_NONCE: Final = 32
_ID: Final = 16


@dataclass(frozen=True)
class Session:
    """One session; a step makes a new value.

    Attributes:
        id: 32 hex digits, the cookie. Whoever has it acts in the session.
        nonce: the challenge: standard base64 of 32 random bytes.
        expires: end of the session, in whole seconds.
        attestation: the verified attestation, once there is one.
        token: the attestation token that answered it.
    """

    id: str = field(repr=False)
    nonce: str
    expires: datetime
    attestation: Attestation | None = None
    token: str | None = field(default=None, repr=False)


class Sessions:
    """All sessions that live; the oldest make room when there are too many, those not attested first."""

    def __init__(self, clock: Clock, entropy: Entropy, *, most: int = MOST_SESSIONS) -> None:
        self._clock = clock
        self._entropy = entropy
        self._most = most
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self) -> Session:
        """Begin a session with a fresh nonce."""
        now = self._clock()
        # Whole seconds, so that `exp` of a grant is this very moment.
        expires = now.replace(microsecond=0) + LIFETIME
        session = Session(self._entropy(_ID).hex(), b64std(self._entropy(_NONCE)), expires)
        with self._lock:
            self._make_room(now)
            self._sessions[session.id] = session
        return session

    def get(self, session_id: str) -> Session | None:
        """The session, if it lives."""
        with self._lock:
            session = self._sessions.get(session_id)
            if session is not None and session.expires <= self._clock():
                del self._sessions[session_id]
                return None
            return session

    def attested(self, session_id: str, attestation: Attestation, token: str) -> Session | None:
        """Record a verified attestation; the first one stays. None if the session ended meanwhile."""
        session = self.get(session_id)
        with self._lock:
            if session is None or session_id not in self._sessions:
                return None
            session = self._sessions[session_id]
            if session.attestation is None:
                session = replace(session, attestation=attestation, token=token)
                self._sessions[session_id] = session
            return session

    def _make_room(self, now: datetime) -> None:
        for session in [s for s in self._sessions.values() if s.expires <= now]:
            del self._sessions[session.id]
        while len(self._sessions) >= self._most:
            oldest = min(self._sessions.values(), key=lambda s: (s.attestation is not None, s.expires))
            del self._sessions[oldest.id]
