"""The published enrolments are judged as they say: one admitted, each other refused by the named rule."""

import json
from pathlib import Path

import pytest

from ca_service.enrollment.judge import Judge
from ca_service.enrollment.submission import Submission
from ca_service.policy import load
from vtpm.wire.encoding import canonical
from vtpm.wire.message_fields import parse_time

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "protocol" / "evidence.json").read_text())
POLICY = load(VECTORS["policy"])
JUDGE = Judge.of(VECTORS["ca_id"], VECTORS["mode"], bytes.fromhex(VECTORS["nonce_key"]))


def judged(document, at):
    """The trace of a request, as an enrolment of an unknown TPM makes it."""
    submission, moment = Submission.parse(canonical(document)), parse_time(at, "at")
    trace = JUDGE.judge_nonce(submission, moment)
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
