"""Ending in order when asked to."""

import signal
from types import FrameType


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def interrupt_on_sigterm() -> None:
    """Let SIGTERM end the main thread as Ctrl-C does, so that context managers clean up."""
    signal.signal(signal.SIGTERM, _interrupt)
