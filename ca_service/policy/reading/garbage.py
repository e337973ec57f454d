"""Reading without looking for garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """While many values are made that all stay; usable as a decorator.

    The collector looks through them again and again as they grow in number, for a third of the time that a large
    document takes. Where another thread has paused it already, that one lets it go on.
    """
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()
