"""The tests of a policy document, run: recorded evidence is judged anew, and the verdict compared with the wanted one.

A test rests on the document, the recorded evidence and a time, and on nothing else: what the ledger knew stands in the
record, and what it knows today has no part in it. So it says the same on a machine without a CA as in the CA itself.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, Final

from ca_service.enrollment.judge import BINDING_CHECKS
from ca_service.enrollment.ledger_checks import LEDGER_CHECKS
from ca_service.enrollment.recorded import MAX_RECORDED, Recorded
from ca_service.evidence.ear import EAR_CHECKS
from ca_service.evidence.grant import GRANT_CHECKS
from ca_service.evidence.profiles import ISSUED_PROFILES, profile_checks
from ca_service.evidence.snp import AUTHENTICITY, CONFIGURATION
from ca_service.judgment import BadRequest, Check, Finding, Trace
from ca_service.policy import Expectation, Policy, checks, launch_checks, load
from ca_service.residency import CERTIFY_CHECKS, KEY_CHECKS
from vtpm.wire.encoding import parse_json
from vtpm.wire.errors import WireError

EVIDENCE_CODE: Final = "policy-evidence"
"""Code of the error that the evidence of a test is missing, or not what it should be."""

_NESTED: Final = 16
_MOST_SHOWN: Final = 256

FindEvidence = Callable[[Expectation], bytes]
"""Gives the file that a test names; raises BadRequest if there is none."""


@dataclass(frozen=True)
class Tried:
    """A test of a policy document that was run.

    Attributes:
        expectation: the test.
        digest: SHA-256 of the evidence file, hex.
        recorded_mode: mode of the CA that recorded the evidence.
        mode: mode of the CA that this judgement stands for.
        at: the time that was judged at, aware.
        trace: what was found.
    """

    expectation: Expectation
    digest: str
    recorded_mode: str
    mode: str
    at: datetime
    trace: Trace

    @property
    def refusal(self) -> Finding | None:
        """The first finding that says no."""
        return self.trace.refusal

    @property
    def holds(self) -> bool:
        """Whether the verdict is the expected one, and by the expected rule."""
        if self.expectation.expect == "admitted":
            return self.trace.admitted
        return self.refusal is not None and self.refusal.rule == self.expectation.rule

    @property
    def expected(self) -> str:
        """What was expected, in words."""
        return _verdict(self.expectation.rule)

    @property
    def got(self) -> str:
        """What was found, in words."""
        return _verdict("" if self.refusal is None else self.refusal.rule)


def _verdict(rule: str) -> str:
    return f"refused by {rule}" if rule else "admitted"


@cache
def known_rules() -> frozenset[str]:
    """Ids of all rules that can be the first to say no in a test: those of an enrolment, but for the CA's secrets."""
    nothing = load("schema = 1\n")
    found: list[Check[Any]] = [
        *AUTHENTICITY,
        *BINDING_CHECKS,
        *CONFIGURATION,
        *GRANT_CHECKS,
        *EAR_CHECKS,
        *KEY_CHECKS,
    ]
    found += [*CERTIFY_CHECKS, *LEDGER_CHECKS]
    found += [check for profile in (*ISSUED_PROFILES, "") for check in profile_checks(profile)]
    found += [*launch_checks(nothing, "simulation"), *checks(nothing, "simulation")]
    return frozenset(check.id for check in found)


def check_rules(policy: Policy) -> None:
    """Refuse a document whose tests name a rule that there is not.

    Raises:
        BadRequest: one does; the path names it.
    """
    for i, test in enumerate(policy.tests):
        if test.rule and test.rule not in known_rules():
            raise BadRequest(
                f"test[{i}].rule",
                f'there is no rule {test.rule} in what evidence is judged by (entry "{test.name}")',
                code="policy-invalid",
                remedy="docs/protocol.md lists the rules.",
            )


def run_tests(policy: Policy, find: FindEvidence, mode: str | None = None) -> tuple[Tried, ...]:
    """Run all tests of a document.

    Args:
        policy: the document.
        find: gives the evidence.
        mode: "production" or "simulation", to judge as a CA of that mode; None for the mode of each record.

    Returns:
        What came of each, in the order of the document.

    Raises:
        BadRequest: a test names no rule; its evidence is not there, not the pinned file or no recorded decision (code
            `EVIDENCE_CODE`; the path names the test).
    """
    check_rules(policy)
    read: dict[str, tuple[str, Recorded]] = {}
    return tuple(_try(policy, test, _evidence(test, find, read), mode) for test in policy.tests)


def _try(policy: Policy, test: Expectation, evidence: tuple[str, Recorded], mode: str | None) -> Tried:
    digest, recorded = evidence
    if test.at is not None:
        recorded = replace(recorded, at=test.at)
    try:
        trace = recorded.judge(policy, mode=mode)
    except BadRequest as error:
        raise bad_evidence(test, f"this release cannot read the request in it: {error.detail}") from None
    return Tried(test, digest, recorded.mode, mode or recorded.mode, recorded.at, trace)


def _evidence(
    test: Expectation, find: FindEvidence, read: dict[str, tuple[str, Recorded]]
) -> tuple[str, Recorded]:
    found = read.get(test.evidence)
    if found is None:
        body = find(test)
        found = read[test.evidence] = (hashlib.sha256(body).hexdigest(), _recorded(test, body))
    if test.digest and found[0] != test.digest:
        raise bad_evidence(test, f"is not the file that the document pins; its SHA-256 is {found[0]}")
    return found


def _recorded(test: Expectation, body: bytes) -> Recorded:
    try:
        return Recorded.from_json(parse_json(body, most=MAX_RECORDED, depth=_NESTED))
    except (WireError, BadRequest) as error:
        raise bad_evidence(test, f"is no recorded decision: {error}") from None


def bad_evidence(test: Expectation, problem: str) -> BadRequest:
    """The error about the evidence of a test."""
    # The problem may name members of the file, which may be called anything.
    shown = "".join(c if c.isascii() and c.isprintable() else "?" for c in problem[:_MOST_SHOWN])
    return BadRequest(
        f"test {test.name}",
        f"{test.evidence}: {shown}",
        code=EVIDENCE_CODE,
        remedy="`vtpm-ca decision record ID` writes what a decision rested on as such a file.",
    )


def outcome(policy: Policy, tried: Iterable[Tried]) -> dict[str, object]:
    """What came of the tests of a document, as plain values; `holds` only if all do."""
    tests = tuple(tried)
    return {
        "digest": policy.digest,
        "holds": all(each.holds for each in tests),
        "tests": [_plain(each) for each in tests],
    }


def _plain(tried: Tried) -> dict[str, object]:
    test, refusal = tried.expectation, tried.refusal
    return {
        "name": test.name,
        "holds": tried.holds,
        "evidence": test.evidence,
        "sha256": tried.digest,
        "recorded_mode": tried.recorded_mode,
        "mode": tried.mode,
        "at": tried.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "expected": {"verdict": test.expect, "rule": test.rule},
        "got": {
            "verdict": "admitted" if tried.trace.admitted else "refused",
            "rule": "" if refusal is None else refusal.rule,
            "reason": "" if refusal is None else refusal.reason,
            "expected": "" if refusal is None else refusal.expected,
            "actual": "" if refusal is None else refusal.actual,
        },
    }
