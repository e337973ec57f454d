"""A difference between two policies, and which way it works."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

Step = tuple["Effect", str]
"""One difference inside an entry: its effect, and a sentence whose subject is the entry."""


class Effect(StrEnum):
    """Whether a difference changes who is admitted.

    NARROWS: nobody is admitted who was refused. WIDENS: somebody may be. NEUTRAL: neither.
    """

    NARROWS = "narrows"
    WIDENS = "widens"
    NEUTRAL = "neutral"


@dataclass(frozen=True)
class Change:
    """One difference between two policies.

    Attributes:
        subject: the entry that it is in, such as ``kbs org-kbs``; the name of a table where there is one of a kind.
        text: what the later policy does there, such as ``adds the key ...``.
        effect: which way it works.
    """

    subject: str
    text: str
    effect: Effect

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}"


def about(subject: str, steps: Iterable[Step]) -> Iterator[Change]:
    """Differences of one entry."""
    for effect, text in steps:
        yield Change(subject, text, effect)
