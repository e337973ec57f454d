"""Ending in order when asked to."""

import signal
from types import FrameType


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def interrupt_on_signals() -> None:
    """Let SIGTERM end the main thread as Ctrl-C does, so that context managers clean up.

    SIGINT too: a shell starts what it runs in the background with SIGINT ignored, and whoever sends it means it.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
