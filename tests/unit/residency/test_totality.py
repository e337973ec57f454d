"""No bytes make a check raise, and no made-up bytes are admitted."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tpm2_pytss import TPMS_ATTEST, TPMT_SIGNATURE, TSS2_Exception

from ca_service.judgment import Finding, Verdict, judge_all
from ca_service.residency import CERTIFY_CHECKS, KEY_CHECKS, TpmEvidence
from ca_service.residency.attest import ALG_ECDSA, ALG_RSAPSS, Attest, CertifyInfo, Signature
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


def by_the_c_library(structure, raw):
    """The structure as libtss2 reads it, if `raw` is exactly its one encoding."""
    try:
        parsed, consumed = structure.unmarshal(raw)
    except TSS2_Exception:
        return None
    return parsed if consumed == len(raw) and parsed.marshal() == raw else None


def sized(most):
    """A TPM2B around the longest that may be."""
    return st.builds(
        lambda size, wrong: (size + wrong).to_bytes(2, "big") + (bytes(range(1, 256)) * 3)[:size],
        st.integers(0, 12) | st.integers(most - 2, most + 2),
        st.sampled_from([0] * 15 + [1]),
    )


def ending(*parts):
    """The parts one after another; at times the end is cut off, or something follows."""
    return st.builds(
        lambda found, off, more: b"".join(found)[: -off or None] + more,
        st.tuples(*parts),
        st.sampled_from([0] * 8 + [1, 2, 3]),
        st.sampled_from([b""] * 8 + [b"\x00", b"\x00\x00"]),
    )


@settings(FUZZ, max_examples=600)
@given(
    raw=ATTESTS
    | ending(st.just(_HEAD), sized(68), sized(64), st.binary(min_size=25, max_size=25), sized(68), sized(68))
)
def test_an_attest_is_what_the_c_library_reads(raw):
    info = Attest.read(raw).info
    theirs = by_the_c_library(TPMS_ATTEST, raw) if raw.startswith(_HEAD) else None
    assert (info is None) == (theirs is None)
    if info is not None:
        certified = theirs.attested.certify
        assert info == CertifyInfo(
            bytes(theirs.qualifiedSigner),
            bytes(theirs.extraData),
            theirs.firmwareVersion,
            bytes(certified.name),
            bytes(certified.qualifiedName),
        )


@settings(FUZZ, max_examples=600)
@given(
    raw=SIGNATURES
    | ending(st.just(bytes.fromhex("0018000b")), sized(128), sized(128))
    | ending(st.just(bytes.fromhex("0016000c")), sized(512))
)
def test_a_signature_is_what_the_c_library_reads(raw):
    read = Signature.read(raw)
    of_an_iak = read.scheme is not None and read.scheme[0] in (ALG_ECDSA, ALG_RSAPSS)
    theirs = by_the_c_library(TPMT_SIGNATURE, raw) if of_an_iak else None
    if theirs is None:
        assert read.numbers == ()
    elif read.scheme[0] == ALG_ECDSA:
        found = theirs.signature.ecdsa
        assert read.numbers == (bytes(found.signatureR), bytes(found.signatureS))
    else:
        assert read.numbers == (bytes(theirs.signature.rsapss.sig),)
