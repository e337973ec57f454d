"""What a document leaves open: constraints that it neither states nor gives up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ca_service.policy.form import Path, entry_of, shown_path
from ca_service.policy.reading import Reader


@dataclass(frozen=True)
class Unstated:
    """A constraint that a document neither states nor gives up; its rule denies.

    Attributes:
        rule: id of the rule.
        path: the member that would state it.
        entry: name of the entry, for the end of a sentence; may be empty.
        missing: what the document must do about it; a sentence without its subject, which is the path.
    """

    rule: str
    path: str
    entry: str
    missing: str


class OpenQuestions(Reader):
    """Finds what is stated and given up at once (refused), and what is neither (noted).

    Attributes:
        unstated: what was noted, in the order of reading.
    """

    def __init__(self, content: Mapping[str, object]) -> None:
        super().__init__(content)
        self.unstated: list[Unstated] = []

    def weigh(
        self,
        rule: str,
        given_up: Sequence[str],
        path: Path,
        member: str,
        *,
        stated: bool,
        missing: str = "",
    ) -> None:
        """Look at one constraint.

        Args:
            rule: id of its rule; the part after the dot is the word that gives it up.
            given_up: the words of the entry's `unconstrained`.
            path: the table that would state it.
            member: dotted name of the member there that would.
            stated: whether it does.
            missing: as `Unstated.missing`; empty for the usual sentence.

        Raises:
            BadRequest: it is stated and given up at once.
        """
        constraint = rule.partition(".")[2]
        if constraint not in given_up:
            if not stated:
                self.note(rule, (*path, *member.split(".")), missing)
        elif stated:
            raise self.refuse(
                f'{member} is stated, so "{constraint}" cannot be unconstrained',
                *path[:2],
                "unconstrained",
                given_up.index(constraint),
            )

    def note(self, rule: str, path: Path, missing: str = "") -> None:
        """Note a constraint as open; `path` is the member that would state it."""
        word = rule.partition(".")[2]
        missing = missing or f'must be stated, or "{word}" named in unconstrained'
        self.unstated.append(Unstated(rule, shown_path(path), entry_of(self.content, path), missing))

    def values(self, values: list[str] | None, *path: int | str) -> frozenset[bytes] | None:
        """Hex digits of a list as the bytes that they mean; None if there is no list.

        Raises:
            BadRequest: one stands twice.
        """
        if values is None:
            return None
        self.unique(values, *path)
        return frozenset(bytes.fromhex(value) for value in values)
