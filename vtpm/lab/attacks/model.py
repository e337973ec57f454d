"""What an attack is, and what became of it."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ca_service.policy import UNSAFE_RULES

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
class PolicyDecision:
    """The CA's side of an attack that is for the policy to decide: what a document must say so that it succeeds.

    Such a document is for simulation CAs only. The checks are all there, and say in the trace what they would have
    said.

    Attributes:
        unsafe: names of permissive entries, each with what it gives up in an operator's words.
        admits: rules that are met by what a document admits openly, each with the lines that do.
        elsewhere: rules of the attack that are not the CA's.
    """

    unsafe: Mapping[str, str]
    admits: Mapping[str, str] = field(default_factory=dict)
    elsewhere: tuple[str, ...] = ()

    def document(self, off: Collection[str]) -> tuple[str, frozenset[str]]:
        """What gives up no other rules than `off`: lines for the end of a document, and the rules that they give up.

        An entry that gives up a rule which is on as well is left out as a whole.
        """
        entries = [name for name in self.unsafe if set(UNSAFE_RULES[name]) <= set(off)]
        admitted = [rule for rule in self.admits if rule in off]
        lines = [
            *(
                f"[[unsafe]]\nname = {json.dumps(n)}\ngives_up = {json.dumps(self.unsafe[n])}\n"
                for n in entries
            ),
            *(self.admits[rule] for rule in admitted),
        ]
        given_up = {rule for name in entries for rule in UNSAFE_RULES[name]}
        return "\n".join(lines), frozenset((*given_up, *admitted))


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
        decision: for attacks that the policy decides about: then it is a document that lets them succeed, and no check
            of the CA is replaced for that.
    """

    id: str
    who: str
    summary: str
    rules: tuple[str, ...]
    attempt: Callable[["Scene"], str]
    awaits: str = ""
    besides: tuple[str, ...] = ()
    origins: tuple[str, ...] = ("kbs-generated",)
    decision: PolicyDecision | None = None


@dataclass(frozen=True)
class Case:
    """One attempt with some checks left out.

    Attributes:
        verdict: how it ended.
        rule: the first rule that said no, if one did.
        detail: what was gained, or the sentence of what stopped it.
        skipped: rules of the CA that have looked, or not, and did not count, as its traces have it.
    """

    verdict: Verdict
    rule: str
    detail: str
    skipped: tuple[str, ...] = ()


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
            "skipped": list(self.unchecked.skipped),
            "unsafe": {} if self.attack.decision is None else dict(self.attack.decision.unsafe),
        }
