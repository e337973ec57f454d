"""Keeping one client, or all together, from asking more than the process can do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ca_service.judgment import Unavailable


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
