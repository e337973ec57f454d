"""Reports of real processors, judged at the time that their manifest names."""

import dataclasses
import hashlib
from datetime import datetime

import pytest
from cryptography import x509

from ca_service.evidence.snp import (
    AUTHENTICITY,
    CONFIGURATION,
    Root,
    amd_roots,
    load_leaf,
    simulated_roots,
)
from ca_service.evidence.snp.leaf import Leaf
from ca_service.judgment import judge_all, judge_until_failure
from vtpm.wire.certtable import CertKind, parse_table
from vtpm.wire.report import Product, Report

CHECKS = {check.id: check for check in AUTHENTICITY}


def test_files_are_those_of_the_manifest(vector, vectors):
    for kind, digest in vector["sha256"].items():
        if kind in vector["files"]:
            assert hashlib.sha256((vectors / vector["files"][kind]).read_bytes()).hexdigest() == digest


def test_verdict(vector, genuine):
    subject = genuine(vector["id"], amd_roots())
    trace = judge_until_failure(AUTHENTICITY, subject)
    if vector["signing_key"] == "VLEK":
        assert trace.refusal.rule == "snp.key-kind"
        return
    assert trace.admitted is (vector["expected"]["verdict"] == "VALID"), trace.refusal
    if trace.admitted:
        acceptable = vector["expected"]["default_svsm_policy"] == "ACCEPTABLE"
        assert judge_all(CONFIGURATION, subject).admitted is acceptable
        assert subject.product == vector["product"]
        assert subject.root.simulated is False


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("milan-v3-nocert-coconut-svsm", "snp.leaf-present"),
        ("milan-v4-nocert-gcp", "snp.leaf-present"),
        ("neg-genoa-vcek-tampered-product", "snp.chain"),
        ("neg-milan-vcek-hwid-octetstring", "snp.leaf-profile"),
    ],
)
def test_why_refused(name, rule, genuine):
    assert judge_until_failure(AUTHENTICITY, genuine(name, amd_roots())).refusal.rule == rule


def test_edited_certificate_is_stopped_by_the_chain_alone(genuine):
    subject = genuine("neg-milan-vcek-hwid-octetstring", amd_roots())
    assert judge_all((CHECKS["snp.chain"],), subject).refusal


@pytest.mark.parametrize(
    ("name", "rules"),
    [("milan-v2-vcek-debug", {"snp.debug"}), ("milan-v2-vcek-vmpl1", {"snp.vmpl"})],
)
def test_genuine_but_not_an_svsm_to_trust(name, rules, genuine):
    trace = judge_all(CONFIGURATION, genuine(name, amd_roots()))
    assert {f.rule for f in trace.findings if f.verdict == "failed"} == rules


@pytest.mark.parametrize(
    "name", ["milan-v2-vcek-azure", "genoa-v3-vcek-aci", "siena-v5-vcek", "turin-v5-vcek-aci"]
)
def test_a_flipped_bit_in_any_signed_byte_breaks_the_signature(name, genuine):
    subject = genuine(name, amd_roots())
    check, raw = CHECKS["snp.signature"], subject.report.raw
    assert check.judge(subject).verdict == "passed"
    for offset in range(0x2A0):
        flipped = bytearray(raw)
        flipped[offset] ^= 1 << offset % 8
        changed = dataclasses.replace(subject, report=Report.parse(bytes(flipped)))
        assert check.judge(changed).verdict == "failed", hex(offset)


def test_a_flipped_bit_in_any_byte_is_refused(genuine):
    subject = genuine("milan-v5-vcek-gcp", amd_roots())
    raw = subject.report.raw
    for offset in range(len(raw)):
        flipped = bytearray(raw)
        flipped[offset] ^= 0x80 >> offset % 8
        changed = dataclasses.replace(subject, report=Report.parse(bytes(flipped)))
        assert judge_until_failure(AUTHENTICITY, changed).refusal, hex(offset)


def test_production_never_believes_genuine_leaves_under_the_simulated_root(genuine):
    subject = genuine("milan-v5-vcek-gcp", simulated_roots())
    assert judge_until_failure(AUTHENTICITY, subject).refusal.rule == "snp.chain"


def test_a_leaf_does_not_fit_another_chips_report(genuine):
    first = genuine("milan-v5-vcek-gcp", amd_roots())
    other = genuine("milan-v3-vcek-aci", amd_roots())
    mixed = dataclasses.replace(first, vek=other.vek)
    trace = judge_until_failure(AUTHENTICITY, mixed)
    assert trace.refusal.rule == "snp.signature"


def test_revoked_genoa_ask_of_the_same_name_issued_nothing_we_accept(genuine, vectors, manifest):
    entry = next(v for v in manifest["chain_vectors"] if v["id"] == "chain-genoa-ask-revoked")
    revoked = x509.load_pem_x509_certificate((vectors / entry["files"]["ask"]).read_bytes())
    genoa = next(root for root in amd_roots() if root.product is Product.GENOA)
    assert revoked.subject == genoa.ask.subject
    assert revoked != genoa.ask
    roots = (Root(Product.GENOA, genoa.ark, revoked, None, simulated=False),)
    assert judge_until_failure(AUTHENTICITY, genuine("genoa-v3-vcek-aci", roots)).refusal.rule == "snp.chain"


def test_turin_leaf_without_a_report(vectors, manifest):
    entry = next(v for v in manifest["chain_vectors"] if v["id"] == "chain-turin-vcek-noreport")
    leaf = Leaf.read(x509.load_der_x509_certificate((vectors / entry["files"]["vek"]).read_bytes()))
    assert leaf.hwid == bytes.fromhex("1e550a8ee5cf9f4d")
    assert leaf.tcb(Product.TURIN) == bytes([0, 0, 0, 0, 0, 0, 0, 9])
    assert leaf.product_name == "Turin"
    assert leaf.tcb(Product.MILAN) is None


def test_leaf_from_a_genuine_certificate_table_in_pem(vectors, genuine):
    table = parse_table((vectors / "milan-v3-vcek-veraison-auxblob" / "auxblob.bin").read_bytes())
    assert table[CertKind.VCEK].startswith(b"-----BEGIN CERTIFICATE-----")
    leaf = load_leaf(table)
    subject = dataclasses.replace(genuine("milan-v3-vcek-veraison-auxblob", amd_roots()), vek=leaf)
    assert judge_until_failure(AUTHENTICITY, subject).admitted


def test_expired_leaf(genuine):
    subject = genuine("milan-v5-vcek-gcp", amd_roots())
    late = dataclasses.replace(subject, at=datetime.fromisoformat("2032-12-05T06:04:28Z"))
    assert judge_until_failure(AUTHENTICITY, late).refusal.rule == "snp.validity"
    last = dataclasses.replace(subject, at=datetime.fromisoformat("2032-12-05T06:04:27Z"))
    assert judge_until_failure(AUTHENTICITY, last).admitted
