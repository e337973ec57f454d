"""Ending in order when asked to."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def interrupt_on_signals() -> None:
    """Let SIGTERM end the main thread as Ctrl-C does, so that context managers clean up.

    SIGINT too: a shell starts what it runs in the background with SIGINT ignored, and whoever sends it means it.
    SIGHUP unless it is ignored, which is what nohup is for.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Let those signals wait until the block is done: for steps that must not be left half-way.

    Holds for the calling thread, so for a program of one thread. A signal that waited raises when the block ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
