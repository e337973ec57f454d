"""The parent of the worker processes: gunicorn's, but for signals and for how it ends.

Three things that gunicorn's does cost answers or seconds: a worker that is told to stop in its first moments never
hears of it; the end is timed by the wall clock, which may be set meanwhile; and it fails half-way when the file of a
Unix socket is gone.
"""

import contextlib
import queue
import signal
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

TOLD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""What ends a server: the first two when all that is at work is finished, the third at once."""

UNHEARD: Final = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH)
"""By these gunicorn reopens log files, starts itself anew, or changes how many workers there are. A terminal sends some
of them to whoever is in the background."""

_QUICK_S: Final = 2.0
_LOOK_S: Final = 0.1


class ServiceArbiter(Arbiter):  # type: ignore[misc] # gunicorn has no type information
    """The parent process. SIGHUP renews the workers; `TOLD` ends all."""

    SIGNALS = (signal.SIGHUP, *TOLD)
    LISTENERS: list[Any]

    def init_signals(self) -> None:
        """Hear what is ours to hear, and nothing else."""
        super().init_signals()
        for number in UNHEARD:
            signal.signal(number, signal.SIG_IGN)

    def spawn_worker(self) -> Any:
        """Start a worker. What it is told before it can listen waits for it, instead of reaching its parent's ears."""
        with _held_back(TOLD):
            return super().spawn_worker()

    def handle_int(self) -> None:
        """Ctrl-C of a terminal: as SIGTERM. A second one while the first is obeyed is SIGQUIT."""
        raise StopIteration

    def stop(self, graceful: bool = True) -> None:
        """End all workers: when they have finished, or at once; those that do not end in time are killed."""
        _close(self.LISTENERS)
        self.LISTENERS = []
        deadline = time.monotonic() + (self.cfg.graceful_timeout if graceful else _QUICK_S)
        self._tell(signal.SIGTERM if graceful else signal.SIGQUIT)
        while self.WORKERS and time.monotonic() < deadline:
            if self._heard() in (signal.SIGINT, signal.SIGQUIT) and graceful:
                graceful, deadline = False, time.monotonic() + _QUICK_S
                self._tell(signal.SIGQUIT)
            self._reap()
        self._tell(signal.SIGKILL)
        self._reap()

    def _tell(self, number: int) -> None:
        # One that is gone already is no reason to leave the others without a word.
        with contextlib.suppress(OSError):
            self.kill_workers(number)

    def _heard(self) -> int | None:
        """The next signal, waited for a moment; the end of a worker is one."""
        with contextlib.suppress(queue.Empty):
            return int(self.SIG_QUEUE.get(timeout=_LOOK_S))
        return None

    def _reap(self) -> None:
        # A worker that could not begin is no news to a server that ends.
        with contextlib.suppress(HaltServer):
            self.reap_workers()


@contextlib.contextmanager
def _held_back(numbers: Iterable[int]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _close(listening: Iterable[Any]) -> None:
    """Close sockets, and take away the files of those that have one. A file that is gone, or no socket, is left so."""
    for each in listening:
        name = each.getsockname()
        each.close()
        if isinstance(name, str):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(Path(name).lstat().st_mode):
                    Path(name).unlink()
