"""The CA's keys as they are now: a running server takes up issuing CAs that were prepared meanwhile."""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ca_service.judgment import Unavailable, VtpmCaError
from ca_service.keys.authority import Authority
from ca_service.keys.layout import FACTS_FILE
from ca_service.logger import logger

LOOK_S = 1.0
"""How often, at most, the directory is looked at, in seconds."""

_RETRY_S = 10.0
_REPEAT_S = 60.0

_Signature = tuple[int, int, int]


def _holds(authority: Authority, skid: str) -> bool:
    return skid in [ca.skid for ca in authority.issuers]


def _lacking() -> Unavailable:
    return Unavailable(
        "this node lacks an issuing CA that is needed",
        code="issuer",
        remedy="Copy what is new in certs/ and private/, and then ca.toml, from the node on which it was prepared.",
    )


class AuthoritySource:
    """Gives a CA with its keys, opened anew when its directory has changed.

    Whoever changes the directory replaces ``ca.toml`` last and at once, so that file tells. Safe for threads, and for
    processes that fork after it was made; a request never waits for keys that another thread is opening.
    """

    def __init__(
        self,
        directory: Path,
        reopen: Callable[[], Authority],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the CA; raises as `reopen` does.

        Args:
            directory: the CA's directory.
            reopen: opens it, with the passphrase that the process holds.
            monotonic: gives seconds that never go back.
        """
        self._facts = directory / FACTS_FILE
        self._reopen = reopen
        self._monotonic = monotonic
        self._guard = threading.Lock()
        # Looked at first: a change during the opening is then seen at the next look.
        self._signature = self._look()
        self._authority = reopen()
        self._next = monotonic() + LOOK_S
        self._complained: dict[str, float] = {}

    def __call__(self) -> Authority:
        """The same as `current`."""
        return self.current()

    def current(self) -> Authority:
        """The CA; a change of its directory shows after `LOOK_S` seconds at the latest.

        A directory that cannot be opened, for example because it is being copied, is tried again later; the CA stays
        as it was.
        """
        if self._monotonic() < self._next or not self._guard.acquire(blocking=False):
            return self._authority
        try:
            self._next = self._monotonic() + LOOK_S
            self._renew()
        except (VtpmCaError, OSError) as error:
            self._next = self._monotonic() + _RETRY_S
            reason = error.detail if isinstance(error, VtpmCaError) else error.strerror
            logger(__name__).warning("the CA's directory has changed and cannot be opened", reason=reason)
        finally:
            self._guard.release()
        return self._authority

    def fresh(self) -> Authority:
        """The CA as its directory is at this moment; raises as opening it does."""
        with self._guard:
            self._renew()
            self._next = self._monotonic() + LOOK_S
            return self._authority

    def holding(self, skid: str) -> Authority:
        """The CA with a certain issuing CA, for which the directory is looked at once more if need be.

        Args:
            skid: its subject key identifier, lower-case hex.

        Raises:
            Unavailable: the directory does not have it (code ``issuer``); the log says what to copy.
        """
        authority = self.current()
        if not _holds(authority, skid):
            with contextlib.suppress(VtpmCaError, OSError):
                authority = self.fresh()
            if not _holds(authority, skid):
                self._complain(skid)
                raise _lacking()
        return authority

    def _look(self) -> _Signature:
        status = self._facts.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _renew(self) -> None:
        signature = self._look()
        if signature == self._signature:
            return
        opened, known = self._reopen(), self._authority
        if (opened.ca_id, opened.root) != (known.ca_id, known.root):
            raise Unavailable("the directory holds another CA now; restart the server", code="authority")
        self._authority, self._signature = opened, signature
        logger(__name__).info("the CA's directory was read anew", issuers=len(opened.issuers))

    def _complain(self, skid: str) -> None:
        now = self._monotonic()
        if now >= self._complained.get(skid, now):
            self._complained[skid] = now + _REPEAT_S
            logger(__name__).error(
                "this node lacks an issuing CA that is needed: copy what is new in certs/ and private/, and then "
                "ca.toml, from the node on which it was prepared",
                skid=skid,
            )
