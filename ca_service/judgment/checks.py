"""Checks, findings and traces.

A check is a small object with one verb and a stable id. It looks at one frozen subject and returns a finding; it
never raises for bad evidence. Nothing is admitted that no check looked at: an empty trace denies.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import chain
from json.encoder import encode_basestring_ascii
from operator import attrgetter
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property

_quoted = encode_basestring_ascii
"""A string as JSON, in ASCII: what `json.dumps` does with it, without the way there."""

_verdict = attrgetter("verdict")

T_contra = TypeVar("T_contra", contravariant=True)
T = TypeVar("T")

REMEMBERED: Final = 1024
"""How many findings without details are remembered, and how many findings' texts; there are some 300 checks."""


class Verdict(StrEnum):
    """What a check concluded. `UNSAFE_SKIPPED` admits, and says that nobody looked."""

    PASSED = "passed"
    FAILED = "failed"
    UNSAFE_SKIPPED = "unsafe-skipped"


# An enrolment needs them some hundred times, and to look one up in its class takes ten times as long.
_PASSED: Final = Verdict.PASSED
_FAILED: Final = Verdict.FAILED


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        rule: the check's stable id.
        verdict: the conclusion.
        reason: one sentence that may be shown to the requester; it never reveals the allow-list.
        expected: what the check wanted to see, for the operator; empty if it would say nothing.
        actual: what it saw, for the operator.
    """

    rule: str
    verdict: Verdict
    reason: str = ""
    expected: str = ""
    actual: str = ""


class Check(Protocol[T_contra]):
    """One rule about one kind of subject."""

    @property
    def id(self) -> str:
        """Stable id, ``room.rule``, lower case with hyphens; published in refusals and traces."""

    def judge(self, subject: T_contra) -> Finding:
        """Look at `subject` and say what was found."""


def passed(check: "Check[Any]", *, expected: object = "", actual: object = "") -> Finding:
    """The finding of a check that is content."""
    if expected == "" == actual:
        return _content(check.id)
    return Finding(check.id, _PASSED, "", str(expected), str(actual))


@lru_cache(maxsize=REMEMBERED)
def _content(rule: str) -> Finding:
    # Most checks say no more than this, and an enrolment has hundreds of findings.
    return Finding(rule, _PASSED)


def failed(check: "Check[Any]", reason: str, *, expected: object = "", actual: object = "") -> Finding:
    """The finding of a check that says no, with the sentence for the requester."""
    return Finding(check.id, _FAILED, reason, str(expected), str(actual))


@dataclass(frozen=True)
class UnsafeSkip:
    """Stands in the place of the check `id` and admits everything.

    Only `vtpm.lab` puts it there, to show that an attack succeeds without the check; no configuration can.
    """

    id: str

    def judge(self, subject: object) -> Finding:  # noqa: ARG002 - it does not look, that is the point
        """Admit without looking, and leave that in the trace."""
        return Finding(self.id, Verdict.UNSAFE_SKIPPED)


@frozen
class Trace:
    """All findings about one request, in the order in which they were made."""

    findings: tuple[Finding, ...] = ()

    @cached_property
    def refusal(self) -> Finding | None:
        """The first finding that says no, if any does."""
        verdicts = list(map(_verdict, self.findings))
        return self.findings[verdicts.index(_FAILED)] if _FAILED in verdicts else None

    @property
    def admitted(self) -> bool:
        """Whether at least one check looked and none said no."""
        return bool(self.findings) and self.refusal is None

    def __add__(self, other: "Trace") -> "Trace":
        return Trace.joined((self, other))

    @classmethod
    def joined(cls, traces: Sequence["Trace"]) -> "Trace":
        """The findings of all of them, in their order."""
        whole = cls(tuple(chain.from_iterable([trace.findings for trace in traces])))
        # Each part is looked through once, however often what it goes into is asked.
        whole.__dict__["refusal"] = next(filter(None, [trace.refusal for trace in traces]), None)
        return whole

    def to_json(self) -> list[dict[str, str]]:
        """The findings as plain values, for storage and `decision show`."""
        return [
            {
                "rule": f.rule,
                "verdict": f.verdict.value,
                "reason": f.reason,
                "expected": f.expected,
                "actual": f.actual,
            }
            for f in self.findings
        ]

    def text(self) -> str:
        """The JSON text of `to_json`, in ASCII and without spaces: what is stored."""
        return f"[{','.join(map(_text, self.findings))}]"

    @classmethod
    def from_json(cls, findings: Iterable[Mapping[str, str]]) -> "Trace":
        """Inverse of `to_json`."""
        return cls(
            tuple(
                Finding(f["rule"], Verdict(f["verdict"]), f["reason"], f["expected"], f["actual"])
                for f in findings
            )
        )


@lru_cache(maxsize=REMEMBERED)
def _text(finding: Finding) -> str:
    # Two of three findings of an enrolment are those of the last one of the same image on the same host.
    rule, verdict, reason, expected, actual = map(_quoted, finding)
    return f'{{"rule":{rule},"verdict":{verdict},"reason":{reason},"expected":{expected},"actual":{actual}}}'


def judge_all(checks: Sequence[Check[T]], subject: T) -> Trace:
    """Let every check look, also after a failure: the operator wants to see all that is wrong."""
    return Trace(tuple([check.judge(subject) for check in checks]))


def judge_until_failure(checks: Sequence[Check[T]], subject: T) -> Trace:
    """Stop at the first failure: for checks whose successors would work on unauthenticated bytes."""
    findings: list[Finding] = []
    for check in checks:
        finding = check.judge(subject)
        findings.append(finding)
        if finding.verdict is _FAILED:
            break
    return Trace(tuple(findings))


def replaced(checks: Sequence[Check[T]], substitutes: Mapping[str, Check[T]]) -> tuple[Check[T], ...]:
    """The checks with some exchanged by id."""
    return tuple(substitutes.get(check.id, check) for check in checks)
