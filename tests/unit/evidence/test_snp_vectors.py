"""Reports of real processors, judged at the time that their manifest names."""

import dataclasses
import hashlib
import random
from datetime import datetime, timedelta

import pytest

from ca_service.evidence.snp import (
    AUTHENTICITY,
    CONFIGURATION,
    Collateral,
    CrlAge,
    amd_roots,
    read_crl,
    read_leaf,
    simulated_roots,
)
from ca_service.evidence.snp.evidence import P384_ORDER
from ca_service.judgment import judge_all, judge_until_failure
from vtpm.snp import new_simulated_chain
from vtpm.snp.authority import authority_certificate
from vtpm.wire.certtable import CertKind, parse_table
from vtpm.wire.errors import WireError
from vtpm.wire.report import REPORT_SIZE, Product, Report

RULES = {
    "OK": None,
    "E_NO_LEAF": "snp.leaf-present",
    "E_CHAIN_SIG": "snp.chain",
    "E_REVOKED": "snp.revocation",
}
"""What we say where the manifest says that; it is complete, or the test that reads it fails."""

VALID = [
    "milan-v2-vcek-azure",
    "genoa-v2-vcek-oak",
    "genoa-v3-vcek-aci",
    "siena-v5-vcek",
    "turin-v5-vcek-aci",
    "milan-v3-vlek-aws-expired",
    "milan-v5-vlek-aws",
]
"""One of each product, version and kind of key."""


def first(subject):
    refusal = judge_until_failure(AUTHENTICITY, subject).refusal
    return refusal.rule if refusal else None


def valid(vector):
    return vector["expected"]["verdict"] == "VALID"


def test_files_are_those_of_the_manifest(vector, vectors):
    for kind, digest in vector["sha256"].items():
        if kind in vector["files"]:
            assert hashlib.sha256((vectors / vector["files"][kind]).read_bytes()).hexdigest() == digest


def test_verdict_and_reason(vector, genuine):
    subject = genuine(vector["id"], amd_roots())
    assert first(subject) == RULES[vector["expected"]["reason"]]
    assert judge_until_failure(AUTHENTICITY, subject).admitted is valid(vector)
    if valid(vector):
        acceptable = vector["expected"]["default_svsm_policy"] == "ACCEPTABLE"
        in_time = vector["expected"]["time_valid_2026_11_23"]
        assert judge_all(CONFIGURATION, subject).admitted is acceptable or not in_time
        assert subject.product == vector["product"]
        assert subject.kind == vector["signing_key"]
        assert subject.report.version == vector["report_version"]
        assert subject.root.simulated is False


def test_verdict_on_the_day_on_which_the_manifest_was_made(vector, genuine):
    subject = dataclasses.replace(
        genuine(vector["id"], amd_roots()), at=datetime.fromisoformat("2026-11-23T00:00:00Z")
    )
    wanted = vector["expected"]["verdict_at_2026_11_23"] == "VALID"
    assert judge_until_failure(AUTHENTICITY, subject).admitted is wanted
    if valid(vector) and not wanted:
        assert first(subject) == "snp.validity"


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("milan-v2-vcek-debug", {"snp.debug"}),
        ("milan-v2-vcek-vmpl1", {"snp.vmpl"}),
        ("milan-v5-vlek-aws", {"snp.vmpl"}),
        ("milan-v2-vcek-reported-below-current", set()),
    ],
)
def test_genuine_but_not_an_svsm_to_trust(name, rules, genuine):
    trace = judge_all(CONFIGURATION, genuine(name, amd_roots()))
    assert {f.rule for f in trace.findings if f.verdict == "failed"} == rules


# No bit may be another.


def flipped(subject, bit):
    """The evidence with one bit of the report the other way, as a verifier receives it: as bytes."""
    raw = bytearray(subject.report.raw)
    raw[bit >> 3] ^= 1 << (bit & 7)
    return dataclasses.replace(subject, report=Report.parse(bytes(raw)))


def refuse_all(subject, bits):
    assert judge_until_failure(AUTHENTICITY, subject).admitted
    accepted = [bit for bit in bits if first(flipped(subject, bit)) is None]
    assert accepted == []


def test_flipped_bits_all_over_are_refused(vector, genuine):
    if valid(vector):
        # Other bytes and bits in each vector, but the same ones in every run.
        choice = random.Random(vector["id"])  # noqa: S311 - which bits, not which keys
        bits = [8 * byte + choice.randrange(8) for byte in range(choice.randrange(8), REPORT_SIZE, 8)]
        refuse_all(genuine(vector["id"], amd_roots()), bits)


@pytest.mark.slow
def test_every_flipped_bit_of_every_vector_is_refused(vector, genuine):
    if valid(vector):
        refuse_all(genuine(vector["id"], amd_roots()), range(8 * REPORT_SIZE))


@pytest.mark.parametrize("name", VALID)
def test_other_sizes_are_refused(name, genuine):
    raw = genuine(name, amd_roots()).report.raw
    for size in (0, 1, 0x2A0, REPORT_SIZE - 1):
        with pytest.raises(WireError):
            Report.parse(raw[:size])
    for more in (b"\0", b"\xff", raw):
        with pytest.raises(WireError):
            Report.parse(raw + more)


@pytest.mark.parametrize("name", VALID)
def test_random_bytes_are_refused(name, genuine):
    subject = genuine(name, amd_roots())
    rng = random.Random(name)  # noqa: S311 - bytes that nobody chose
    for start in (0, 4, 0x2A0):
        for _ in range(50):
            raw = subject.report.raw[:start] + rng.randbytes(REPORT_SIZE - start)
            assert first(dataclasses.replace(subject, report=Report.parse(raw)))
    assert first(dataclasses.replace(subject, report=Report.parse(bytes(REPORT_SIZE))))


# What a forger would try.


def signed_with(subject, r, s):
    raw = bytearray(subject.report.raw)
    raw[0x2A0:0x330] = r.to_bytes(72, "little") + s.to_bytes(72, "little")
    return dataclasses.replace(subject, report=Report.parse(bytes(raw)))


@pytest.mark.parametrize("name", VALID)
def test_signature_out_of_range(name, genuine):
    subject = genuine(name, amd_roots())
    r, s = subject.report.signature_r, subject.report.signature_s
    assert first(signed_with(subject, r, s)) is None
    # r+n means the same to whoever reduces it, and fits the field; it does not fit the range.
    for pair in ((0, s), (r, 0), (P384_ORDER, s), (r, P384_ORDER), (0, 0)):
        assert first(signed_with(subject, *pair)) == "snp.signature"
    for pair in ((r + P384_ORDER, s), (r, s + P384_ORDER), (r | 1 << 575, s), (r, s | 1 << 384)):
        assert first(signed_with(subject, *pair)) in {"snp.reserved", "snp.signature"}


@pytest.mark.parametrize("name", VALID)
def test_a_leaf_of_another_report(name, genuine, manifest):
    subject = genuine(name, amd_roots())
    for vector in filter(valid, manifest["vectors"]):
        other = genuine(vector["id"], amd_roots())
        mixed = dataclasses.replace(subject, offered=other.offered)
        if other.leaf.key_id() != subject.leaf.key_id():
            assert first(mixed), vector["id"]
        if other.kind is not subject.kind:
            assert first(mixed) == "snp.chain"


def test_why_another_leaf_is_refused(genuine):
    def mixed(report, leaf):
        other = genuine(leaf, amd_roots())
        return first(dataclasses.replace(genuine(report, amd_roots()), offered=other.offered, at=other.at))

    assert mixed("milan-v3-vcek-aci", "milan-v2-vcek-reported-below-current") == "snp.tcb"
    assert mixed("genoa-v3-vcek-aci", "milan-v3-vcek-aci") == "snp.product"
    assert mixed("turin-v5-vcek-aci", "genoa-v3-vcek-aci") == "snp.product"
    assert mixed("milan-v5-vcek-gcp", "milan-v5-vlek-aws") == "snp.chain"
    assert mixed("milan-v5-vlek-aws", "milan-v5-vcek-gcp") == "snp.chain"


@pytest.mark.parametrize("name", VALID)
def test_only_the_products_own_root_does(name, genuine):
    subject = genuine(name, amd_roots())
    for root in amd_roots():
        changed = dataclasses.replace(subject, roots=(root,))
        assert first(changed) == (None if root.product is subject.product else "snp.chain")
    for roots in ((), simulated_roots()):
        assert first(dataclasses.replace(subject, roots=roots)) == "snp.chain"
    for wanted in Product:
        changed = dataclasses.replace(subject, expected_product=wanted)
        assert first(changed) == (None if wanted is subject.product else "snp.product")


@pytest.mark.parametrize("name", VALID)
def test_dates(name, genuine):
    subject, second = genuine(name, amd_roots()), timedelta(seconds=1)
    for at, rule in (
        (subject.leaf.not_after, None),
        (subject.leaf.not_after + second, "snp.validity"),
        (subject.leaf.not_before, None),
        (subject.leaf.not_before - second, "snp.validity"),
    ):
        assert first(dataclasses.replace(subject, at=at)) == rule


def test_a_root_with_the_names_but_not_the_keys_of_amds(genuine, vectors, authority_of):
    """Who makes ARK and ASK of AMD's names, and even with AMD's serial numbers, has not made AMD's."""
    subject = genuine("milan-v5-vcek-gcp", amd_roots())
    (milan, *_) = amd_roots()
    (ask, _) = milan.authorities
    chain = new_simulated_chain(bits=2048)

    def alike(original, key, name):
        made = authority_certificate(
            name, key.public_key(), "ARK-Milan", chain.ark_key, original.serial, original.not_before
        )
        return authority_of(made)

    ark = alike(milan.ark, chain.ark_key, "ARK-Milan")
    theirs = alike(ask, chain.ask_key, "SEV-Milan")
    key = subject.leaf.public_key
    forger = dataclasses.replace(chain, ark=ark.certificate, ask=theirs.certificate)
    tcb = subject.report.reported_tcb
    forged = read_leaf(
        forger.issue_vcek(key, hwid=subject.report.chip_id, tcb=tcb, not_before=subject.leaf.not_before)
    )
    offered = Collateral(leaves=(forged,), authorities=(theirs, ark))
    changed = dataclasses.replace(subject, offered=offered, collateral=offered)
    assert first(changed) == "snp.chain"
    believing = (dataclasses.replace(milan, ark=ark, authorities=(theirs,)),)
    assert first(dataclasses.replace(changed, roots=believing)) is None


def with_values(chain, subject, **changes):
    """The evidence under a made leaf, for the processor's own key, that says something else."""
    report = subject.report
    size = 8 if subject.product is Product.TURIN else 64
    arguments = {"tcb": report.reported_tcb, "hwid": report.chip_id[:size]} | changes
    made = chain.issue_vcek(subject.leaf.public_key, not_before=subject.leaf.not_before, **arguments)
    return dataclasses.replace(subject, offered=Collateral(leaves=(read_leaf(made),)))


@pytest.mark.parametrize("name", [name for name in VALID if "vcek" in name])
def test_a_leaf_for_another_tcb_or_chip(name, genuine, chains, root_of):
    """Only its leaf is made, under a test's root: the report and its signature are the processor's."""
    subject = genuine(name, amd_roots())
    chain, report = chains[subject.product], subject.report
    subject = dataclasses.replace(
        subject, roots=(root_of(chain),), at=datetime.fromisoformat("2025-06-01T00:00:00Z")
    )
    subject = dataclasses.replace(subject, at=max(subject.at, subject.leaf.not_before))
    assert first(with_values(chain, subject)) is None
    for at in range(8):
        tcb = bytearray(report.reported_tcb)
        tcb[at] ^= 1
        assert first(with_values(chain, subject, tcb=bytes(tcb))) == "snp.tcb"
    if report.current_tcb != report.reported_tcb:
        assert first(with_values(chain, subject, tcb=report.current_tcb)) == "snp.tcb"
    hwid = subject.leaf.hwid
    assert first(with_values(chain, subject, hwid=hwid[:-1] + bytes([hwid[-1] ^ 1]))) == "snp.hwid"
    assert first(with_values(chain, subject, hwid=bytes(len(hwid)))) == "snp.hwid"


# The chain vectors and AMD's own lists.


@pytest.fixture(scope="session")
def lists(manifest, vectors):
    return {entry["crl_number"]: (vectors / entry["file"]).read_bytes() for entry in manifest["crls"]}


def test_amds_lists_are_read_and_signed_by_their_roots(manifest, vectors):
    for entry in manifest["crls"]:
        content = (vectors / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        crl = read_crl(content)
        assert (crl.issuer_name, crl.number) == (entry["issuer_cn"], entry["crl_number"])
        assert crl.this_update == datetime.fromisoformat(entry["this_update"])
        assert crl.next_update == datetime.fromisoformat(entry["next_update"])
        assert crl.revoked == {int(revoked["serial_hex"], 16) for revoked in entry["revoked"]}
        signers = [root.ark.common_name for root in amd_roots() if crl.signed_by(root.ark)]
        assert signers == [entry["issuer_cn"]]


@pytest.fixture(scope="session")
def revoked(manifest, vectors):
    """AMD's first Genoa ASK, and the list that revokes it."""
    entry = next(v for v in manifest["chain_vectors"] if v["id"] == "chain-genoa-ask-revoked")
    files = {kind: (vectors / file).read_bytes() for kind, file in entry["files"].items()}
    return (
        Collateral.of_file(files["ask"]),
        Collateral.of_file(files["crl"]),
        RULES[entry["expected"]["reason"]],
    )


def test_a_stale_list_revokes_what_it_lists(genuine, revoked):
    ask, crl, rule = revoked
    subject = genuine("genoa-v3-vcek-aci", amd_roots())
    assert crl.crls[0].next_update < subject.at
    (old,) = ask.authorities
    # Somebody gives the first ASK, and the list or not; the leaf's own ASK is the second one, which is not listed.
    (known,) = (root.crls for root in amd_roots() if root.product is Product.GENOA)
    assert known == crl.crls
    forgetful = tuple(dataclasses.replace(root, crls=()) for root in amd_roots())
    for changes, wanted in (
        ({"offered": subject.offered + ask}, rule),
        ({"offered": subject.offered + ask, "roots": forgetful}, None),
        ({"collateral": crl}, None),
        ({"offered": subject.offered + ask, "collateral": crl}, rule),
        ({"offered": subject.offered + ask + crl}, rule),
        ({"collateral": ask + crl}, None),
    ):
        assert first(dataclasses.replace(subject, **changes)) == wanted
    (genoa,) = (root for root in amd_roots() if root.product is Product.GENOA)
    only = (dataclasses.replace(genoa, authorities=(old,)),)
    assert old.common_name == genoa.authorities[0].common_name
    assert first(dataclasses.replace(subject, roots=only)) == "snp.chain"


def test_a_stale_list_is_a_fault_only_where_a_policy_says_so(genuine, lists):
    subject = dataclasses.replace(
        genuine("milan-v5-vcek-gcp", amd_roots()),
        collateral=Collateral(crls=(read_crl(lists[3]), read_crl(lists[6]))),
    )
    assert first(subject) is None
    assert subject.crl_issued_at == datetime.fromisoformat("2025-05-06T12:39:06Z")
    age = subject.at - subject.crl_issued_at
    assert CrlAge(age).judge(subject).verdict == "passed"
    assert CrlAge(age - timedelta(seconds=1)).judge(subject).verdict == "failed"
    assert CrlAge(age).judge(genuine("genoa-v3-vcek-aci", amd_roots())).verdict == "failed"


def test_turin_leaf_without_a_report(vectors, manifest, genuine):
    entry = next(v for v in manifest["chain_vectors"] if v["id"] == "chain-turin-vcek-noreport")
    leaf = read_leaf((vectors / entry["files"]["vek"]).read_bytes())
    assert leaf.hwid == bytes.fromhex("1e550a8ee5cf9f4d")
    assert leaf.tcb(Product.TURIN) == bytes([0, 0, 0, 0, 0, 0, 0, 9])
    assert leaf.product_name == "Turin"
    assert leaf.struct_version == 1
    assert leaf.tcb(Product.MILAN) is None
    # Its chain and its extensions are right; it is for another processor.
    subject = genuine("turin-v5-vcek-aci", amd_roots())
    subject = dataclasses.replace(subject, offered=Collateral(leaves=(leaf,)))
    assert subject.chain is not None
    assert first(subject) == "snp.tcb"


def test_leaf_from_a_genuine_certificate_table_in_pem(vectors, genuine):
    content = (vectors / "milan-v3-vcek-veraison-auxblob" / "auxblob.bin").read_bytes()
    table = parse_table(content)
    assert table[CertKind.VCEK].startswith(b"-----BEGIN CERTIFICATE-----")
    subject = genuine("milan-v3-vcek-veraison-auxblob", amd_roots())
    for offered in (Collateral.of_table(table), Collateral.of_file(content)):
        assert offered == Collateral(leaves=(subject.leaf,))
        assert first(dataclasses.replace(subject, offered=offered)) is None
