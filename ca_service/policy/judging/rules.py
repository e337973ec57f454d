"""What a rule of a policy is made of: what it saw, and who is told what.

The sentence for the requester never tells what is on the allow-list; what was expected is for the operator.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from ca_service.policy.judging.facts import LaunchFacts
from vtpm.wire.lazy import cached_property

NOT_STATED = "the policy does not say"
"""What the operator reads where a document leaves a question open."""


_MOST_LISTED: Final = 16


class Outcome(NamedTuple):
    """What a rule saw: `holds`, what the requester is told if it does not, and what the operator is told."""

    holds: bool
    reason: str
    expected: object = ""
    actual: object = ""


class Seen(NamedTuple):
    """What one demand of an entry saw in a report; `expected` is None if the entry does not say what it wants."""

    expected: str | None
    holds: bool
    actual: str


class Entry(Protocol):
    """An entry that may give constraints up."""

    @property
    def unconstrained(self) -> frozenset[str]:
        """Names of the constraints that it gives up."""


E = TypeVar("E", bound=Entry)
E_contra = TypeVar("E_contra", bound=Entry, contravariant=True)


class Look(Protocol[E_contra]):
    """Compares a report with what an entry states."""

    def __call__(self, entry: E_contra, facts: LaunchFacts, /) -> Seen:
        """What was seen."""


@dataclass(frozen=True)
class Demand(Generic[E]):
    """One demand that entries of a kind make of a report.

    Attributes:
        id: of its rule; the part after the dot is the name by which an entry gives it up.
        reason: what the requester is told, whoever fails it and why.
        look: compares.
        timed: whether the time of the decision counts, or what is known at that time, for more than the floors in
            force. One that is timed and does not say so is shown the day from which the floors hold, see `fleet`.
    """

    id: str
    reason: str
    look: Look[E] = field(repr=False)
    timed: bool = False

    @cached_property
    def name(self) -> str:
        """By which an entry gives the demand up."""
        return self.id.partition(".")[2]

    def outcome(self, entry: E | None, facts: LaunchFacts) -> Outcome:
        """What the demand says of a report; without an entry nobody has demanded anything, which denies."""
        if entry is None:
            return Outcome(False, self.reason, "a listed launch", "not listed")
        seen = self.look(entry, facts)
        if self.name in entry.unconstrained:
            return Outcome(True, "", "unconstrained", seen.actual)
        if seen.expected is None:
            return Outcome(False, self.reason, NOT_STATED, seen.actual)
        return Outcome(seen.holds, self.reason, seen.expected, seen.actual)


def among(allowed: frozenset[bytes] | None, actual: bytes) -> Seen:
    """Whether a value is one of those allowed."""
    if allowed is None:
        return Seen(None, False, actual.hex())
    only = next(iter(allowed)).hex() if len(allowed) == 1 else f"one of {len(allowed)} values"
    return Seen(only, actual in allowed, actual.hex())


def listing(values: Collection[str]) -> str:
    """Names for the operator; of many their number alone, for a trace is stored with every decision."""
    if len(values) > _MOST_LISTED:
        return f"one of {len(values)} values"
    return ", ".join(sorted(values)) or "nothing"
