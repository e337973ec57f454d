"""Counts that all processes of a server share, and that no death of a process can spoil.

One piece of anonymous memory is divided into slabs; a process counts in a slab of its own, so nobody waits for anybody.
Which slab is whose, record locks of the kernel say: they end with the process, however it ends, and the next one goes
on in its slab. So a count never falls while the server lives, and nothing is left on disk afterwards.
"""

import fcntl
import json
import mmap
import os
import struct
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SERIES: Final = 4096
"""Most counts of one process; what comes after them is left out and counted as lost."""

_ENTRY: Final = 160
_HEAD: Final = struct.Struct("dH")
_VALUE: Final = 8
"""Bytes of a number; each entry begins with one, at a multiple of this."""

_LENGTH: Final = struct.Struct("H")
_LONGEST: Final = _ENTRY - _HEAD.size
_SLAB: Final = SERIES * _ENTRY

LOST: Final = "lost"
"""Name of the count of what found no room."""


@dataclass(frozen=True)
class Count:
    """A number under a name and the values of its labels."""

    name: str
    labels: tuple[str, ...]
    value: float


class Tally:
    """The counts of a server. Made before its processes are forked; safe for threads.

    Args:
        processes: how many will count at the same time; twice as many find room, for those that come while others go.
    """

    def __init__(self, processes: int = 1) -> None:
        self._slabs = 2 * processes + 2
        self._file = os.memfd_create("vtpm-ca counts", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, self._slabs * _SLAB)
        self._memory = mmap.mmap(self._file, self._slabs * _SLAB)
        self._values = memoryview(self._memory).cast("d")
        self._guard = threading.Lock()
        self._pid = 0
        self._start: int | None = None
        self._places: dict[tuple[str, tuple[str, ...]], int] = {}
        self._used = 0

    def add(self, name: str, labels: tuple[str, ...] = (), amount: float = 1.0) -> None:
        """Add to a count, which begins at 0. Never raises for want of room."""
        self.add_all([(name, labels, amount)])

    def add_all(self, counted: Iterable[tuple[str, tuple[str, ...], float]]) -> None:
        """Add to several counts, each given by name, labels and amount."""
        with self._guard:
            if self._pid != os.getpid():
                self._claim()
            if self._start is None:
                return
            for name, labels, amount in counted:
                place = self._places.get((name, labels))
                if place is None:
                    place = self._new((name, labels), self._start)
                self._values[place // _VALUE] += amount

    def read(self) -> list[Count]:
        """All counts, those of all processes together, by name and labels."""
        found: dict[tuple[str, tuple[str, ...]], float] = {}
        for slab in range(self._slabs):
            for key, place in self._entries(slab * _SLAB):
                found[key] = found.get(key, 0.0) + self._values[place // _VALUE]
        return [Count(name, labels, value) for (name, labels), value in sorted(found.items())]

    def _claim(self) -> None:
        """Take a slab that no living process has, with what a dead one has counted in it."""
        self._pid, self._start = os.getpid(), None
        for slab in range(self._slabs):
            try:
                # The file is never closed by this process, which would give up all of its locks.
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slab)
            except OSError:
                continue
            self._start = slab * _SLAB
            self._places = dict(self._entries(self._start))
            self._used = len(self._places)
            if not self._used:
                self._new((LOST, ()), self._start)
            return

    def _new(self, key: tuple[str, tuple[str, ...]], start: int) -> int:
        text = json.dumps([key[0], *key[1]], separators=(",", ":")).encode("ascii")
        if self._used == SERIES or len(text) > _LONGEST:
            return self._places[LOST, ()]
        place = start + self._used * _ENTRY
        self._values[place // _VALUE] = 0.0
        begin = place + _HEAD.size
        self._memory[begin : begin + len(text)] = text
        # Last: an entry without a length is none, should the process end before this.
        _LENGTH.pack_into(self._memory, place + _VALUE, len(text))
        self._places[key] = place
        self._used += 1
        return place

    def _entries(self, start: int) -> list[tuple[tuple[str, tuple[str, ...]], int]]:
        found = []
        for place in range(start, start + _SLAB, _ENTRY):
            (length,) = _LENGTH.unpack_from(self._memory, place + _VALUE)
            if not length:
                break
            begin = place + _HEAD.size
            name, *labels = json.loads(self._memory[begin : begin + length])
            found.append(((name, tuple(labels)), place))
        return found
