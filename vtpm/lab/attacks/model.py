"""What an attack is, and what became of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtpm.lab.attacks.scene import Scene


class Verdict(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    """One of the rules that the attack names said no."""
    NOT_YET = "not-yet"
    """It succeeded with every check on, and the attack says what is still wanting against it."""
    OTHERWISE = "stopped-otherwise"
    """Something else ended it. No proof that the named rules are worth anything."""


@dataclass(frozen=True)
class Attack:
    """An executable attack.

    Attributes:
        id: its name, as `docs/threats.md` has it.
        who: whose doing it is.
        summary: what they do, one sentence.
        rules: the checks that stop it, each of them by itself. Without all of them it succeeds.
        attempt: does it; returns what was gained, or raises the `VtpmError` that stopped it.
        awaits: what will stop it and does not exist yet; empty for all that are stopped now.
        besides: checks that would stop it too, and for the same reason as one of `rules`; left out wherever a named one
            is. What each of them is worth by itself, their own tests show.
        origins: origins of secrets that the CA's allow-list admits in this attack's world.
    """

    id: str
    who: str
    summary: str
    rules: tuple[str, ...]
    attempt: Callable[["Scene"], str]
    awaits: str = ""
    besides: tuple[str, ...] = ()
    origins: tuple[str, ...] = ("kbs-generated",)


@dataclass(frozen=True)
class Case:
    """One attempt with some checks left out.

    Attributes:
        verdict: how it ended.
        rule: the first rule that said no, if one did.
        detail: what was gained, or the sentence of what stopped it.
    """

    verdict: Verdict
    rule: str
    detail: str


@dataclass(frozen=True)
class Result:
    """Everything about one attack: without the named checks, with all checks, and with each named one alone."""

    attack: Attack
    unchecked: Case
    checked: Case
    alone: Mapping[str, Case]

    @property
    def as_promised(self) -> bool:
        """It succeeds without the checks, and each of them stops it; or it is one that still awaits its check."""
        wanted = Verdict.NOT_YET if self.attack.awaits else Verdict.REFUSED
        return (
            self.unchecked.verdict is Verdict.SUCCEEDED
            and self.checked.verdict is wanted
            and all(case.verdict is Verdict.REFUSED for case in self.alone.values())
        )

    def to_json(self) -> dict[str, object]:
        """The stable members `id`, `unchecked`, `checked` and `rules`, and what a person wants to know besides."""
        return {
            "id": self.attack.id,
            "unchecked": self.unchecked.verdict.value,
            "checked": self.checked.verdict.value,
            "rules": list(self.attack.rules),
            "gained": self.unchecked.detail,
            "refused_by": self.checked.rule,
            "detail": self.checked.detail,
            "alone": {rule: case.verdict.value for rule, case in self.alone.items()},
            "awaits": self.attack.awaits,
        }
