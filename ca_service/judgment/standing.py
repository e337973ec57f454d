"""Findings that stand: a check that looks at no clock need not look twice at the same things.

An enrolment is judged when it comes and again when the TPM has answered, and most of its checks rest on bytes, policy
and collateral alone. Such a check says of itself that it is `timeless`. One that does not say so is asked each time.
"""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar

from ca_service.judgment.checks import Check, Trace, judge_until_failure
from vtpm.wire.lazy import cached_property

T = TypeVar("T")


class Timeless:
    """A check whose finding follows from its subject, whatever time it is: `timeless` is all that it adds.

    Not for a check that reads a time, or what was chosen by one.
    """

    timeless: ClassVar[bool] = True


def is_timeless(check: Check[Any]) -> bool:
    """Whether a check says that no time can change its finding."""
    return bool(getattr(check, "timeless", False))


class Checks(tuple[Check[T], ...]):  # noqa: SLOT001 - it keeps what it has found out about itself
    """A list of checks that knows which of them have to look again as time goes by."""

    @cached_property
    def timed(self) -> tuple[int, ...]:
        """Places of those that are not timeless."""
        return tuple([at for at, check in enumerate(self) if not is_timeless(check)])


Part: TypeAlias = tuple[Checks[Any], Any]
"""Checks, and the subject that they look at."""


class Steps:
    """Lists of checks that all have looked once, and what each found; timeless ones keep their findings."""

    __slots__ = ("_again", "_trace")

    def __init__(self, lists: Iterable[Checks[Any]], trace: Trace) -> None:
        """Keep what of `trace`, in which all checks of the lists have looked one after another, holds at any time."""
        self._trace = trace
        self._again: list[tuple[int, int, Check[Any]]] = []
        start = 0
        for n, checks in enumerate(lists):
            self._again += [(start + at, n, checks[at]) for at in checks.timed]
            start += len(checks)
        if start != len(trace.findings):
            raise ValueError("a finding belongs to each check")

    def all(self, *subjects: object) -> Trace:
        """As `judge_all` with a subject for each list."""
        if not self._again:
            return self._trace
        findings = list(self._trace.findings)
        for i, n, check in self._again:
            findings[i] = check.judge(subjects[n])
        return Trace(tuple(findings))

    def until_failure(self, subject: object) -> Trace:
        """As `judge_until_failure`, of a single list that was content; what time may change is asked in any case."""
        trace = self.all(subject)
        if trace.refusal is None:
            return trace
        return Trace(trace.findings[: trace.findings.index(trace.refusal) + 1])


class Standing:
    """What timeless checks found about one subject. Safe for threads: at worst a check looks twice.

    Whoever has one answers for it: under one name come the same checks, and subjects that differ in their time only.
    """

    __slots__ = ("_lists",)

    def __init__(self) -> None:
        self._lists: dict[str, Steps] = {}

    def judge_all(self, name: str, parts: Sequence[Part]) -> Trace:
        """As `judge_all`, part after part; `name` is that of these lists of checks."""
        known = self._lists.get(name)
        if known is not None:
            return known.all(*[subject for _, subject in parts])
        trace = Trace(tuple([check.judge(subject) for checks, subject in parts for check in checks]))
        self._lists[name] = Steps([checks for checks, _ in parts], trace)
        return trace

    def judge_until_failure(self, name: str, checks: Checks[T], subject: T) -> Trace:
        """As `judge_until_failure`; of a list that was not gone through to its end nothing is kept."""
        known = self._lists.get(name)
        if known is not None:
            return known.until_failure(subject)
        trace = judge_until_failure(checks, subject)
        if trace.admitted:
            self._lists[name] = Steps([checks], trace)
        return trace
