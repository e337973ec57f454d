"""Each check is failed alone by evidence that is right in everything else."""

import dataclasses
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from ca_service.evidence.snp import (
    AUTHENTICITY,
    CONFIGURATION,
    Collateral,
    SnpEvidence,
    amd_roots,
    read_leaf,
    simulated_roots,
)
from ca_service.judgment import Finding, judge_all, judge_until_failure
from vtpm.snp import LeafForm, Model, Platform, SignatureForm, SimulatedChain
from vtpm.snp import der as d
from vtpm.snp.firmware import default_tcb
from vtpm.wire.certtable import CertKind, parse_table
from vtpm.wire.report import TCB_LAYOUT, Product, Report

ARC = "1.3.6.1.4.1.3704.1."
P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)
CHECKS = {check.id: check for check in AUTHENTICITY + CONFIGURATION}
KINDS = [CertKind.VCEK, CertKind.VLEK]
SECOND = timedelta(seconds=1)
NO_CHAIN = {"snp.chain", "snp.validity", "snp.revocation"}
"""Without a chain there are no dates and no lists to be content with."""


def failures(subject):
    trace = judge_all(AUTHENTICITY + CONFIGURATION, subject)
    return {f.rule for f in trace.findings if f.verdict == "failed"}


def first(subject):
    refusal = judge_until_failure(AUTHENTICITY, subject).refusal
    return refusal.rule if refusal else None


def test_ids_are_unique_and_in_the_published_order():
    ids = [check.id for check in AUTHENTICITY + CONFIGURATION]
    assert len(set(ids)) == len(ids)
    assert ids == [
        "snp.version",
        "snp.signature-algorithm",
        "snp.key-kind",
        "snp.mask-chip-key",
        "snp.vmpl-range",
        "snp.reserved",
        "snp.leaf-present",
        "snp.chain",
        "snp.validity",
        "snp.revocation",
        "snp.product",
        "snp.leaf-profile",
        "snp.tcb",
        "snp.hwid",
        "snp.signature",
        "snp.vmpl",
        "snp.debug",
        "snp.migration",
        "snp.guest-policy",
        "snp.tcb-order",
    ]


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("product", list(Product))
def test_right_evidence_passes_every_check(simulated, product, kind, version):
    subject = simulated(product, kind, version=version)
    assert subject.report.version == version
    assert failures(subject) == set()
    assert (subject.product, subject.kind, subject.leaf.kind) == (product, kind, kind)
    assert subject.root.simulated


@pytest.mark.parametrize("model", list(Model))
def test_every_model_is_of_its_product(simulated, model):
    subject = simulated(model.product, report={"cpuid": model.value})
    assert failures(subject) == set()
    assert subject.product is model.product


TCB_ABOVE = bytes([5, 0, 0, 0, 0, 0, 0x1B, 0xDB])
ALONE = [
    ("snp.version", {"report": {"version": 6}}),
    ("snp.version", {"report": {"version": 0}, "version": 2}),
    ("snp.version", {"report": {"version": 1}, "version": 2}),
    ("snp.version", {"report": {"version": 0x103}}),
    ("snp.signature-algorithm", {"report": {"signature_algo": 0}}),
    ("snp.signature-algorithm", {"report": {"signature_algo": 2}}),
    ("snp.signature-algorithm", {"report": {"signature_algo": 0x10001}}),
    ("snp.leaf-profile", {"leaf": {"common_name": "VCEK"}}),
    ("snp.leaf-profile", {"leaf": {"common_name": "SEV-VCEK2"}}),
    ("snp.leaf-profile", {"leaf": {"replaced": {ARC + "1": b""}}}),
    ("snp.leaf-profile", {"leaf": {"replaced": {ARC + "1": b"\x02\x01\x01"}}}),
    ("snp.leaf-profile", {"leaf": {"replaced": {ARC + "1": b"\x02\x02\x00\x00"}}}),
    ("snp.leaf-profile", {"leaf": {"form": LeafForm(critical=frozenset({ARC + "2"}))}}),
    ("snp.chain", {"leaf": {"form": LeafForm(signature=SignatureForm.PSS_SHA256)}}),
    ("snp.chain", {"leaf": {"form": LeafForm(signature=SignatureForm.PSS_SHORT_SALT)}}),
    ("snp.chain", {"leaf": {"form": LeafForm(signature=SignatureForm.PKCS1_SHA384)}}),
    ("snp.chain", {"leaf": {"form": LeafForm(self_issued=True)}}),
    ("snp.chain", {"leaf": {"form": LeafForm(signer=ec.generate_private_key(ec.SECP384R1()))}}),
    ("snp.tcb", {"leaf": {"tcb": bytes([4, 0, 0, 0, 0, 0, 0x1B, 0xDA])}}),
    ("snp.tcb", {"report": {"reported_tcb": bytes([4, 0, 0, 0, 0, 0, 0x1A, 0xDB])}}),
    ("snp.vmpl", {"report": {"vmpl": 1}}),
    ("snp.vmpl", {"report": {"vmpl": 3}}),
    ("snp.debug", {"report": {"policy": 0x30000 | 1 << 19}}),
    ("snp.migration", {"report": {"policy": 0x30000 | 1 << 18}}),
    ("snp.guest-policy", {"report": {"policy": 0x10000}}),
    ("snp.guest-policy", {"report": {"policy": 0x30000 | 1 << 26}}),
    ("snp.guest-policy", {"report": {"policy": 0x30000 | 1 << 63}}),
    ("snp.reserved", {"report": {"launch_mit_vector": 1}}),
    ("snp.reserved", {"report": {"current_mit_vector": 1 << 63}, "version": 4}),
    ("snp.reserved", {"report": {"cpuid": (0x19, 0, 0)}, "version": 2}),
    ("snp.tcb-order", {"report": {"committed_tcb": TCB_ABOVE}}),
    ("snp.tcb-order", {"report": {"current_tcb": bytes(8)}}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rule", "changes"), ALONE, ids=[f"{i}-{rule}" for i, (rule, _) in enumerate(ALONE)])
def test_one_wrong_thing_fails_one_check(simulated, rule, changes, kind):
    subject = simulated(kind=kind, **changes)
    assert failures(subject) == (NO_CHAIN if rule == "snp.chain" else {rule})
    assert first(subject) == (rule if rule in [check.id for check in AUTHENTICITY] else None)


FLAGS = {CertKind.VCEK: 0, CertKind.VLEK: 1 << 2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("flags", "rule"), [(1, None), (2, "snp.mask-chip-key"), (1 << 5, "snp.reserved")])
def test_key_flags(simulated, kind, flags, rule):
    """AUTHOR_KEY_EN means nothing here, MASK_CHIP_KEY and reserved bits are refused."""
    subject = simulated(kind=kind, report={"key_flags": FLAGS[kind] | flags})
    assert failures(subject) == ({rule} if rule else set())
    assert first(subject) == rule


@pytest.mark.parametrize("number", range(2, 8))
def test_signing_key_of_no_known_kind(simulated, number):
    subject = simulated(report={"key_flags": number << 2})
    assert first(subject) == "snp.key-kind"
    assert (subject.kind, subject.leaf, subject.chain) == (None, None, None)
    assert failures(subject) > {"snp.key-kind", "snp.leaf-present", "snp.chain", "snp.signature"}


@pytest.mark.parametrize("vmpl", [4, 0xFFFFFFFF])
def test_a_level_that_does_not_exist(simulated, vmpl):
    subject = simulated(report={"vmpl": vmpl})
    assert failures(subject) == {"snp.vmpl-range", "snp.vmpl"}
    assert first(subject) == "snp.vmpl-range"


@pytest.mark.parametrize("kind", KINDS)
def test_the_other_kinds_leaf_does_not_do(simulated, kind):
    """The very key that signed, rightly certified; but the report says that it is of the other kind."""
    (other,) = set(KINDS) - {kind}
    subject = simulated(kind=kind, report={"key_flags": FLAGS[other]})
    assert first(subject) == "snp.chain"
    assert "snp.leaf-profile" in failures(subject)


def test_a_name_of_the_other_kind(simulated):
    wrong = {"snp.chain", "snp.leaf-profile"}
    assert failures(simulated(leaf={"common_name": "SEV-VLEK"})) == wrong
    subject = simulated(kind=CertKind.VLEK, leaf={"common_name": "SEV-VCEK"})
    assert failures(subject) == wrong
    assert "kind of key" in judge_until_failure(AUTHENTICITY, subject).refusal.reason


@pytest.mark.parametrize(
    ("kind", "replaced"),
    [
        (CertKind.VCEK, {"5": b"\x16\x02AB"}),
        (CertKind.VCEK, {"5": b"x"}),
        (CertKind.VLEK, {"4": b"\x01" * 64}),
        (CertKind.VLEK, {"4": b"x"}),
        (CertKind.VLEK, {"5": b""}),
        (CertKind.VLEK, {"5": b"\x16\x00"}),
        (CertKind.VLEK, {"5": b"\x0c\x02AB"}),
    ],
)
def test_a_vcek_is_a_chips_and_a_vlek_a_providers(simulated, kind, replaced):
    values = {ARC + number: value for number, value in replaced.items()}
    assert failures(simulated(kind=kind, leaf={"replaced": values})) == {"snp.leaf-profile"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256R1()), SimulatedChain.shipped().ask_key])
def test_leaf_key_of_another_kind(simulated, key, kind):
    subject = simulated(kind=kind, leaf={"public_key": key.public_key()})
    assert first(subject) == "snp.leaf-profile"
    assert failures(subject) == {"snp.leaf-profile", "snp.signature"}


@pytest.mark.parametrize("kind", KINDS)
def test_another_leaf_of_the_same_form(simulated, kind):
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    assert failures(simulated(kind=kind, leaf={"public_key": other})) == {"snp.signature"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "value", [b"", b"\x02\x02\x01\xdb", b"\x02\x02\x00\x04", b"\x02\x01\xdb", b"\x04\x01\x04"]
)
def test_tcb_component_malformed_in_the_leaf(simulated, value, kind):
    for oid in ("3.1", "3.4", "3.8"):
        subject = simulated(kind=kind, leaf={"replaced": {ARC + oid: value}})
        assert failures(subject) == {"snp.leaf-profile", "snp.tcb"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("product", list(Product))
def test_every_byte_of_the_tcb_is_compared(simulated, product, kind):
    right = default_tcb(product)
    for index in range(8):
        tcb = bytes(byte ^ (index == at) for at, byte in enumerate(right))
        assert failures(simulated(product, kind, leaf={"tcb": tcb})) == {"snp.tcb"}


def test_the_reported_tcb_counts_and_no_other(simulated):
    lower = bytes([3, 0, 0, 0, 0, 0, 0x1A, 0xDA])
    others = dict.fromkeys(("launch_tcb", "committed_tcb"), lower)
    assert failures(simulated(report=others)) == set()
    assert failures(simulated(report={"reported_tcb": lower}, leaf={"tcb": lower})) == set()


@pytest.mark.parametrize("oid", ["3.1", "3.2", "3.3", "3.8"])
def test_security_versions_of_two_bytes(simulated, oid):
    """Values from 0x80 on have a leading zero; the last byte alone would take 0x01db for 0xdb."""
    index = {"3.1": 0, "3.2": 1, "3.3": 6, "3.8": 7}[oid]
    tcb = bytes([*bytes(index), 0xDB, *bytes(7 - index)])
    changes = dict.fromkeys(("current_tcb", "committed_tcb", "reported_tcb"), tcb)
    assert failures(simulated(report=changes, leaf={"tcb": tcb})) == set()
    wrong = {"tcb": tcb, "replaced": {ARC + oid: b"\x02\x02\x01\xdb"}}
    assert failures(simulated(report=changes, leaf=wrong)) == {"snp.leaf-profile", "snp.tcb"}


def test_both_layouts_of_the_tcb(simulated):
    turin = bytes([9, 8, 7, 6, 0, 0, 0, 0xFE])
    changes = dict.fromkeys(("current_tcb", "committed_tcb", "reported_tcb", "launch_tcb"), turin)
    assert failures(simulated(Product.TURIN, report=changes, leaf={"tcb": turin})) == set()
    assert failures(simulated(Product.TURIN, report=changes)) == {"snp.tcb"}


@pytest.mark.parametrize("product", list(Product))
@pytest.mark.parametrize("which", ["reported_tcb", "committed_tcb"])
def test_no_component_may_be_above_the_current_one(simulated, product, which):
    current = bytearray(8)
    for index in TCB_LAYOUT[product].values():
        current[index] = 0x40
    for index in TCB_LAYOUT[product].values():
        # All others are lower: as one number, or as a sum, the TCB is far below the current one.
        above = bytes(0x41 if at == index else 0 for at in range(8))
        report = {"current_tcb": bytes(current), "reported_tcb": bytes(8), "committed_tcb": bytes(8)}
        subject = simulated(
            product, report=report | {which: above}, leaf={"tcb": (report | {which: above})["reported_tcb"]}
        )
        assert failures(subject) == {"snp.tcb-order"}


# The chip.


@pytest.mark.parametrize(
    "hwid", [b"", b"\x04\x40" + b"\x01" * 65, b"\x01" * 8, b"\x01" * 63, b"\x04\x3f" + b"\x01" * 63]
)
def test_hwid_of_another_size(simulated, hwid):
    assert failures(simulated(leaf={"replaced": {ARC + "4": hwid}})) == {"snp.leaf-profile", "snp.hwid"}


@pytest.mark.parametrize("product", list(Product))
def test_hwid_in_both_encodings(simulated, product):
    hwid = simulated(product).leaf.hwid
    assert len(hwid) == (8 if product is Product.TURIN else 64)
    assert failures(simulated(product, leaf={"replaced": {ARC + "4": d.octet_string(hwid)}})) == set()


@pytest.mark.parametrize("start", [b"\x04\x3e", b"\x04\x40", b"\x02\x3e"])
def test_raw_hwid_that_looks_like_der_is_taken_by_its_length(simulated, start):
    hwid = start + b"\x01" * 62
    assert failures(simulated(leaf={"hwid": hwid}, report={"chip_id": hwid})) == set()


@pytest.mark.parametrize("product", list(Product))
def test_every_byte_of_the_chip_id_is_compared(simulated, product):
    chip_id = simulated(product).report.chip_id
    for at in (0, 7, 8, 31, 63):
        changed = bytearray(chip_id)
        changed[at] ^= 1
        assert failures(simulated(product, report={"chip_id": bytes(changed)})) == {"snp.hwid"}


def test_a_turin_leaf_with_the_whole_field_as_its_id(simulated):
    chip_id = simulated(Product.TURIN).report.chip_id
    assert failures(simulated(Product.TURIN, leaf={"hwid": chip_id})) == {"snp.leaf-profile"}


def test_masked_chip_id_is_refused_even_if_the_leaf_has_none_either(simulated):
    assert failures(simulated(report={"chip_id": bytes(64)})) == {"snp.hwid"}
    assert failures(simulated(report={"chip_id": bytes(64)}, leaf={"hwid": bytes(64)})) == {"snp.hwid"}


def test_a_vlek_is_for_any_chip(simulated):
    assert simulated(kind=CertKind.VLEK).report.chip_id == bytes(64)
    assert failures(simulated(kind=CertKind.VLEK, report={"chip_id": b"\x01" * 64})) == set()


# The product.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "cpuid", [(0, 0, 0), (0x1A, 0x50, 0), (0x1A, 0x12, 0), (0x17, 1, 1), (0x19, 0x20, 0)]
)
def test_processor_that_we_do_not_know(simulated, cpuid, kind):
    subject = simulated(kind=kind, report={"cpuid": cpuid})
    assert subject.product is None
    assert first(subject) == "snp.product"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        (b"Milan", None),
        (b"Milan-B1", None),
        (b"Milan-A0", "snp.product"),
        (b"Venice", "snp.product"),
        (b"Milano", "snp.product"),
        (b"milan", "snp.product"),
        (b"", "snp.product"),
        (b"Genoa", "snp.product"),
        (b"Turin", "snp.product"),
    ],
)
def test_version_2_takes_the_product_from_the_leaf(simulated, name, rule, kind):
    value = bytes([0x16, len(name)]) + name
    assert first(simulated(kind=kind, version=2, leaf={"replaced": {ARC + "2": value}})) == rule


def test_version_2_needs_a_product_name_and_later_ones_do_not(simulated):
    for value in (b"", b"\x16\x09Milan-B0", b"\x0c\x08Milan-B0", b"\x16\x05Genoa"):
        changes = {"leaf": {"replaced": {ARC + "2": value}}}
        assert first(simulated(version=2, **changes)) == "snp.product"
        for version in (3, 4, 5):
            assert failures(simulated(version=version, **changes)) == set()


def test_a_genoa_under_milans_root(simulated):
    """Nothing but the root tells them apart: layout, structVersion and size of the chip id are the same."""
    assert failures(simulated(report={"cpuid": (0x19, 0x11, 1)})) == {"snp.product"}
    assert first(simulated(Product.GENOA, report={"cpuid": (0x19, 1, 1)})) == "snp.product"
    assert first(simulated(report={"cpuid": (0x1A, 2, 1)})) == "snp.product"
    assert first(simulated(Product.TURIN, report={"cpuid": (0x19, 1, 1)})) == "snp.product"


@pytest.mark.parametrize("version", [2, 3])
def test_the_only_product_that_is_wanted(simulated, version):
    for wanted in Product:
        subject = simulated(Product.GENOA, version=version, evidence={"expected_product": wanted})
        assert failures(subject) == (set() if wanted is Product.GENOA else {"snp.product"})


def test_a_root_whose_product_is_not_known_fits_any(simulated):
    subject = simulated()
    roots = (dataclasses.replace(subject.root, product=None),)
    assert failures(dataclasses.replace(subject, roots=roots)) == set()


# The certificate and its dates.


def test_no_leaf(simulated):
    for version in (2, 3):
        subject = simulated(version=version, evidence={"offered": Collateral()})
        assert first(subject) == "snp.leaf-present"
        assert failures(subject) >= {"snp.leaf-present", "snp.chain", "snp.validity", "snp.revocation"}
        assert failures(subject) >= {"snp.leaf-profile", "snp.tcb", "snp.hwid", "snp.signature"}


@pytest.mark.parametrize("kind", KINDS)
def test_dates_of_the_leaf_are_included(simulated, kind):
    right = simulated(kind=kind)
    for at, rules in (
        (right.leaf.not_before, set()),
        (right.leaf.not_before - SECOND, {"snp.validity"}),
        (right.leaf.not_after, set()),
        (right.leaf.not_after + SECOND, {"snp.validity"}),
    ):
        subject = dataclasses.replace(right, at=at)
        assert failures(subject) == rules
        assert first(subject) == next(iter(rules), None)


def test_a_serial_number_is_not_asked_for(simulated):
    assert failures(simulated(leaf={"form": LeafForm(serial=77)})) == set()


def test_extensions_of_no_meaning_are_left_alone(simulated):
    assert failures(simulated(leaf={"form": LeafForm(added=((ARC + "99", b"x"),))})) == set()


def test_the_shipped_simulated_platform_is_for_simulation_cas_only(tmp_path):
    platform = Platform.create(tmp_path / "platform")
    vm = platform.launch([(0, bytes(4096))])
    offered = Collateral.of_table(parse_table(vm.cert_table()))
    roots = amd_roots() + simulated_roots()
    (leaf,) = offered.leaves
    subject = SnpEvidence(Report.parse(vm.report(bytes(64))), roots, leaf.not_before, offered)
    assert failures(subject) == set()
    assert subject.root.simulated
    assert failures(dataclasses.replace(subject, roots=amd_roots())) == NO_CHAIN


# The signature.


def signature(r, s):
    return r.to_bytes(72, "little") + s.to_bytes(72, "little")


def signed_with(subject, r, s):
    raw = bytearray(subject.report.raw)
    raw[0x2A0:0x330] = signature(r, s)
    return dataclasses.replace(subject, report=Report.parse(bytes(raw)))


@pytest.mark.parametrize("which", ["r", "s"])
@pytest.mark.parametrize("value", ["zero", "order", "over", "padded", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_signature_out_of_range(simulated, which, value, kind):
    subject = simulated(kind=kind)
    parts = {"r": subject.report.signature_r, "s": subject.report.signature_s}
    parts[which] = {
        "zero": 0,
        "order": P384_ORDER,
        "over": parts[which] + P384_ORDER,
        "padded": parts[which] | 1 << 71 * 8,
        "all": (1 << 72 * 8) - 1,
    }[value]
    changed = signed_with(subject, **parts)
    assert first(changed) in {"snp.reserved", "snp.signature"}
    assert CHECKS["snp.signature"].judge(changed).reason == "the report's signature is out of range"


def test_signature_of_zeros(simulated):
    assert failures(signed_with(simulated(), 0, 0)) == {"snp.signature"}


def test_the_other_valid_signature_of_ecdsa_holds_too(simulated):
    subject = simulated()
    r, s = subject.report.signature_r, subject.report.signature_s
    assert failures(signed_with(subject, r, P384_ORDER - s)) == set()
    assert failures(signed_with(subject, P384_ORDER - r, s)) == {"snp.signature"}
    assert failures(signed_with(subject, s, r)) == {"snp.signature"}


@pytest.mark.parametrize("offset", [0x330, 0x400, 0x49F])
def test_unsigned_end_must_be_zero(simulated, offset):
    subject = simulated(patch={offset: b"\x01"})
    assert failures(subject) == {"snp.signature", "snp.reserved"}
    assert first(subject) == "snp.reserved"


RESERVED = {
    2: [(0x4C, 0x50), (0x188, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0)],
    3: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0)],
    4: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0)],
    5: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0)],
}


@pytest.mark.parametrize("version", RESERVED)
def test_reserved_bytes_that_are_signed_over(simulated, version):
    """Each end of each range, for the one bit that is easiest to lose; one whole judgement for each version."""
    for start, end in RESERVED[version]:
        for offset in {start, end - 1}:
            raw = simulated(version=version, body_patch={offset: b"\x80"})
            assert first(raw) == "snp.reserved"
    assert failures(raw) == {"snp.reserved"}


@pytest.mark.parametrize("version", RESERVED)
def test_every_reserved_byte_and_no_other(simulated, version):
    report = simulated(version=version).report
    wanted = {offset for start, end in RESERVED[version] for offset in range(start, end)}
    for offset in range(0x2A0):
        raw = bytearray(report.raw)
        raw[offset] ^= 0x80
        changed = dataclasses.replace(Report.parse(bytes(raw)), version=version)
        # Of the key flags' word the bits 31:5 are reserved: all of it but the lowest five bits.
        assert bool(changed.reserved_nonzero()) is (offset in wanted or 0x48 <= offset < 0x4C)


# Whatever the bytes.


@given(data=st.data())
def test_checks_never_raise_whatever_the_bytes(data):
    """Bytes changed anywhere in a genuine-looking leaf and report."""
    leaf, raw = bytearray(_MADE[0]), bytearray(_MADE[1])
    for blob in (leaf, raw):
        for _ in range(data.draw(st.integers(0, 3))):
            blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    found = read_leaf(bytes(leaf))
    subject = SnpEvidence(
        report=Report.parse(bytes(raw)),
        roots=amd_roots() + simulated_roots(),
        at=_MADE[2],
        offered=Collateral(leaves=() if found is None else (found,)),
    )
    for check in AUTHENTICITY + CONFIGURATION:
        assert isinstance(check.judge(subject), Finding)
    changed = (bytes(leaf), bytes(raw)) != _MADE[:2]
    assert judge_until_failure(AUTHENTICITY, subject).admitted is not changed


def _make():
    platform = Platform.made(b"\x09" * 32)
    vm = platform.launch_measured(bytes(48))
    return platform.vcek_certificate, vm.report(bytes(64)), read_leaf(platform.vcek_certificate).not_before


_MADE = _make()
