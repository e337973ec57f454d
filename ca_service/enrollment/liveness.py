"""Which process made an intent, and whether that process still lives.

An intent that nobody is signing any more must be abandoned; one that a living process is just signing must
not. Each process holds a lock for as long as it lives, and the lock's name is the intent's owner. On one machine
it is a lock on a file, which the kernel lets go of whatever kills the process. Nodes that share a PostgreSQL cannot
see each other's files: there it is an advisory lock of a session, which the server lets go of.

A process may lose its session and live on. From then on it counts as dead under its old name, and its open
intents may be abandoned by anybody; that is safe, because certificates are stored only while their intent is
still open, in the same transaction.
"""

import fcntl
import os
import secrets
import threading
from pathlib import Path
from typing import Protocol

from ca_service.store import Presence, parse_url

_NAME_SIZE = 16


class Liveness(Protocol):
    """Names this process, and tells whether another one still lives."""

    def owner(self) -> str:
        """This process's name; the same until it ends, forks, or loses what proves that it lives."""

    def is_alive(self, owner: str) -> bool:
        """Whether the process of that name may still be at work."""

    def close(self) -> None:
        """End this process's claim to its name."""


class FileLiveness:
    """Liveness by locked files in a folder that all processes of the CA share (one machine)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._guard = threading.Lock()
        self._pid = 0
        self._file = -1
        self._name = ""

    def owner(self) -> str:
        """This process's name; claims one at the first call, and another one in a forked child."""
        with self._guard:
            if self._pid != os.getpid():
                if self._file >= 0:
                    # The parent's lock: to close our copy of the descriptor does not let go of it.
                    os.close(self._file)
                self._claim()
            return self._name

    def _claim(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            name = secrets.token_hex(_NAME_SIZE)
            file = os.open(self._path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            if self._path(name).exists():
                break
            # Another process took the file for a dead one's before it was locked, and removed it.
            os.close(file)
        self._file, self._name, self._pid = file, name, os.getpid()
        self._sweep()

    def _path(self, owner: str) -> Path:
        return self._directory / f"owner-{owner}.lock"

    def is_alive(self, owner: str) -> bool:
        """Whether somebody holds the lock of that owner."""
        if owner == self._name and self._pid == os.getpid():
            return True
        try:
            file = os.open(self._path(owner), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def _sweep(self) -> None:
        """Remove the files of the dead: they mean the same as no file."""
        for path in self._directory.glob("owner-*.lock"):
            if path == self._path(self._name):
                continue
            try:
                file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # With the lock in hand: who has just made the file and waits for its lock sees then that it is gone.
                path.unlink(missing_ok=True)
            except BlockingIOError:
                continue
            finally:
                os.close(file)

    def close(self) -> None:
        """End this process's claim."""
        with self._guard:
            if self._pid == os.getpid() and self._file >= 0:
                self._path(self._name).unlink(missing_ok=True)
                os.close(self._file)
            self._pid, self._file, self._name = 0, -1, ""


class SessionLiveness:
    """Liveness by advisory locks of PostgreSQL sessions, for all nodes that share the database."""

    def __init__(self, url: str) -> None:
        self._presence = Presence(url)
        self._guard = threading.Lock()
        self._name = ""

    def owner(self) -> str:
        """This process's name; another one after a fork, or when its session was lost.

        Raises:
            Unavailable: the database cannot be reached.
        """
        with self._guard:
            if not self._name or not self._presence.holds():
                self._name = ""
                name = secrets.token_hex(_NAME_SIZE)
                while not self._presence.hold(name):
                    name = secrets.token_hex(_NAME_SIZE)
                self._name = name
            return self._name

    def is_alive(self, owner: str) -> bool:
        """Whether a session holds the lock of that owner; raises as `owner` does."""
        return self._presence.is_held(owner)

    def close(self) -> None:
        """End this process's claim."""
        with self._guard:
            self._presence.close()
            self._name = ""


def liveness_for(url: str, directory: Path) -> Liveness:
    """The liveness for a CA's database.

    Args:
        url: of the database.
        directory: where the lock files of processes on one machine lie, if the database is a file.
    """
    if parse_url(url).get_backend_name() == "postgresql":
        return SessionLiveness(url)
    return FileLiveness(directory)
