"""Changes of a document's content, as values: what is put where, and what the operator is told about it.

Entries are called by their name or id and not by their position, so the same edit fits a document of which parts that
do not matter here were left out.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

Content = Mapping[str, Any]
"""A document as TOML gives it."""

Where = tuple[str | int, ...]
"""Names of members; in a list of entries, an entry's name or id, in other lists a position."""

_NAMES: Final = ("id", "name")


class Act(StrEnum):
    """PUT sets a member, DROP takes it away, ADD appends an element to a list."""

    PUT = "put"
    DROP = "drop"
    ADD = "add"


@dataclass(frozen=True)
class Step:
    """One thing to be done to a document.

    Attributes:
        act: what is done.
        where: the member, or the list.
        value: what is put or added.
    """

    act: Act
    where: Where
    value: Any = field(default=None, hash=False)

    def under(self, *where: str | int) -> "Step":
        """The same step in a table that stands at `where`."""
        return Step(self.act, (*where, *self.where), self.value)


def put(*where: str | int, value: Any) -> Step:
    """Set a member."""
    return Step(Act.PUT, where, value)


def drop(*where: str | int) -> Step:
    """Take a member away."""
    return Step(Act.DROP, where)


def add(*where: str | int, value: Any) -> Step:
    """Add an element to a list, which is made if it is not there."""
    return Step(Act.ADD, where, value)


@dataclass(frozen=True)
class Edit:
    """One change of a document that makes sense by itself.

    Attributes:
        rules: the rules that ask for less after it.
        entries: the entries that it touches, such as ``platform fleet``; the name of a table where there is one of
            a kind.
        steps: what is done.
        words: what it does, in one sentence without its end.
        warnings: what is lost by it, in sentences.
        width: how much more than the decision in question it admits; for comparing edits only.
    """

    rules: tuple[str, ...]
    entries: tuple[str, ...]
    steps: tuple[Step, ...]
    words: str
    warnings: tuple[str, ...] = ()
    width: int = 1


def edited(content: Content, edits: Iterable[Edit]) -> Content:
    """The content after some edits, in their order; `content` itself stays as it is.

    Raises:
        LookupError: a step goes to a place that does not exist.
    """
    for edit in edits:
        content = stepped(content, edit.steps)
    return content


def stepped(content: Content, steps: Iterable[Step]) -> Content:
    """The content after some steps; raises as `edited`."""
    for step in steps:
        content = _at(content, step.where, _ACTS[step.act], step.value)
    return content


def found(content: Content, where: Where) -> Any:
    """What stands at a place; None if nothing does."""
    value: Any = content
    for step in where:
        try:
            value = value[_key(value, step)]
        except LookupError:
            return None
    return value


def position(content: Content, where: Where) -> Where:
    """The place with positions in place of the names of entries; a new entry's is the one after the last."""
    value: Any = content
    path: list[str | int] = []
    for step in where:
        try:
            key = _key(value, step)
            value = value[key]
        except LookupError:
            key, value = (len(value) if isinstance(value, list) else step), {}
        path.append(key)
    return tuple(path)


def _key(container: Any, step: str | int) -> Any:
    if isinstance(container, list) and isinstance(step, str):
        for i, entry in enumerate(container):
            if isinstance(entry, Mapping) and step in (entry.get(name) for name in _NAMES):
                return i
        raise LookupError(step)
    return step


def _at(container: Any, where: Where, act: Callable[[Any, Any, Any], None], value: Any) -> Any:
    """A copy of the container in which `act` was done; only what lies on the way is copied."""
    made = container.copy()
    key = _key(made, where[0])
    if len(where) == 1:
        act(made, key, value)
    else:
        inner = made.get(key, {}) if isinstance(made, dict) else made[key]
        made[key] = _at(inner, where[1:], act, value)
    return made


def _put(table: Any, key: Any, value: Any) -> None:
    table[key] = value


def _drop(table: Any, key: Any, _value: Any) -> None:
    del table[key]


def _add(table: Any, key: Any, value: Any) -> None:
    table[key] = [*table.get(key, ()), value]


_ACTS: Final[Mapping[Act, Callable[[Any, Any, Any], None]]] = {
    Act.PUT: _put,
    Act.DROP: _drop,
    Act.ADD: _add,
}
