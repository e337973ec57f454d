"""How connections are spread evenly over the worker processes.

All workers wait at the same sockets, and whoever is first has the connection. One process then has six of eight
kept-alive connections and cannot answer faster than one processor works, while the other idles. So each worker writes
up how many connections it has, and one that has more than another leaves a new connection to that for a moment.
"""

import mmap
import time
from collections.abc import Callable, Iterable
from typing import Final

MOST_WORKERS: Final = 64
"""Processes that one server may have."""

MOST_LISTENERS: Final = 4

_PLACES: Final = 2 * MOST_WORKERS
"""A reload starts all new workers before the old ones end."""

_STALE_NS: Final = 2_000_000_000
_CELL: Final = 8
_WIDTH: Final = 1 + MOST_LISTENERS


class Board:
    """Memory that the parent and its workers share, with a place for each worker.

    A worker writes there when it last did so, and how many connections it has at each listener. A place that was
    not written for two seconds counts no more: its worker hangs, or was killed and is not yet missed. A worker without
    a place (None) leaves nothing to others, and they leave nothing to it.
    """

    def __init__(self, places: int = _PLACES, clock: Callable[[], int] = time.monotonic_ns) -> None:
        # Cells of eight aligned bytes: a reader never sees half of a number.
        self._cells = memoryview(mmap.mmap(-1, places * _WIDTH * _CELL)).cast("q")
        self._places = range(places)
        self._clock = clock

    def take(self, taken: Iterable[int | None]) -> int | None:
        """A place for a new worker beside those whose places are taken; None if there is none. Only the parent asks."""
        occupied = set(taken)
        place = next((place for place in self._places if place not in occupied), None)
        self.leave(place)
        return place

    def leave(self, place: int | None) -> None:
        """The worker of a place is no more, or not yet."""
        if place is not None:
            self._cells[place * _WIDTH] = 0

    def write(self, place: int | None, counts: Iterable[int]) -> None:
        """Say that the worker of a place is alive, and how many connections it has at each listener."""
        if place is None:
            return
        start = place * _WIDTH
        for cell, count in enumerate(counts, start + 1):
            self._cells[cell] = count
        self._cells[start] = self._clock()

    def least(self, place: int | None, listener: int, count: int) -> bool:
        """Whether no other living worker has fewer connections at a listener than `count`."""
        if place is None:
            return True
        oldest = self._clock() - _STALE_NS
        return all(
            self._cells[start] < oldest
            or start == place * _WIDTH
            or self._cells[start + 1 + listener] >= count
            for start in range(0, len(self._places) * _WIDTH, _WIDTH)
        )
