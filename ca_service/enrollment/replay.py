"""Judging a stored decision anew: what is found now must be what was found then."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ca_service.judgment import Finding, Trace

SECRET_RULES: Final = ("nonce.", "activation.")
"""Rules that only the CA itself can judge by, because they rest on its secrets: their ids begin so."""

LINT_RULES: Final = "lint."
"""Rules about drafts of certificates, whose serials nobody could draw a second time."""

MOST_NAMED: Final = 20


class Outcome(StrEnum):
    """How a decision compares with what is found now.

    `REPHRASED` comes to the same verdict by the same rule, in other words: another release may have others.
    `BEYOND` is a refusal by a rule that nobody but the CA of then could judge by; all else of it agrees.
    `UNRECORDED` is a decision of a release before 0.5, which kept no inputs. `UNREADABLE` has inputs, evidence or
    policy that are damaged, or that this release reads no more.
    """

    AGREES = "agrees"
    REPHRASED = "rephrased"
    DIFFERS = "differs"
    BEYOND = "beyond-replay"
    UNRECORDED = "unrecorded"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Comparison:
    """A decision of then against one of now.

    Attributes:
        outcome: how they compare.
        rules: the rules whose findings differ, in their order; at most `MOST_NAMED`.
    """

    outcome: Outcome
    rules: tuple[str, ...] = ()


def compare(stored: Trace, anew: Trace, *, same_release: bool = False) -> Comparison:
    """Hold the stored findings against those that were made anew from the same inputs.

    Args:
        stored: the trace as it was kept.
        anew: what `Recorded.judge` finds by the policy of then.
        same_release: whether this release has made both, so that there is no reason for other words.
    """
    beyond = stored.refusal is not None and stored.refusal.rule.startswith((*SECRET_RULES, LINT_RULES))
    then = Trace(tuple(f for f in stored.findings if not f.rule.startswith((*SECRET_RULES, LINT_RULES))))
    if beyond and not then.findings:
        # A wrong answer to the challenge ends an enrolment before anything else is looked at.
        return Comparison(Outcome.BEYOND)
    if then == anew:
        return Comparison(Outcome.BEYOND if beyond else Outcome.AGREES)
    same = then.admitted == anew.admitted and _rule(then) == _rule(anew)
    rules = _differing(then.findings, anew.findings)
    return Comparison(Outcome.REPHRASED if same and not same_release else Outcome.DIFFERS, rules)


def _rule(trace: Trace) -> str:
    return "" if trace.refusal is None else trace.refusal.rule


def _differing(then: Sequence[Finding], now: Sequence[Finding]) -> tuple[str, ...]:
    before, after = {f.rule: f for f in then}, {f.rule: f for f in now}
    rules = dict.fromkeys([*before, *after])
    return tuple(rule for rule in rules if before.get(rule) != after.get(rule))[:MOST_NAMED]
