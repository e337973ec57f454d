"""One request for many who want the same thing, and nobody who waits longer than he wants to."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from ca_service.judgment import Unavailable


@dataclass
class _Flight:
    done: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


class Flights:
    """Jobs at work, by key. Each runs in a thread of its own, and to its end though nobody may wait any more.

    Args:
        most: jobs at the same time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._guard = threading.Lock()
        self._flights: dict[str, _Flight] = {}

    def join(self, key: str, job: Callable[[], object], wait_s: float) -> None:
        """See the job of this key done: the one that is at work, else this one.

        Raises:
            Unavailable: too many jobs are at work, or this one takes longer than `wait_s` seconds.
            Exception: what the job has raised.
        """
        with self._guard:
            flight = self._flights.get(key)
            if flight is None:
                if len(self._flights) >= self._most:
                    raise Unavailable("too many requests are at work already", code="kds")
                flight = self._flights[key] = _Flight()
                threading.Thread(target=self._fly, args=(key, flight, job), name="kds", daemon=True).start()
        if not flight.done.wait(wait_s):
            raise Unavailable("the answer does not come in time", code="kds")
        if flight.error is not None:
            raise flight.error

    def _fly(self, key: str, flight: _Flight, job: Callable[[], object]) -> None:
        try:
            job()
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            flight.error = error
        finally:
            with self._guard:
                del self._flights[key]
            flight.done.set()
