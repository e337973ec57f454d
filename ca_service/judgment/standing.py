"""Findings that stand: a check that looks at no clock need not look twice at the same things.

An enrolment is judged when it comes and again when the TPM has answered, and most of its checks rest on bytes, policy
and collateral alone. Such a check says of itself that it is `timeless`. One that does not say so is asked each time.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from ca_service.judgment.checks import Check, Finding, Trace, Verdict, judge_all, judge_until_failure

T = TypeVar("T")


class Timeless:
    """A check whose finding follows from its subject, whatever time it is: `timeless` is all that it adds.

    Not for a check that reads a time, or what was chosen by one.
    """

    timeless: ClassVar[bool] = True


def is_timeless(check: Check[Any]) -> bool:
    """Whether a check says that no time can change its finding."""
    return bool(getattr(check, "timeless", False))


class Steps(Generic[T]):
    """A list of checks in its order, with the findings of the timeless ones in their places."""

    __slots__ = ("_steps", "_trace")

    def __init__(self, checks: Sequence[Check[T]], trace: Trace) -> None:
        """Keep what of `trace`, in which all of `checks` have looked, holds at any time."""
        self._steps: tuple[Finding | Check[T], ...] = tuple(
            found if is_timeless(check) else check
            for check, found in zip(checks, trace.findings, strict=True)
        )
        self._trace = trace if all(isinstance(step, Finding) for step in self._steps) else None

    def all(self, subject: T) -> Trace:
        """As `judge_all`."""
        if self._trace is not None:
            return self._trace
        return Trace(
            tuple([step if isinstance(step, Finding) else step.judge(subject) for step in self._steps])
        )

    def until_failure(self, subject: T) -> Trace:
        """As `judge_until_failure`."""
        findings: list[Finding] = []
        for step in self._steps:
            found = step if isinstance(step, Finding) else step.judge(subject)
            findings.append(found)
            if found.verdict is Verdict.FAILED:
                break
        return Trace(tuple(findings))


class Standing:
    """What timeless checks found about one subject. Safe for threads: at worst a check looks twice.

    Whoever has one answers for it: under one name come the same checks, and subjects that differ in their time only.
    """

    __slots__ = ("_lists",)

    def __init__(self) -> None:
        self._lists: dict[str, Steps[Any]] = {}

    def judge_all(self, name: str, checks: Sequence[Check[T]], subject: T) -> Trace:
        """As `judge_all`; `name` is that of the list of checks."""
        known = self._lists.get(name)
        if known is not None:
            return known.all(subject)
        trace = judge_all(checks, subject)
        self._lists[name] = Steps(checks, trace)
        return trace

    def judge_until_failure(self, name: str, checks: Sequence[Check[T]], subject: T) -> Trace:
        """As `judge_until_failure`; of a list that was not gone through to its end nothing is kept."""
        known = self._lists.get(name)
        if known is not None:
            return known.until_failure(subject)
        trace = judge_until_failure(checks, subject)
        if trace.admitted:
            self._lists[name] = Steps(checks, trace)
        return trace
