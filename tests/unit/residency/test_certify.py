"""Each rule about TPM2_Certify on its own: one flaw, properly signed, and exactly that rule says no."""

from dataclasses import replace

import pytest

from ca_service.judgment import judge_all
from ca_service.residency import CERTIFY_CHECKS, TpmEvidence
from vtpm.wire.public_area import pack_public, parse_public
from vtpm.wire.templates import qualified_name

TEMPLATES = [("H-3", "H-3"), ("H-1", "H-2"), ("H-2", "H-1"), ("R-3072", "H-4"), ("H-4", "R-3072")]


@pytest.mark.parametrize(("iak", "idevid"), TEMPLATES)
def test_a_proof_with_any_templates_is_admitted(soft_tpm, refusals, iak, idevid):
    # A software IAK passes too: that the IAK is in a TPM is for TPM2_ActivateCredential to show.
    assert refusals(soft_tpm(iak=iak, idevid=idevid).evidence()) == []


@pytest.mark.parametrize(("iak", "idevid"), TEMPLATES[:2])
@pytest.mark.parametrize(
    ("flaw", "rule"),
    [
        ({"extra": bytes(32)}, "certify.qualifier"),
        ({"extra": b""}, "certify.qualifier"),
        ({"name": b"\x00\x0b" + bytes(32)}, "certify.name"),
        ({"name": b""}, "certify.name"),
        ({"qualified_name": b"\x00\x0b" + bytes(32)}, "certify.qualified-name"),
        ({"signer": b"\x00\x0c" + bytes(48)}, "certify.signer"),
        ({"signer": b""}, "certify.signer"),
        ({"firmware": 0x2019102300163637}, "certify.firmware"),
        ({"firmware": 0}, "certify.firmware"),
        ({"tail": b"\x00"}, "certify.form"),
    ],
)
def test_one_flaw_one_rule(soft_tpm, refusals, iak, idevid, flaw, rule):
    found = refusals(soft_tpm(iak=iak, idevid=idevid).evidence(**flaw))
    # Without a well-formed structure there are no fields to agree with.
    fields = {"certify." + n for n in ("qualifier", "name", "qualified-name", "signer", "firmware")}
    assert found == ([rule] if rule != "certify.form" else sorted({rule} | fields))


@pytest.mark.parametrize(
    ("flaw", "rule"),
    [
        ({"magic": 0xFF544346}, "certify.magic"),
        ({"type": 0x8018}, "certify.type"),
        ({"type": 0}, "certify.type"),
    ],
)
def test_the_head_decides_whether_it_is_a_certify_structure_at_all(soft_tpm, refusals, flaw, rule):
    found = refusals(soft_tpm().evidence(**flaw))
    assert rule in found
    assert "certify.form" in found
    assert "certify.signature" not in found


def test_the_signer_may_not_be_named_by_the_idevids_qualified_name(soft_tpm, refusals):
    tpm = soft_tpm()
    assert refusals(tpm.evidence(signer=qualified_name(tpm.statement.idevid.public))) == ["certify.signer"]


def test_names_and_qualified_names_may_not_be_exchanged(soft_tpm, refusals):
    tpm = soft_tpm()
    public = tpm.statement.idevid.public
    assert refusals(tpm.evidence(name=qualified_name(public))) == ["certify.name"]


@pytest.mark.parametrize(
    ("iak", "chosen"),
    [
        ("H-1", {"scheme": 0x0014}),  # RSASSA instead of RSAPSS
        ("H-1", {"hash_algorithm": 0x000C}),
        ("H-3", {"hash_algorithm": 0x000B}),
        ("H-2", {"hash_algorithm": 0x000D}),
    ],
)
def test_the_requester_chooses_neither_scheme_nor_hash(soft_tpm, refusals, iak, chosen):
    found = refusals(soft_tpm(iak=iak).evidence(**chosen))
    # RSASSA never reaches the C library, so there is no well-formed signature either.
    unread = ["certify.form"] if "scheme" in chosen else []
    assert found == [*unread, "certify.scheme", "certify.signature"]


def test_a_lying_scheme_does_not_help(soft_tpm, refusals):
    tpm = soft_tpm()
    attest = tpm.attest()
    weak = tpm.sign(attest, hash_algorithm=0x000B)
    dressed_up = weak[:2] + b"\x00\x0c" + weak[4:]
    assert refusals(TpmEvidence(tpm.statement, tpm.qualifier, attest, dressed_up)) == ["certify.signature"]


def test_an_iak_without_a_scheme_of_its_own_is_no_signer(soft_tpm, refusals):
    # An IAK whose public area leaves the scheme open would let the requester choose.
    tpm = soft_tpm(iak="H-1")
    area = parse_public(tpm.statement.iak.public)
    free = replace(tpm.statement.iak, public=pack_public(replace(area, scheme=type(area.scheme)())))
    changed = replace(tpm, statement=replace(tpm.statement, iak=free))
    found = refusals(changed.evidence(scheme=0x0016, hash_algorithm=0x000B))
    assert found == ["certify.scheme", "certify.signature", "tpm.iak-template"]


def test_nothing_sent_is_told_as_certify_required(soft_tpm):
    tpm = soft_tpm()
    trace = judge_all(CERTIFY_CHECKS, TpmEvidence(tpm.statement, tpm.qualifier, None, None))
    assert trace.refusal.rule == "certify.present"
    assert "certify-required" in trace.refusal.reason
    assert not any(f.verdict == "passed" for f in trace.findings)


@pytest.mark.parametrize("missing", ["attest", "signature"])
def test_half_a_proof_is_none(soft_tpm, refusals, missing):
    found = refusals(replace(soft_tpm().evidence(), **{missing: None}))
    assert {"certify.present", "certify.form", "certify.signature"} <= set(found)


def test_an_empty_qualifier_is_never_what_was_wanted(soft_tpm, refusals):
    assert refusals(replace(soft_tpm(), qualifier=b"").evidence()) == ["certify.qualifier"]


@pytest.mark.parametrize(("iak", "size"), [("H-3", 48), ("H-2", 32), ("H-4", 66)])
def test_ecdsa_numbers_longer_than_the_curve_are_refused(soft_tpm, refusals, iak, size):
    tpm = soft_tpm(iak=iak)
    evidence = tpm.evidence()
    signature = evidence.signature
    padded = signature[:4] + (size + 1).to_bytes(2, "big") + b"\x00" + signature[6:]
    assert refusals(replace(evidence, signature=padded)) == ["certify.signature"]


@pytest.mark.parametrize("value", [b"", b"\x00", bytes(48)])
def test_ecdsa_of_zero_is_refused(soft_tpm, refusals, value):
    evidence = soft_tpm().evidence()
    number = len(value).to_bytes(2, "big") + value
    assert refusals(replace(evidence, signature=evidence.signature[:4] + number * 2)) == ["certify.signature"]


def test_the_operator_learns_what_was_expected(soft_tpm):
    trace = judge_all(CERTIFY_CHECKS, soft_tpm().evidence(firmware=1))
    finding = trace.refusal
    assert (finding.rule, finding.expected, finding.actual) == (
        "certify.firmware",
        "2019102300163636",
        "0000000000000001",
    )
