"""Keeping one client, or all together, from asking more than the process can do."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ca_service.judgment import TooMany, Unavailable

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
