"""Reading a database that somebody may have filled with anything: what cannot be read is named, all else is read."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

from ca_service.audit.findings import Findings
from ca_service.store import is_bad_value

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


@contextlib.contextmanager
def tolerated(findings: Findings, code: str, subject: object, detail: str) -> Iterator[None]:
    """What cannot be read in the block becomes a finding, and ends the block; other errors pass."""
    try:
        yield
    except Exception as error:
        if not is_bad_value(error):
            raise
        findings.add(code, subject, detail)


def read_each(
    fetch: Callable[[Collection[KeyT]], Mapping[KeyT, ValueT]], keys: Collection[KeyT]
) -> tuple[dict[KeyT, ValueT], list[KeyT]]:
    """Fetch rows all at once, and one by one if that fails.

    Returns:
        The rows that could be read, by key, and the keys of those that could not.
    """
    try:
        return dict(fetch(keys)), []
    except Exception as error:
        if not is_bad_value(error):
            raise
    found, unreadable = dict[KeyT, ValueT](), list[KeyT]()
    for key in keys:
        try:
            found |= fetch([key])
        except Exception as error:
            if not is_bad_value(error):
                raise
            unreadable.append(key)
    return found, unreadable
