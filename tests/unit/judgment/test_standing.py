"""A timeless check is asked once, any other each time, and a trace looks as if all had been asked."""

import json
from dataclasses import dataclass, field

from ca_service.judgment import (
    Checks,
    Finding,
    Standing,
    Timeless,
    Trace,
    UnsafeSkip,
    Verdict,
    failed,
    judge_all,
    judge_until_failure,
    passed,
)


@dataclass(frozen=True)
class Clocked:
    """Content until a time."""

    until: int
    id: str = "test.clocked"
    asked: list[int] = field(default_factory=list, compare=False)

    def judge(self, subject: int) -> Finding:
        self.asked.append(subject)
        return passed(self, actual=subject) if subject < self.until else failed(self, "it is too late")


@dataclass(frozen=True)
class Fixed(Timeless):
    """Says the same for good."""

    good: bool = True
    id: str = "test.fixed"
    asked: list[int] = field(default_factory=list, compare=False)

    def judge(self, subject: int) -> Finding:
        self.asked.append(subject)
        return passed(self) if self.good else failed(self, "it is never good")


def test_only_the_clock_is_asked_again():
    clocked, fixed, known = Clocked(2), Fixed(), Standing()
    for time in range(4):
        assert known.judge_all("list", [(Checks((fixed, clocked)), time)]) == judge_all(
            (Fixed(), Clocked(2)), time
        )
    assert fixed.asked == [0]
    assert clocked.asked == [0, 1, 2, 3]


def test_each_part_has_its_own_subject():
    early, late, known = Clocked(2), Clocked(2, "test.late"), Standing()
    for time in range(4):
        trace = known.judge_all(
            "parts", [(Checks((Fixed(), early)), time), (Checks((late, Fixed())), time + 1)]
        )
        assert [finding.verdict is Verdict.PASSED for finding in trace.findings] == [
            True,
            time < 2,
            time < 1,
            True,
        ]
    assert (early.asked, late.asked) == ([0, 1, 2, 3], [1, 2, 3, 4])


def test_a_list_without_a_clock_is_judged_once():
    fixed, known = Fixed(good=False), Standing()
    traces = [known.judge_all("list", [(Checks((fixed, Fixed(id="test.other"))), time)]) for time in range(3)]
    assert traces == [judge_all((Fixed(good=False), Fixed(id="test.other")), 0)] * 3
    assert fixed.asked == [0]


def test_a_failure_that_time_brings_ends_the_list():
    checks = Checks((Fixed(), Clocked(1), Fixed(id="test.last")))
    known = Standing()
    for time in (0, 1, 0):
        assert known.judge_until_failure("list", checks, time) == judge_until_failure(checks, time)
    assert len(known.judge_until_failure("list", checks, 1).findings) == 2


def test_nothing_stands_of_a_list_that_ended_early():
    first, last, known = Clocked(1), Fixed(), Standing()
    checks = Checks((first, last))
    assert not known.judge_until_failure("list", checks, 1).admitted
    assert known.judge_until_failure("list", checks, 0) == judge_until_failure((Clocked(1), Fixed()), 0)
    assert first.asked[:2] == [1, 0]
    assert last.asked == [0]


def test_lists_of_other_names_do_not_meet():
    known = Standing()
    assert known.judge_all("good", [(Checks((Fixed(),)), 0)]).admitted
    assert not known.judge_all("bad", [(Checks((Fixed(good=False),)), 0)]).admitted


def test_who_does_not_say_so_is_asked_each_time():
    assert not known_after(UnsafeSkip("test.skipped"))
    assert known_after(Fixed())


def known_after(check):
    """Whether a standing keeps what the check found: then another check of the list's place is not asked."""
    known = Standing()
    known.judge_all("list", [(Checks((check,)), 0)])
    return not known._lists["list"]._again


def test_a_sum_is_refused_by_its_first_refusal():
    content, other = (Trace((Finding(rule, Verdict.PASSED),)) for rule in ("a.b", "a.c"))
    first, second = (Trace((Finding(rule, Verdict.FAILED, "no"),)) for rule in ("b.b", "b.c"))
    for parts in ((), (content,), (content, other), (first, content), (content, second, first, other)):
        added = sum(parts, Trace())
        whole = Trace(tuple(finding for part in parts for finding in part.findings))
        assert added == Trace.joined(parts) == whole
        assert added.refusal == Trace.joined(parts).refusal == whole.refusal
        assert added.admitted == Trace.joined(parts).admitted == whole.admitted
    assert (content + second + first).refusal == second.findings[0]


def test_a_finding_is_json_text_of_its_own():
    findings = (
        Finding("a.b", Verdict.PASSED),
        Finding("a.c", Verdict.FAILED, 'said "no"', "é\u2028\x7f", "\\ \n"),
        Finding("a.d", Verdict.UNSAFE_SKIPPED, actual="x"),
    )
    trace = Trace(findings)
    assert trace.text() == json.dumps(trace.to_json(), separators=(",", ":"))
    assert Trace.from_json(json.loads(trace.text())) == trace
    assert Trace().text() == "[]"
