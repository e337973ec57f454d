"""How often somebody may ask: the generic cell rate algorithm, in this process's memory."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from ca_service.judgment import TooMany

_MOST_CLIENTS = 10_000


class RateLimit:
    """Per client, the time at which its allowance would be whole again. Safe for threads."""

    def __init__(
        self,
        per_second: float,
        burst: int,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        who: str = "this address",
        name: str = "requests_per_second",
    ) -> None:
        self._interval = 1.0 / per_second
        self._tolerance = self._interval * (burst - 1)
        self._monotonic = monotonic
        self._who = who
        self._name = name
        self._whole_at: OrderedDict[str, float] = OrderedDict()
        self._guard = threading.Lock()

    def spend(self, client: str) -> None:
        """Count one request of a client; raises `TooMany`."""
        now = self._monotonic()
        with self._guard:
            whole_at = max(self._whole_at.get(client, now), now)
            wait = whole_at - now - self._tolerance
            if wait > 0:
                raise TooMany(
                    f"too many requests from {self._who}",
                    retry_after_s=math.ceil(wait),
                    limit=self._name,
                    limited=client,
                )
            self._whole_at[client] = whole_at + self._interval
            self._whole_at.move_to_end(client)
            while len(self._whole_at) > _MOST_CLIENTS:
                self._whole_at.popitem(last=False)


class Paces:
    """One `RateLimit` for the numbers that count at present. Safe for threads.

    Under other numbers everybody starts afresh: they come with another policy, which is rare and no requester's doing.
    """

    def __init__(self, who: str, name: str) -> None:
        self._who = who
        self._name = name
        self._present: tuple[tuple[float, int], RateLimit] | None = None

    def of(self, per_second: float, burst: int) -> RateLimit:
        """The limit under these numbers."""
        present = self._present  # one look, because another thread may put another one there
        if present is None or present[0] != (per_second, burst):
            made = RateLimit(per_second, burst, who=self._who, name=self._name)
            present = self._present = ((per_second, burst), made)
        return present[1]
