"""What a document leaves open, and what it says that nothing can meet.

Neither stops a document that is in force already: what it decides, it decides as before. No other one is put in force.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ca_service.policy.document.form import Path, entry_of, shown_path
from ca_service.policy.reading.reader import Reader


@dataclass(frozen=True)
class Unstated:
    """A constraint that a document neither states nor gives up.

    Attributes:
        rule: id of the rule, which denies, unless `denies` is false.
        path: the member that would state it.
        entry: name of the entry, for the end of a sentence; may be empty.
        missing: what the document must do about it; a sentence without its subject, which is the path.
        denies: false for a constraint that earlier releases did not ask for: silence meant that it did not matter.
    """

    rule: str
    path: str
    entry: str
    missing: str
    denies: bool = True


@dataclass(frozen=True)
class Contradiction:
    """Something that a document says and cannot mean.

    Attributes:
        path: the member.
        detail: what is wrong with it, and the name of its entry.
    """

    path: str
    detail: str


class OpenQuestions(Reader):
    """Finds what is stated and given up at once (refused), what is neither, and what nothing can meet (noted).

    Attributes:
        unstated: open questions, in the order of reading.
        contradictions: likewise.
    """

    def __init__(self, content: Mapping[str, object]) -> None:
        super().__init__(content)
        self.unstated: list[Unstated] = []
        self.contradictions: list[Contradiction] = []

    def weigh(
        self,
        rule: str,
        given_up: Sequence[str],
        path: Path,
        member: str,
        *,
        stated: bool,
        missing: str = "",
        denies: bool = True,
    ) -> None:
        """Look at one constraint.

        Args:
            rule: id of its rule; the part after the dot is the word that gives it up.
            given_up: the words of the entry's `unconstrained`.
            path: the table that would state it.
            member: dotted name of the member there that would.
            stated: whether it does.
            missing: as `Unstated.missing`; empty for the usual sentence.
            denies: as `Unstated.denies`.

        Raises:
            BadRequest: it is stated and given up at once.
        """
        constraint = rule.partition(".")[2]
        if constraint not in given_up:
            if not stated:
                self.note(rule, (*path, *member.split(".")), missing, denies=denies)
        elif stated:
            raise self.refuse(
                f'{member} is stated, so "{constraint}" cannot be unconstrained',
                *path[:2],
                "unconstrained",
                given_up.index(constraint),
            )

    def note(self, rule: str, path: Path, missing: str = "", *, denies: bool = True) -> None:
        """Note a constraint as open; `path` is the member that would state it."""
        word = rule.partition(".")[2]
        missing = missing or f'must be stated, or "{word}" named in unconstrained'
        self.unstated.append(Unstated(rule, shown_path(path), entry_of(self.content, path), missing, denies))

    def object_to(self, detail: str, *path: int | str) -> None:
        """Note a member that cannot be meant as it stands."""
        self.contradictions.append(Contradiction(shown_path(path), detail + entry_of(self.content, path)))

    def values(self, values: list[str] | None, *path: int | str) -> frozenset[bytes] | None:
        """Hex digits of a list as the bytes that they mean; None if there is no list.

        Raises:
            BadRequest: one stands twice.
        """
        if values is None:
            return None
        self.unique(values, *path)
        return frozenset(bytes.fromhex(value) for value in values)
