"""Ways to admit what a part of the policy refused, and which of them is the smallest."""

from collections.abc import Iterable
from dataclasses import dataclass

from ca_service.policy.remedies.edits import Content, Edit, found


@dataclass(frozen=True)
class Option:
    """Edits that answer one part of the policy together.

    Attributes:
        way: what is done, in a word; two options of one way do not stand beside each other as alternatives.
        edits: in the order in which they are done.
    """

    way: str
    edits: tuple[Edit, ...]

    @property
    def cost(self) -> tuple[int, int, int]:
        """What makes an option small: first few rules that ask for less, then few entries, then narrow edits."""
        rules = {rule for edit in self.edits for rule in edit.rules}
        entries = {entry for edit in self.edits for entry in edit.entries}
        return len(rules), len(entries), sum(edit.width for edit in self.edits)


def smallest_first(options: Iterable[Option]) -> list[Option]:
    """The options in the order in which they are tried; equal ones stay as they are."""
    return sorted(options, key=lambda option: option.cost)


def free_name(content: Content, table: str, wanted: str) -> str:
    """A name that no entry of a table has: the wanted one, or that with a number."""
    if found(content, (table, wanted)) is None:
        return wanted
    number = 2
    while found(content, (table, f"{wanted}-{number}")) is not None:
        number += 1
    return f"{wanted}-{number}"
