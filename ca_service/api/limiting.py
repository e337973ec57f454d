"""Keeping one client, or all together, from asking more than the process can do."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ca_service.judgment import TooMany, Unavailable, VtpmCaError

_MOST_CLIENTS = 10_000


class RateLimit:
    """The generic cell rate algorithm: per client, the time at which its allowance would be whole again."""

    def __init__(
        self, per_second: float, burst: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval = 1.0 / per_second
        self._tolerance = self._interval * (burst - 1)
        self._monotonic = monotonic
        self._whole_at: OrderedDict[str, float] = OrderedDict()
        self._guard = threading.Lock()

    def spend(self, client: str) -> None:
        """Count one request of a client; raises `TooMany`."""
        now = self._monotonic()
        with self._guard:
            whole_at = max(self._whole_at.get(client, now), now)
            wait = whole_at - now - self._tolerance
            if wait > 0:
                raise TooMany("too many requests from this address", retry_after_s=math.ceil(wait))
            self._whole_at[client] = whole_at + self._interval
            self._whole_at.move_to_end(client)
            while len(self._whole_at) > _MOST_CLIENTS:
                self._whole_at.popitem(last=False)


class Room:
    """A bounded number of requests at work; more are sent away rather than queued."""

    def __init__(self, places: int) -> None:
        self._places = threading.BoundedSemaphore(places)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place while the block runs; raises `Unavailable` if there is none."""
        if not self._places.acquire(blocking=False):
            raise Unavailable("too many requests are at work")
        try:
            yield
        finally:
            self._places.release()


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
