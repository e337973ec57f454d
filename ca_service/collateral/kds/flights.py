"""One request for many who want the same thing, and nobody who waits longer than he wants to."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar, cast

from ca_service.judgment import Unavailable

T = TypeVar("T")

_LONGEST_S: Final = 60.0


@dataclass
class _Flight(Generic[T]):
    begun: float
    done: threading.Event = field(default_factory=threading.Event)
    result: T | None = None
    error: Exception | None = None


class Flights(Generic[T]):
    """Jobs at work, by key. Each runs in a thread of its own, and to its end though nobody may wait any more.

    Args:
        most: jobs at the same time.
        waiting: callers that wait at the same time, for all jobs together.
        longest_s: after so many seconds a job is given up: whatever holds it up, it counts no more, and its key is
            free for another one.
        monotonic: time that only goes forward, in seconds.
    """

    def __init__(
        self,
        most: int,
        waiting: int,
        *,
        longest_s: float = _LONGEST_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._most_waiting = waiting
        self._longest_s = longest_s
        self._monotonic = monotonic
        self._guard = threading.Lock()
        self._flights: dict[str, _Flight[T]] = {}
        self._waiting = 0

    def join(self, key: str, job: Callable[[], T], wait_s: float) -> T:
        """What the job of this key brings: the one that is at work, else this one.

        A job is begun though its caller may not wait for it, so that the next caller profits.

        Raises:
            Unavailable: too many jobs are at work, too many wait, this one takes longer than `wait_s` seconds, or
                the system has no thread for it.
            Exception: what the job has raised.
        """
        with self._guard:
            flight = self._flight(key, job)
            if self._waiting >= self._most_waiting:
                raise Unavailable("too many wait for an answer already", code="kds")
            self._waiting += 1
        try:
            came = flight.done.wait(wait_s)
        finally:
            with self._guard:
                self._waiting -= 1
        if not came:
            raise Unavailable("the answer does not come in time", code="kds")
        if flight.error is not None:
            raise flight.error
        return cast("T", flight.result)

    def _flight(self, key: str, job: Callable[[], T]) -> _Flight[T]:
        at = self._monotonic()
        self._flights = {
            name: flight for name, flight in self._flights.items() if at - flight.begun < self._longest_s
        }
        flight = self._flights.get(key)
        if flight is not None:
            return flight
        if len(self._flights) >= self._most:
            raise Unavailable("too many requests are at work already", code="kds")
        flight = _Flight[T](at)
        try:
            threading.Thread(target=self._fly, args=(key, flight, job), name="kds", daemon=True).start()
        except RuntimeError:
            raise Unavailable("the system has no thread for another request", code="kds") from None
        # The job lands under the same guard, so it cannot be through before it is listed.
        self._flights[key] = flight
        return flight

    def _fly(self, key: str, flight: _Flight[T], job: Callable[[], T]) -> None:
        try:
            flight.result = job()
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            flight.error = error
        finally:
            with self._guard:
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.done.set()
