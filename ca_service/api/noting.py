"""What is noted of the request at work, for all lines of the log that are about it (see `journal`)."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

_noted: ContextVar[dict[str, Any] | None] = ContextVar("noted", default=None)


def begin(**facts: object) -> None:
    """A request is at work in this context: what its lines say besides what each has to say."""
    _noted.set(facts)


def note(**facts: object) -> None:
    """Let the lines of the request at work say this, too. Nothing is kept of what happens outside of one."""
    noted = _noted.get()
    if noted is not None:
        noted.update(facts)


def noted() -> Mapping[str, Any]:
    """What the lines of the request at work say besides."""
    return _noted.get() or {}
