"""A lock that a PostgreSQL session holds for as long as it lives, and that every node of the CA can see.

The server lets go of it whatever ends the session: a killed process, a lost network, a restart, a failover.
"""

import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any

from ca_service.judgment import Unavailable
from ca_service.store.backends import connect_apart, parse_url

if TYPE_CHECKING:
    import psycopg


def _number(name: str) -> int:
    """The advisory lock's number for a name: 64 bits, signed."""
    return int.from_bytes(
        hashlib.sha256(b"vtpm-ca owner\x00" + name.encode()).digest()[:8], "big", signed=True
    )


class Presence:
    """One named lock on a session of its own. Safe for threads; a forked child must take a name of its own.

    Args:
        url: of a PostgreSQL database.
    """

    def __init__(self, url: str) -> None:
        self._url = parse_url(url)
        import psycopg  # noqa: PLC0415 - an extra; `parse_url` tells those who lack it

        self._error = psycopg.Error
        self._guard = threading.Lock()
        self._session: psycopg.Connection[Any] | None = None
        self._inherited: list[object] = []
        self._pid, self._name = 0, ""

    def holds(self) -> bool:
        """Whether this process's session still lives, and with it the lock; asks the server."""
        with self._guard:
            return self._lives()

    def hold(self, name: str) -> bool:
        """Take the lock of that name with a new session; False if another session has it.

        Raises:
            Unavailable: the database cannot be reached.
        """
        with self._guard:
            self._forget()
            try:
                self._session = connect_apart(self._url)
                self._pid, self._name = os.getpid(), name
                return _take(self._session, name)
            except self._error:
                raise _unreachable() from None

    def is_held(self, name: str) -> bool:
        """Whether any session, this process's one too, holds the lock of that name.

        Two who ask at the same time may both hear yes; neither hears a wrong no.

        Raises:
            Unavailable: the database cannot be reached.
        """
        with self._guard:
            try:
                if self._session is not None and self._lives():
                    return name == self._name or not _free(self._session, name)
                with connect_apart(self._url) as session:
                    return not _free(session, name)
            except self._error:
                raise _unreachable() from None

    def close(self) -> None:
        """Let go of the lock."""
        with self._guard:
            self._forget()

    def _lives(self) -> bool:
        if self._session is None or self._pid != os.getpid():
            return False
        try:
            self._session.execute("SELECT 1")
        except self._error:
            return False
        return True

    def _forget(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        if self._pid == os.getpid():
            session.close()
        else:
            # The parent's session: to close it here would say good-bye in the parent's name.
            self._inherited.append(session)


def _take(session: "psycopg.Connection[Any]", name: str) -> bool:
    row = session.execute("SELECT pg_try_advisory_lock(%s)", (_number(name),)).fetchone()
    return row is not None and bool(row[0])


def _free(session: "psycopg.Connection[Any]", name: str) -> bool:
    """Whether no session holds the lock; it is held for a moment to find out."""
    if not _take(session, name):
        return False
    session.execute("SELECT pg_advisory_unlock(%s)", (_number(name),))
    return True


def _unreachable() -> Unavailable:
    return Unavailable("the database cannot be reached now")
