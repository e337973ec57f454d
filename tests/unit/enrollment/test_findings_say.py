"""Every check that says no says what it wanted or what it saw: a decision is read months later, by somebody else."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import ca_service
from ca_service.enrollment.judge import ACTIVATION_CHECKS, BINDING_CHECKS, Judge
from ca_service.enrollment.ledger_checks import LEDGER_CHECKS
from ca_service.enrollment.nonces import NONCE_CHECKS
from ca_service.enrollment.submission import Submission
from ca_service.evidence.ear import EAR_CHECKS
from ca_service.evidence.grant import GRANT_CHECKS
from ca_service.evidence.profiles import ISSUED_PROFILES, profile_checks
from ca_service.evidence.snp import AUTHENTICITY, CONFIGURATION
from ca_service.judgment import Trace, Verdict, judge_all
from ca_service.policy import checks, launch_checks, load
from ca_service.residency import CERTIFY_CHECKS, KEY_CHECKS

ROOMS = ("evidence", "residency", "policy", "enrollment")

EXCEPTIONS = {
    # What was wanted is a secret, and so may be what was given: it may be right for another challenge.
    "the TPM's answer to the challenge is wrong",
}
"""Sentences of findings that say no more."""

ALL = (
    *NONCE_CHECKS,
    *AUTHENTICITY,
    *BINDING_CHECKS,
    *CONFIGURATION,
    *GRANT_CHECKS,
    *EAR_CHECKS,
    *KEY_CHECKS,
    *CERTIFY_CHECKS,
    *LEDGER_CHECKS,
    *ACTIVATION_CHECKS,
    *(check for profile in ISSUED_PROFILES for check in profile_checks(profile)),
)


@cache
def failures() -> tuple[tuple[str, ast.Call], ...]:
    """Every place in the rooms of checks that makes a finding which says no."""
    return tuple(_failures(Path(ca_service.__file__).parent))


def _failures(root: Path) -> Iterator[tuple[str, ast.Call]]:
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id == "failed"
                ):
                    yield f"{path.relative_to(root)}:{node.lineno}", node


def sentence(call: ast.Call) -> str:
    return call.args[1].value if isinstance(call.args[1], ast.Constant) else ""


def test_each_failure_says_what_was_wanted_or_seen():
    assert len(failures()) > 60
    silent = [
        where
        for where, call in failures()
        if not {"expected", "actual"} & {word.arg for word in call.keywords}
        and sentence(call) not in EXCEPTIONS
    ]
    assert silent == []


def test_the_exceptions_are_there_still():
    assert {sentence(call) for _, call in failures()} >= EXCEPTIONS


def test_all_rules_make_their_findings_there():
    """No check of any list stands in another room, or makes its findings by other means."""
    for check in ALL:
        source = inspect.getsource(type(check).judge)
        assert type(check).__module__.split(".")[1] in ROOMS, check.id
        assert "failed(" in source or "_judge(" in source, check.id


@pytest.fixture
def nothing_listed(world):
    """A document without launches and key brokers, and one whose entries are all about others."""
    text = world.policy()
    other = text.replace(world.launch.measurement.hex(), "ab" * 48).replace('"default/vtpm/*"', '"x/y/z"')
    stated = text.replace("provisional_firmware = false\n", "").replace("max_age_s = 3600", "max_age_s = 1")
    for word, value in (("L-1", "H-6"), ("cocoonfs/1", "other/1"), ("kbs-generated", "provisioned")):
        stated = stated.replace(f'"{word}"', f'"{value}"')
    return [load("schema = 1"), load(other), load(stated)]


def test_so_do_the_rules_of_a_policy(world, tpms, helpers, nothing_listed):
    body = world.body("QUFBQQ", tpms(0), helpers.Boot())
    submission = Submission.parse(body)
    judge = Judge.of("test-ca", "simulation")
    facts = judge.facts(submission, world.time)
    late = replace(facts, grant_iat=facts.grant_iat - 10)
    said, silent = set(), []
    for policy in (None, *nothing_listed):
        trace: Trace = judge_all(launch_checks(policy, "simulation"), facts.launch)
        trace += judge_all(checks(policy, "simulation"), late)
        for finding in trace.findings:
            if finding.verdict is Verdict.FAILED:
                said.add(finding.rule)
                silent += [finding.rule] if finding.expected == "" == finding.actual else []
    assert silent == []
    every = load("schema = 1")
    rules = {check.id for check in (*launch_checks(every, "simulation"), *checks(every, "simulation"))}
    # These hold for this machine under any document.
    assert rules - said == {"policy.mode", "launch.simulated", "profile.admitted", "store.persistent"}
