"""Keeping one client, or all together, from asking more than the process can do."""

import math
import threading
import time
from collections.abc import Callable

from ca_service.judgment import VtpmCaError
from ca_service.service import client_of


def asker(address: str | None) -> str:
    """Whom a request counts for: its client as the listener counts connections; ``local`` on a Unix socket."""
    return client_of(address) if address else "local"


class Remembered:
    """A dear check whose outcome holds for a moment, however many ask. They wait for the one that is under way."""

    def __init__(
        self,
        check: Callable[[], None],
        age_s: float,
        *,
        only_failures: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._check = check
        self._age_s = age_s
        self._only_failures = only_failures
        self._monotonic = monotonic
        self._guard = threading.Lock()
        self._good_until = -math.inf
        self._failure: VtpmCaError | None = None

    def __call__(self) -> None:
        """Check, or go by what was found a moment ago; raises as the check does."""
        with self._guard:
            if self._monotonic() >= self._good_until:
                self._ask()
            failure = self._failure
        if failure is not None:
            raise failure

    def _ask(self) -> None:
        self._failure = None
        try:
            self._check()
        except VtpmCaError as error:
            self._failure = error.with_traceback(None)
        if self._failure is not None or not self._only_failures:
            # From now on, and not from when it began: a check that waits long is not to be asked all the time.
            self._good_until = self._monotonic() + self._age_s
