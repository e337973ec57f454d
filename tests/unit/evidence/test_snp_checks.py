"""Each check is failed alone by evidence that is right in everything else."""

import dataclasses
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from ca_service.evidence.snp import (
    AUTHENTICITY,
    CONFIGURATION,
    SnpEvidence,
    amd_roots,
    load_leaf,
    simulated_roots,
)
from ca_service.judgment import Finding, judge_all, judge_until_failure
from vtpm.snp import Platform
from vtpm.snp.chain import _authority
from vtpm.wire.certtable import CertKind, parse_table
from vtpm.wire.report import Product, Report

ARC = "1.3.6.1.4.1.3704.1."
P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)
CHECKS = {check.id: check for check in AUTHENTICITY + CONFIGURATION}


def failures(subject):
    trace = judge_all(AUTHENTICITY + CONFIGURATION, subject)
    return {f.rule for f in trace.findings if f.verdict == "failed"}


def first(subject):
    refusal = judge_until_failure(AUTHENTICITY, subject).refusal
    return refusal.rule if refusal else None


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("product", list(Product))
def test_right_evidence_passes_every_check(simulated, product, version):
    subject = simulated(product, version=version)
    assert failures(subject) == set()
    assert subject.product is product
    assert subject.root.simulated


TCB_ABOVE = bytes([5, 0, 0, 0, 0, 0, 0x1B, 0xDB])
ALONE = [
    ("snp.version", {"report": {"version": 6}}),
    ("snp.version", {"report": {"version": 1, "cpuid": (0, 0, 0)}}),
    ("snp.key-kind", {"report": {"key_flags": 1 << 2}}),
    ("snp.key-kind", {"report": {"key_flags": 7 << 2}}),
    ("snp.key-kind", {"report": {"key_flags": 3 << 2}}),
    ("snp.key-kind", {"evidence": {"kind": CertKind.VLEK}}),
    ("snp.leaf-profile", {"leaf": {"common_name": "VCEK"}}),
    ("snp.leaf-profile", {"leaf": {"common_name": "SEV-VLEK"}}),
    ("snp.leaf-profile", {"leaf": {"replaced": {ARC + "1": b""}}}),
    ("snp.leaf-profile", {"leaf": {"replaced": {ARC + "1": b"\x02\x01\x01"}}}),
    ("snp.leaf-profile", {"leaf": {"replaced": {ARC + "2": b""}}}),
    ("snp.leaf-profile", {"leaf": {"replaced": {ARC + "2": b"\x16\x09Milan-B0"}}}),
    ("snp.leaf-profile", {"leaf": {"replaced": {ARC + "2": b"\x0c\x08Milan-B0"}}}),
    ("snp.leaf-profile", {"leaf": {"replaced": {ARC + "5": b"\x16\x02AB"}}}),
    ("snp.signature-algorithm", {"report": {"signature_algo": 2}}),
    ("snp.mask-chip-key", {"report": {"key_flags": 1 << 1}}),
    ("snp.tcb", {"leaf": {"tcb": bytes([4, 0, 0, 0, 0, 0, 0x1B, 0xDA])}}),
    ("snp.tcb", {"leaf": {"tcb": bytes([4, 0, 0, 1, 0, 0, 0x1B, 0xDB])}}),
    ("snp.tcb", {"report": {"reported_tcb": bytes([4, 0, 0, 0, 0, 0, 0x1A, 0xDB])}}),
    ("snp.hwid", {"leaf": {"hwid": b"\x55" * 64}}),
    ("snp.hwid", {"report": {"chip_id": bytes(64)}}),
    ("snp.vmpl", {"report": {"vmpl": 1}}),
    ("snp.vmpl", {"report": {"vmpl": 0xFFFFFFFF}}),
    ("snp.debug", {"report": {"policy": 0x30000 | 1 << 19}}),
    ("snp.migration", {"report": {"policy": 0x30000 | 1 << 18}}),
    ("snp.reserved", {"report": {"policy": 0x10000}}),
    ("snp.reserved", {"report": {"policy": 0x30000 | 1 << 26}}),
    ("snp.reserved", {"report": {"policy": 0x30000 | 1 << 63}}),
    ("snp.reserved", {"report": {"key_flags": 1 << 5}}),
    ("snp.reserved", {"report": {"launch_mit_vector": 1}}),
    ("snp.tcb-order", {"report": {"committed_tcb": TCB_ABOVE}}),
    ("snp.tcb-order", {"report": {"current_tcb": bytes(8)}}),
    ("snp.validity", {"leaf": {"not_before": None}}),
    ("snp.validity", {"leaf": {"not_after": None}}),
]


@pytest.mark.parametrize(("rule", "changes"), ALONE, ids=[f"{i}-{rule}" for i, (rule, _) in enumerate(ALONE)])
def test_one_wrong_thing_fails_one_check(simulated, rule, changes):
    now = simulated().at
    dates = {"not_before": now + timedelta(seconds=1), "not_after": now - timedelta(seconds=1)}
    if "leaf" in changes:
        changes = {**changes, "leaf": {k: dates[k] if v is None else v for k, v in changes["leaf"].items()}}
    assert failures(simulated(**changes)) == {rule}


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)]
)
def test_leaf_key_of_another_kind(simulated, key):
    subject = simulated(leaf={"public_key": key.public_key()})
    assert first(subject) == "snp.leaf-profile"
    assert failures(subject) == {"snp.leaf-profile", "snp.signature"}


@pytest.mark.parametrize(
    "value", [b"", b"\x02\x02\x01\xdb", b"\x02\x02\x00\x04", b"\x02\x01\xdb", b"\x04\x01\x04"]
)
def test_tcb_component_malformed_in_the_leaf(simulated, value):
    subject = simulated(leaf={"replaced": {ARC + "3.8": value}})
    assert failures(subject) == {"snp.leaf-profile", "snp.tcb"}


@pytest.mark.parametrize("hwid", [b"", b"\x04\x40" + b"\x01" * 64, b"\x01" * 8, b"\x01" * 63])
def test_hwid_of_another_size(simulated, hwid):
    assert failures(simulated(leaf={"replaced": {ARC + "4": hwid}})) == {"snp.leaf-profile", "snp.hwid"}


def test_raw_hwid_that_looks_like_der_is_taken_by_its_length(simulated):
    hwid = b"\x04\x3e" + b"\x01" * 62
    assert failures(simulated(leaf={"hwid": hwid}, report={"chip_id": hwid})) == set()


def test_turin_chip_id_with_anything_behind_its_eight_bytes(simulated):
    chip_id = simulated(Product.TURIN).report.chip_id
    subject = simulated(Product.TURIN, report={"chip_id": chip_id[:63] + b"\x01"})
    assert failures(subject) == {"snp.hwid"}


@pytest.mark.parametrize("fields", [{"critical": (ARC + "9",)}, {"pss": False}])
def test_leaf_of_another_form(simulated, fields):
    subject = simulated()
    other = dataclasses.replace(subject.leaf, **fields)
    changed = dataclasses.replace(subject)
    changed.__dict__["leaf"] = other
    assert failures(changed) == {"snp.leaf-profile"}


def test_masked_chip_id_is_refused_even_if_the_leaf_has_none_either(simulated):
    assert failures(simulated(report={"chip_id": bytes(64)}, leaf={"hwid": bytes(64)})) == {"snp.hwid"}


@pytest.mark.parametrize("cpuid", [(0, 0, 0), (0x1A, 0x50, 0), (0x17, 1, 1), (0x19, 0x20, 0)])
def test_processor_that_we_do_not_know(simulated, cpuid):
    assert first(simulated(report={"cpuid": cpuid})) == "snp.product"


@pytest.mark.parametrize(
    ("name", "known"),
    [(b"Milan", True), (b"Milan-B1", True), (b"Milan-A0", False), (b"Venice", False), (b"Milano", False)],
)
def test_version_2_takes_the_product_from_the_leaf(simulated, name, known):
    value = bytes([0x16, len(name)]) + name
    subject = simulated(version=2, leaf={"replaced": {ARC + "2": value}})
    assert first(subject) == (None if known else "snp.product")


def test_since_version_3_a_wrong_product_name_does_not_matter(simulated):
    assert failures(simulated(leaf={"replaced": {ARC + "2": b"\x16\x05Genoa"}})) == set()


def test_product_of_another_chain(simulated, chains, root_of):
    subject = simulated(report={"cpuid": (0x19, 0x11, 1)})
    assert first(subject) == "snp.chain"
    both = dataclasses.replace(subject, roots=tuple(root_of(chain) for chain in chains.values()))
    assert first(both) == "snp.chain"


@pytest.mark.parametrize("kind", [None, CertKind.VCEK])
def test_no_leaf(simulated, kind):
    assert first(simulated(evidence={"vek": None, "kind": kind})) == "snp.leaf-present"
    assert first(simulated(version=2, evidence={"vek": None, "kind": kind})) == "snp.leaf-present"


def test_foreign_chain_fails_the_chain_check_alone(simulated, chains, root_of):
    right = simulated()
    for roots in ((), amd_roots(), simulated_roots(), (root_of(chains[Product.GENOA]),)):
        assert failures(dataclasses.replace(right, roots=roots)) == {"snp.chain"}


def test_ask_that_the_ark_did_not_sign(simulated, chains, root_of):
    ours, theirs = root_of(chains[Product.MILAN]), amd_roots()[0]
    for root in (dataclasses.replace(ours, ark=theirs.ark), dataclasses.replace(theirs, ask=ours.ask)):
        assert failures(simulated(evidence={"roots": (root,)})) == {"snp.chain"}


def test_root_that_is_not_self_signed(simulated, chains, root_of):
    milan, genoa = chains[Product.MILAN], chains[Product.GENOA]
    cross_signed = _authority(
        "ARK-Test-Milan",
        milan.ark.public_key(),
        "ARK-Test-Genoa",
        genoa.ark_key,
        1,
        milan.ark.not_valid_before_utc,
    )
    milan.ask.verify_directly_issued_by(cross_signed)
    root = dataclasses.replace(root_of(milan), ark=cross_signed)
    assert failures(simulated(evidence={"roots": (root,)})) == {"snp.chain"}


def test_the_shipped_simulated_platform_is_for_simulation_cas_only(tmp_path):
    platform = Platform.create(tmp_path / "platform")
    vm = platform.launch([(0, bytes(4096))])
    table = parse_table(vm.cert_table())
    subject = SnpEvidence(
        report=Report.parse(vm.report(bytes(64))),
        vek=load_leaf(table),
        kind=CertKind.VCEK,
        roots=amd_roots() + simulated_roots(),
        at=load_leaf(table).not_valid_before_utc,
    )
    assert failures(subject) == set()
    assert subject.root.simulated
    assert failures(dataclasses.replace(subject, roots=amd_roots())) == {"snp.chain"}


def test_expired_intermediate(simulated):
    subject = simulated(leaf={"not_after": simulated().at + timedelta(days=365 * 40)})
    late = dataclasses.replace(subject, at=subject.at + timedelta(days=365 * 30))
    assert failures(late) == {"snp.validity"}
    assert "ASK" in CHECKS["snp.validity"].judge(late).reason


def signature(r, s):
    return r.to_bytes(72, "little") + s.to_bytes(72, "little")


@pytest.mark.parametrize("which", ["r", "s"])
@pytest.mark.parametrize("value", ["zero", "order", "over", "padded"])
def test_signature_out_of_range(simulated, which, value):
    report = simulated().report
    parts = {"r": report.signature_r, "s": report.signature_s}
    parts[which] = {
        "zero": 0,
        "order": P384_ORDER,
        "over": parts[which] + P384_ORDER,
        "padded": parts[which] | 1 << 71 * 8,
    }[value]
    subject = simulated()
    raw = bytearray(subject.report.raw)
    raw[0x2A0:0x330] = signature(parts["r"], parts["s"])
    changed = dataclasses.replace(subject, report=Report.parse(bytes(raw)))
    assert "snp.signature" in failures(changed)
    assert CHECKS["snp.signature"].judge(changed).reason == "the report's signature is out of range"


def test_the_other_valid_signature_of_ecdsa_holds_too(simulated):
    subject = simulated()
    raw = bytearray(subject.report.raw)
    raw[0x2A0:0x330] = signature(subject.report.signature_r, P384_ORDER - subject.report.signature_s)
    assert failures(dataclasses.replace(subject, report=Report.parse(bytes(raw)))) == set()


@pytest.mark.parametrize("offset", [0x330, 0x400, 0x49F])
def test_unsigned_end_must_be_zero(simulated, offset):
    subject = simulated(patch={offset: b"\x01"})
    assert first(subject) == "snp.signature"
    assert failures(subject) == {"snp.signature", "snp.reserved"}


@pytest.mark.parametrize("offset", [0x4C, 0x18B, 0x1EB, 0x1EF, 0x208, 0x29F])
def test_reserved_bytes_that_are_signed_over(simulated, offset):
    assert failures(simulated(body_patch={offset: b"\x01"})) == {"snp.reserved"}


def test_both_layouts_of_the_tcb(simulated):
    turin = bytes([9, 8, 7, 6, 0, 0, 0, 0xFE])
    changes = dict.fromkeys(("current_tcb", "committed_tcb", "reported_tcb", "launch_tcb"), turin)
    assert failures(simulated(Product.TURIN, report=changes, leaf={"tcb": turin})) == set()
    assert failures(simulated(Product.TURIN, report=changes)) == {"snp.tcb"}


def test_ids_are_unique_and_in_the_published_form():
    ids = [check.id for check in AUTHENTICITY + CONFIGURATION]
    assert len(set(ids)) == len(ids)
    assert ids[: len(AUTHENTICITY)] == [
        "snp.version",
        "snp.key-kind",
        "snp.leaf-present",
        "snp.product",
        "snp.leaf-profile",
        "snp.chain",
        "snp.validity",
        "snp.signature-algorithm",
        "snp.mask-chip-key",
        "snp.signature",
        "snp.tcb",
        "snp.hwid",
    ]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_checks_never_raise_whatever_the_bytes(data):
    """Bits flipped anywhere in a genuine-looking leaf and report."""
    leaf, raw = bytearray(_MADE[0]), bytearray(_MADE[1])
    for blob in (leaf, raw):
        for _ in range(data.draw(st.integers(0, 3))):
            blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    subject = SnpEvidence(
        report=Report.parse(bytes(raw)),
        vek=load_leaf({CertKind.VCEK: bytes(leaf)}),
        kind=CertKind.VCEK,
        roots=amd_roots() + simulated_roots(),
        at=_MADE[2],
    )
    for check in AUTHENTICITY + CONFIGURATION:
        assert isinstance(check.judge(subject), Finding)
    changed = (bytes(leaf), bytes(raw)) != _MADE[:2]
    assert judge_until_failure(AUTHENTICITY, subject).admitted is not changed


def _make():
    platform = Platform.made(b"\x09" * 32)
    vm = platform.launch_measured(bytes(48))
    at = load_leaf(parse_table(vm.cert_table())).not_valid_before_utc
    return platform.vcek_certificate, vm.report(bytes(64)), at


_MADE = _make()
