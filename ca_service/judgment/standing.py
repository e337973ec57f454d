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
    """A list of checks that all have looked once, and what each found; timeless ones keep their findings."""

    __slots__ = ("_again", "_trace")

    def __init__(self, checks: Sequence[Check[T]], trace: Trace) -> None:
        """Keep what of `trace`, in which all of `checks` have looked, holds at any time."""
        if len(checks) != len(trace.findings):
            raise ValueError("a finding belongs to each check")
        self._trace = trace
        self._again = [(i, check) for i, check in enumerate(checks) if not is_timeless(check)]

    def all(self, subject: T) -> Trace:
        """As `judge_all`."""
        if not self._again:
            return self._trace
        findings = list(self._trace.findings)
        for i, check in self._again:
            findings[i] = check.judge(subject)
        return Trace(tuple(findings))

    def until_failure(self, subject: T) -> Trace:
        """As `judge_until_failure`."""
        findings: list[Finding] = []
        again = dict(self._again)
        for i, known in enumerate(self._trace.findings):
            check = again.get(i)
            found = known if check is None else check.judge(subject)
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
