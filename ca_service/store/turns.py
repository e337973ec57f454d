"""Whose turn it is to write, among the worker processes of one server.

SQLite has one writer at a time, and whoever finds it at work looks again after a while: after a millisecond at first,
after a tenth of a second soon. Workers that write often would wait most of that time for nobody. So they take turns
here first, where the end of one wakes the next. What holds the database is still SQLite's own lock, which other
programs may have too.
"""

import fcntl
import os
import select
import time
import weakref
from collections.abc import Callable
from typing import Final

_LOOK_AGAIN_S: Final = 0.05
"""A process that was killed in its turn wakes nobody."""


class Turns:
    """A lock that processes share which were forked from the one that made it.

    The kernel lets go of it when its holder ends, however that happens. It is a process's, not a thread's: only one
    thread of each process may ask for it.

    Args:
        monotonic: gives seconds that never go back.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        # Record locks of a file in memory: nothing of them is left on a disk, and a fork does not pass them on.
        self._file = os.memfd_create("vtpm-ca turns", os.MFD_CLOEXEC)
        self._over = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        for number in (self._file, self._over):
            # At the end of the process the kernel closes them, not before its last thread has given its turn back.
            weakref.finalize(self, os.close, number).atexit = False

    def take(self, seconds: float) -> bool:
        """Wait for a turn; says whether it came within the time. If so, `give` must follow."""
        if self._try():
            return True
        deadline = self._monotonic() + seconds
        ended = select.poll()
        ended.register(self._over, select.POLLIN)
        while (left := deadline - self._monotonic()) > 0:
            ended.poll(min(left, _LOOK_AGAIN_S) * 1000)
            self._hear()
            if self._try():
                return True
        return False

    def give(self) -> None:
        """Let the next one have it."""
        fcntl.lockf(self._file, fcntl.LOCK_UN)
        os.eventfd_write(self._over, 1)

    def _try(self) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _hear(self) -> None:
        """Forget the turns that ended until now; whoever ends one from here on says so again."""
        try:
            os.eventfd_read(self._over)
        except BlockingIOError:
            return
