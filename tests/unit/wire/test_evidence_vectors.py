"""The published enrolments are judged as they say: one admitted, each other refused by the named rule."""

import json
import re
from pathlib import Path

import pytest

from ca_service.enrollment.judge import ACTIVATION_CHECKS, Judge
from ca_service.enrollment.ledger_checks import LEDGER_CHECKS
from ca_service.enrollment.submission import Submission
from ca_service.evidence.ear import EAR_CHECKS
from ca_service.policy import load
from vtpm.wire.encoding import canonical
from vtpm.wire.message_fields import parse_time

ROOT = Path(__file__).parents[3]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "protocol" / "evidence.json").read_text())
AMD = json.loads((ROOT / "tests" / "vectors" / "protocol" / "amd_evidence.json").read_text())
POLICY = load(VECTORS["policy"])
JUDGE = Judge.of(VECTORS["ca_id"], VECTORS["mode"])
NONCE_KEY = bytes.fromhex(VECTORS["nonce_key"])


def judged(document, at):
    """The trace of a request, as an enrolment of an unknown TPM makes it."""
    submission, moment = Submission.parse(canonical(document)), parse_time(at, "at")
    trace = JUDGE.judge_nonce(submission, NONCE_KEY, moment)
    if trace.admitted:
        trace += JUDGE.authenticate(submission, moment)
    if trace.admitted:
        trace += JUDGE.decide(submission, POLICY, moment, certify=True)
    return trace


def changed(changes):
    document = json.loads(json.dumps(VECTORS["request"]))
    for path, value in changes.items():
        part, _, member = path.partition(".")
        holder, name = (document[part], member) if member else (document, part)
        if value is None:
            del holder[name]
        else:
            holder[name] = value
    return document


def test_the_unchanged_request_is_admitted():
    trace = judged(VECTORS["request"], VECTORS["at"])
    assert trace.refusal is None, trace.refusal
    assert trace.admitted


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["name"])
def test_a_changed_request_is_refused_by_the_named_rule(vector):
    assert vector["changes"] or vector["at"] != VECTORS["at"]
    refusal = judged(changed(vector["changes"]), vector["at"]).refusal
    assert refusal is not None
    assert refusal.rule == vector["rule"], refusal


def test_the_document_lists_the_rules_in_the_order_in_which_they_look():
    ids = [finding.rule for finding in judged(VECTORS["request"], VECTORS["at"]).findings]
    ids += [check.id for check in (*LEDGER_CHECKS, *ACTIVATION_CHECKS)]
    text = (ROOT / "docs" / "protocol.md").read_text().split("\n## 9 Rules\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    listed = [rule for row in rows for rule in re.findall(r"`([a-z-]+\.[a-z-]+)`", row)]
    assert len(set(listed)) == len(listed)
    # These are said by the state machine, not by a check of their own.
    said = {"policy.in-force", "activation.unexpired", "activation.open"}
    # These are rules of other profiles.
    elsewhere = {"profile.ek-in-manifest", "profile.single-ek", "profile.grant-present"}
    # These look only where a policy asks, in the order of their own room.
    asked = [rule for rule in listed if rule.startswith("ear.")]
    assert asked == [check.id for check in EAR_CHECKS]
    assert said | elsewhere <= set(listed)
    assert [rule for rule in listed if rule not in said | elsewhere | set(asked)] == ids
    seen = set()
    for request in AMD["requests"].values():
        ids = [finding.rule for finding in judged(request, AMD["at"]).findings]
        assert ids == [rule for rule in listed if rule in ids]
        seen |= set(ids)
    assert elsewhere <= seen
