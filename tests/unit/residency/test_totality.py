"""No bytes make a check raise, and no made-up bytes are admitted."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_service.judgment import Finding, Verdict, judge_all
from ca_service.residency import CERTIFY_CHECKS, KEY_CHECKS, TpmEvidence
from ca_service.residency.attest import Attest, Signature
from vtpm.wire.runtime_data import KeyStatement

_HEAD = bytes.fromhex("ff5443478017")
_SCHEMES = [
    bytes.fromhex(head) for head in ("0018000c", "0016000b", "0018000b", "0016000c", "0014000b", "0005000b")
]
ATTESTS = st.binary(max_size=1100) | st.binary(max_size=400).map(lambda tail: _HEAD + tail)
SIGNATURES = st.binary(max_size=1100) | st.tuples(st.sampled_from(_SCHEMES), st.binary(max_size=600)).map(
    b"".join
)
FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def judged(evidence):
    trace = judge_all(KEY_CHECKS + CERTIFY_CHECKS, evidence)
    assert all(isinstance(finding, Finding) for finding in trace.findings)
    assert [f.rule for f in trace.findings] == [check.id for check in KEY_CHECKS + CERTIFY_CHECKS]
    return trace


@pytest.fixture(scope="module")
def evidence(vectors):
    return vectors["default"][0]


@FUZZ
@given(attest=st.none() | ATTESTS, signature=st.none() | SIGNATURES)
def test_made_up_proofs_are_refused(evidence, attest, signature):
    trace = judged(replace(evidence, attest=attest, signature=signature))
    assert next(f for f in trace.findings if f.rule == "certify.signature").verdict is Verdict.FAILED


@FUZZ
@given(data=st.data())
def test_mangled_proofs_are_refused(vectors, data):
    case = data.draw(st.sampled_from(["default", "all-rsa-2048", "mixed-sha256-sha512", "all-p521"]))
    evidence = vectors[case][0]
    part = data.draw(st.sampled_from(["attest", "signature"]))
    original = getattr(evidence, part)
    start = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(start, min(len(original), start + 40)))
    mangled = original[:start] + data.draw(st.binary(max_size=40)) + original[end:]
    trace = judged(replace(evidence, **{part: mangled}))
    assert (trace.refusal is None) == (mangled == original)


@FUZZ
@given(data=st.data())
def test_mangled_keys_never_raise(vectors, data):
    evidence = vectors["four-eks"][0]
    statement = evidence.statement
    role = data.draw(st.sampled_from(["eks", "iak", "idevid"]))
    key = statement.eks[0] if role == "eks" else getattr(statement, role)
    start = data.draw(st.integers(0, len(key.public)))
    end = data.draw(st.integers(start, len(key.public)))
    mangled = KeyStatement(
        data.draw(st.sampled_from(["L-1", "H-3", "H-1", "R-3072", "", "?"])),
        key.public[:start] + data.draw(st.binary(max_size=40)) + key.public[end:],
    )
    value = (mangled, *statement.eks[1:]) if role == "eks" else mangled
    trace = judged(replace(evidence, statement=replace(statement, **{role: value})))
    if mangled != key and role != "eks":
        assert trace.refusal is not None


@FUZZ
@given(public=st.binary(max_size=700))
def test_made_up_keys_are_refused(evidence, public):
    key = KeyStatement("H-3", public)
    statement = replace(evidence.statement, eks=(key,), iak=key, idevid=key)
    assert judged(TpmEvidence(statement, evidence.qualifier, evidence.attest, evidence.signature)).refusal


@FUZZ
@given(raw=ATTESTS)
def test_reading_an_attest_never_raises(raw):
    found = Attest.read(raw)
    assert found.info is None or raw.startswith(_HEAD)


@FUZZ
@given(raw=SIGNATURES)
def test_reading_a_signature_never_raises(raw):
    assert Signature.read(raw).scheme is None or len(raw) >= 4
