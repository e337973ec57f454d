"""Which of two values of a member asks for more: for each kind of value one order, and the sentences about it.

Every function yields nothing for equal values, and otherwise one step for each part that differs. All of them hold to
one promise: if no step widens, whoever meets the later value has met the earlier one.
"""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from ca_service.policy.changes.effects import Effect, Step
from ca_service.policy.document.bits import BitDemand
from ca_service.policy.entries.floors import shown_levels

T = TypeVar("T")


class Ordered(Protocol):
    """A value that can be compared with others of its kind."""

    def __lt__(self, other: Any, /) -> bool:
        """Whether it is the smaller one."""


O = TypeVar("O", bound=Ordered)  # noqa: E741 - a type, not a number

Order = Callable[[T, T, str], Iterator[Step]]
"""Compares an earlier value with a later one of the member that the text names."""


def shown(value: object) -> str:
    """A value of a policy as a document would write it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple):
        return ".".join(str(part) for part in value)
    if isinstance(value, Mapping):
        return shown_levels(value)
    if isinstance(value, frozenset):
        return ", ".join(shown(each) for each in sorted(value)) or "nothing"
    return str(value)


def allowed(old: AbstractSet[O], new: AbstractSet[O], what: str) -> Iterator[Step]:
    """Values of which one must be met: each further one admits more."""
    for value in sorted(new - old):
        yield Effect.WIDENS, f"adds {shown(value)} to {what}"
    for value in sorted(old - new):
        yield Effect.NARROWS, f"drops {shown(value)} from {what}"


def denied(old: AbstractSet[O], new: AbstractSet[O], what: str) -> Iterator[Step]:
    """Values of which none may be met, or demands of which all must be: each further one refuses more."""
    for value in sorted(new - old):
        yield Effect.NARROWS, f"adds {shown(value)} to {what}"
    for value in sorted(old - new):
        yield Effect.WIDENS, f"drops {shown(value)} from {what}"


def least(old: O, new: O, what: str) -> Iterator[Step]:
    """A lower limit."""
    if old < new:
        yield Effect.NARROWS, f"raises {what}: {shown(old)} -> {shown(new)}"
    elif new < old:
        yield Effect.WIDENS, f"lowers {what}: {shown(old)} -> {shown(new)}"


def most(old: O, new: O, what: str) -> Iterator[Step]:
    """An upper limit."""
    if new < old:
        yield Effect.NARROWS, f"lowers {what}: {shown(old)} -> {shown(new)}"
    elif old < new:
        yield Effect.WIDENS, f"raises {what}: {shown(old)} -> {shown(new)}"


def levels(old: Mapping[str, int], new: Mapping[str, int], what: str) -> Iterator[Step]:
    """Lower limits of the components of a TCB_VERSION; one that is not named may be 0."""
    for component in {**old, **new}:
        yield from least(old.get(component, 0), new.get(component, 0), f"{what}, {component}")


def bits(old: BitDemand, new: BitDemand, what: str) -> Iterator[Step]:
    """What is demanded of each bit of a word."""
    for name in old.names:
        before, after = _demand(old, name), _demand(new, name)
        if before != after:
            effect = Effect.NARROWS if before == _EITHER else Effect.WIDENS
            yield effect, f"{what}, {name}: {before} -> {after}"


_EITHER = "either"


def _demand(demand: BitDemand, name: str) -> str:
    if name in demand.require:
        return "required"
    return "forbidden" if name in demand.forbid else _EITHER


def mask(old: int, new: int, what: str) -> Iterator[Step]:
    """Bits that must be set."""
    yield from denied(_positions(old), _positions(new), what)


def _positions(word: int) -> frozenset[int]:
    return frozenset(bit for bit in range(word.bit_length()) if word >> bit & 1)


def permission(old: bool, new: bool, what: str) -> Iterator[Step]:
    """Something that is admitted or not."""
    if old != new:
        yield (Effect.WIDENS, f"admits {what}") if new else (Effect.NARROWS, f"no longer admits {what}")


def changed(old: object, new: object, what: str) -> Iterator[Step]:
    """A member of which no value asks for more than another: each is another promise to those who rely on it."""
    if old != new:
        yield Effect.WIDENS, f"changes {what}: {shown(old)} -> {shown(new)}"


def worded(old: object, new: object, what: str) -> Iterator[Step]:
    """A member for people."""
    if old != new:
        yield Effect.NEUTRAL, f"changes {what}: {shown(old)} -> {shown(new)}"


@dataclass(frozen=True)
class Stand(Generic[T]):
    """Where a policy stands on one constraint: it states a value, gives it up, or says nothing, which denies."""

    value: T | None
    given_up: bool = False


def constraint(old: Stand[T], new: Stand[T], what: str, order: Order[T]) -> Iterator[Step]:
    """A constraint that may be given up, and that denies while nobody has said anything about it.

    Args:
        old: where the earlier policy stands.
        new: where the later one does.
        what: names the constraint, such as ``host data``.
        order: compares two stated values.
    """
    if old.given_up or new.given_up:
        if not old.given_up:
            yield Effect.WIDENS, f"no longer constrains {what}"
        elif not new.given_up:
            said = "leaves it open, which denies" if new.value is None else f"demands {shown(new.value)}"
            yield Effect.NARROWS, f"constrains {what}: {said}"
    elif old.value is None:
        if new.value is not None:
            yield Effect.WIDENS, f"answers {what}, which was open and denied: {shown(new.value)}"
    elif new.value is None:
        yield Effect.NARROWS, f"leaves {what} open, which denies"
    else:
        yield from order(old.value, new.value, what)


def optional(old: T | None, new: T | None, what: str, order: Order[T]) -> Iterator[Step]:
    """A constraint of which silence means that there is none."""
    yield from constraint(Stand(old, old is None), Stand(new, new is None), what, order)
