"""What the service is asked and what it says, whatever carries it."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        status: HTTP status.
        body: content of an answer with status 200, else empty.
        retry_after: the header of this name, empty if there is none.
    """

    status: int
    body: bytes = field(default=b"", repr=False)
    retry_after: str = ""


class Fetcher(Protocol):
    """Gets what is at a URL."""

    def __call__(self, url: str) -> Answer:
        """The answer; raises `Unavailable` if there is none, or none that could be taken whole."""
