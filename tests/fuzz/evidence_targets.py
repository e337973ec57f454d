"""What is fuzzed of the evidence's readers and judges.

`run` says what must hold of all of them: nothing but `WireError` comes out of a reader, a judge raises nothing at all,
and nothing is admitted that the processor or AMD did not sign.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache, lru_cache

import ear_target
import evidence_forge as f
from choosing import Chooser, xor
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.evidence.snp import (
    AUTHENTICITY,
    CONFIGURATION,
    Collateral,
    Crl,
    CrlAge,
    Leaf,
    SnpEvidence,
    authenticity,
    evidence,
    read_authority,
    read_crl,
    read_leaf,
    simulated_roots,
    unsafe_root,
)
from ca_service.evidence.snp.certificates import split_pem
from ca_service.judgment import Check, Finding, Verdict
from vtpm.snp import Platform, der, sign_body
from vtpm.wire.certtable import MAX_TABLE, CertKind, pack_table, parse_table
from vtpm.wire.errors import WireError
from vtpm.wire.report import REPORT_SIZE, SIGNED_SIZE, Product, Report

Target = Callable[[bytes], None]


@lru_cache(maxsize=1024)
def _verifies(leaf_der: bytes, raw: bytes) -> bool:
    return evidence.verifies(read_leaf(leaf_der), Report.parse(raw))


LONGEST = 10.0
"""Seconds of the processor's time that one input may take, with a coverage tool's instrumentation in the way."""

*CHEAP, SIGNATURE = AUTHENTICITY
"""Each looks at everything, whatever the others found; the last one alone is dear."""

DAY = timedelta(days=1)


def run(target: Target, data: bytes) -> bool:
    """Run a target; whether it went through, rather than being refused with a `WireError`."""
    start = time.process_time()
    # Most inputs leave the report or the leaf as it is: the one slow step need not be gone twice with the same bytes.
    authenticity.verifies = lambda leaf, report: _verifies(leaf.der, report.raw)
    try:
        target(data)
    except WireError:
        return False
    finally:
        authenticity.verifies = evidence.verifies
        took = time.process_time() - start
        assert took < LONGEST, f"took {took:.1f} s"
    return True


def judged(subject: SnpEvidence) -> bool:
    """Let every check look, whatever the others found; whether the evidence is authentic.

    The same as `judge_until_failure`, but for the signature, which is looked at if nothing else is wrong.
    """
    for check in (*CONFIGURATION, CrlAge(DAY)):
        _finding(check, subject)
    passed = [_finding(check, subject) for check in CHEAP]
    return all(passed) and _finding(SIGNATURE, subject)


def _finding(check: Check[SnpEvidence], subject: SnpEvidence) -> bool:
    finding = check.judge(subject)
    assert isinstance(finding, Finding)
    assert finding.rule == check.id
    return finding.verdict is Verdict.PASSED


def _report(data: bytes) -> None:
    """Bytes as a report: the fuzzer's own, a genuine one altered, or its own fields under a simulated key."""
    choose = Chooser(data)
    kind = choose.byte() % 8
    if kind == 7:
        _signed_report(choose)
        return
    vector = f.pick(choose)
    raw = choose.rest() if kind == 0 else _altered(choose, vector.report.raw)
    report = Report.parse(raw)
    assert report.raw == raw
    admitted = judged(vector.evidence(report=report))
    assert admitted is (raw == vector.report.raw)


def _altered(choose: Chooser, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(choose.byte() % f.MOST_CHANGES):
        at = choose.number(2) % REPORT_SIZE
        piece = choose.take(1 + choose.byte() % 8)[: REPORT_SIZE - at]
        changed[at : at + len(piece)] = piece
    return bytes(changed)


@cache
def _simulated() -> tuple[ec.EllipticCurvePrivateKey, SnpEvidence]:
    platform = Platform.made(b"\x05" * 32)
    raw = platform.launch_measured(bytes(48)).report(bytes(64))
    leaf = read_leaf(platform.vcek_certificate)
    offered = Collateral(leaves=(leaf,))
    return platform.vcek_key(), SnpEvidence(Report.parse(raw), simulated_roots(), leaf.not_before, offered)


def _signed_report(choose: Chooser) -> None:
    """A report that the processor did sign: what is admitted then is what the checks say it is."""
    key, subject = _simulated()
    body = _altered(choose, subject.report.raw)[:SIGNED_SIZE]
    report = Report.parse(body + sign_body(body, key))
    if judged(replace(subject, report=report)):
        assert report.version in range(2, 6)
        assert (report.signature_algo, report.signing_key, report.mask_chip_key) == (1, 0, False)
        assert report.vmpl <= 3
        assert report.reserved_nonzero() == []
        assert report.version < 3 or Product.from_cpuid(*report.cpuid[:2]) is Product.MILAN
        assert (report.reported_tcb, report.chip_id) == (subject.report.reported_tcb, subject.report.chip_id)


def _table(data: bytes) -> None:
    """A host's certificate table, and files: the fuzzer's own, or built of what is genuine and what is altered."""
    choose = Chooser(data)
    kind = choose.byte() % 4
    if kind == 0:
        table = choose.rest()
    elif kind == 1:
        _judge_collateral(choose, Collateral.of_file(choose.rest()))
        return
    elif kind == 2:
        blocks = [_pem(choose, _content(choose)) for _ in range(choose.byte() % 4)]
        content = b"".join(blocks)
        found = split_pem(content)
        assert found is None or all(isinstance(block, bytes) for block in found)
        _judge_collateral(choose, Collateral.of_file(content))
        return
    else:
        contents = {kind: _entry(choose) for kind in CertKind if choose.byte() & 1}
        table = xor(pack_table(contents), choose.take(choose.number(2) % 512))
    parsed = parse_table(table)
    assert len(table) <= MAX_TABLE
    assert parse_table(pack_table(parsed)) == parsed
    of_file = Collateral.of_file(table)
    of_table = Collateral.of_table(parsed)
    assert of_table.authorities == ()
    assert of_file is None or of_file.leaves[: len(of_table.leaves)] == of_table.leaves
    _judge_collateral(choose, of_table)


def _content(choose: Chooser) -> bytes:
    kind = choose.byte() % 6
    if kind == 0:
        return choose.take(1 + choose.byte())
    if kind == 1:
        return f.pick(choose).leaf.der
    if kind == 2:
        return f.patched(choose, f.pick(choose).leaf.der)
    root = f.roots()[choose.byte() % 3]
    if kind == 3:
        return root.ark.der
    if kind == 4:
        return root.authorities[choose.byte() % 2].der
    return f.lists()[choose.byte() % len(f.lists())]


def _entry(choose: Chooser) -> bytes:
    return _pem(choose, _content(choose)) if choose.byte() & 1 else _content(choose)


def _pem(choose: Chooser, content: bytes) -> bytes:
    label = (b"CERTIFICATE", b"X509 CRL", choose.take(choose.byte() % 16))[choose.byte() % 3]
    body = base64.encodebytes(content)
    if choose.byte() & 1:
        body = f.patched(choose, body)
    return b"-----BEGIN " + label + b"-----\n" + body + b"-----END " + label + b"-----\n"


def _judge_collateral(choose: Chooser, found: Collateral | None) -> None:
    if found is None:
        return
    vector = f.pick(choose)
    for leaf in found.leaves:
        look(leaf)
    for kind in (CertKind.VCEK, CertKind.VLEK):
        assert all(leaf in found.leaves for leaf in found.leaves_for(vector.report, kind))
    offered = bool(choose.byte() & 1)
    subject = vector.evidence(**{"offered": Collateral(), "offered" if offered else "collateral": found})
    if judged(subject):
        assert vector.leaf.public_key in [leaf.public_key for leaf in found.leaves]


def look(leaf: Leaf) -> None:
    """Read all that a leaf says; what it says is what stands there, in its one encoding."""
    arc = f.ARC
    for product in Product:
        tcb = leaf.tcb(product)
        assert tcb is None or len(tcb) == 8
        if tcb is not None:
            assert leaf.extensions[arc + "3.8"] == der.integer(tcb[7])
    for number, value in (("2", leaf.product_name), ("5", leaf.csp_id)):
        if value is not None:
            assert leaf.extensions[arc + number] == der.ia5_string(value)
    if leaf.struct_version is not None:
        assert leaf.extensions[arc + "1"] == der.integer(leaf.struct_version)
    assert leaf.hwid is None or leaf.extensions[arc + "4"].endswith(leaf.hwid)
    assert leaf.has_csp_id or leaf.csp_id is None
    assert (leaf.public_key is None) is (leaf.key_id() == b"")


def _leaf(data: bytes) -> None:
    """A leaf with extensions and fields of the fuzzer's, in right DER or broken."""
    choose = Chooser(data)
    kind, vector = choose.byte() % 4, f.pick(choose)
    if kind == 0:
        content = choose.rest()
    elif kind == 1:
        content = f.patched(choose, vector.leaf.der)
    else:
        content = f.forged_certificate(choose, vector.leaf.der)
    leaf = read_leaf(content)
    if leaf is None:
        return
    look(leaf)
    admitted = judged(vector.evidence(offered=Collateral(leaves=(leaf,))))
    original = vector.leaf.certificate
    if admitted:
        assert leaf.certificate.tbs_certificate_bytes == original.tbs_certificate_bytes


def _crl(data: bytes) -> None:
    """A revocation list, judged as the host's and as the operator's."""
    choose = Chooser(data)
    kind, original = choose.byte() % 4, f.lists()[choose.byte() % len(f.lists())]
    if kind == 0:
        content = choose.rest()
    elif kind == 1:
        content = _pem(choose, f.patched(choose, original) if choose.byte() & 1 else original)
    elif kind == 2:
        content = f.patched(choose, original)
    else:
        content = f.forged_list(choose, original)
    crl = read_crl(content)
    if crl is None:
        return
    assert isinstance(crl, Crl)
    assert isinstance(crl.issuer_name, str)
    read = read_crl(original)
    signed = any(crl.signed_by(root.ark) for root in f.roots())
    assert signed is False or replace(crl, der=b"") == replace(read, der=b"")
    vector = f.pick(choose)
    # A host's list that no root signed counts for nothing.
    if choose.byte() & 1:
        assert judged(vector.evidence(offered=Collateral((vector.leaf,), (), (crl,))))
    else:
        judged(vector.evidence(collateral=Collateral(crls=(crl,))))


def _authority(data: bytes) -> None:
    """An intermediate or a root of the fuzzer's, given by a user: nothing is admitted by it."""
    choose = Chooser(data)
    kind, root = choose.byte() % 4, f.roots()[choose.byte() % 3]
    original = (root.ark, *root.authorities)[choose.byte() % 3]
    if kind == 0:
        content = choose.rest()
    elif kind == 1:
        content = f.patched(choose, original.der)
    else:
        content = f.forged_certificate(choose, original.der)
    authority, made = read_authority(content), unsafe_root(content)
    leaf = read_leaf(content)
    if leaf is not None:
        look(leaf)
    tbs = original.certificate.tbs_certificate_bytes
    if made is not None:
        assert made.ark.certificate.tbs_certificate_bytes == tbs
    if authority is None:
        return
    vector = f.pick(choose)
    alone = [replace(root, authorities=()) for root in f.roots()]
    if choose.byte() & 1:
        given = Collateral(authorities=(authority,))
        admitted = judged(vector.evidence(roots=tuple(alone), collateral=given))
    else:
        foreign = replace(f.roots()[0], ark=authority, product=None)
        admitted = judged(vector.evidence(roots=(foreign,)))
    assert not admitted or authority.certificate.tbs_certificate_bytes == tbs


TARGETS: dict[str, Target] = {
    "report": _report,
    "table": _table,
    "leaf": _leaf,
    "crl": _crl,
    "authority": _authority,
    "ear": ear_target.read_and_judge,
}


def seeds() -> dict[str, list[bytes]]:
    """For each target inputs that go through, to begin with."""
    count = range(len(f.genuine()))
    auxblob = f.VECTORS / "milan-v3-vcek-veraison-auxblob" / "auxblob.bin"
    return {
        "report": [bytes([0, n]) + vector.report.raw for n, vector in enumerate(f.genuine())]
        + [bytes([kind, n]) for n in count for kind in (1, 7)],
        "table": [b"\0" + auxblob.read_bytes(), b"\1" + auxblob.read_bytes()]
        + [b"\1" + vector.leaf.der for vector in f.genuine()[::4]]
        + [b"\1" + crl for crl in f.lists()]
        + [bytes([2, 3, 1, n, 0, 4, n % 3, 0, 0, 0, 5, n % 3, 1, 0]) for n in count]
        + [bytes([3, 1, 0, 1, n, 1, 1, 1, n, 0, 0]) for n in count],
        "leaf": [bytes([kind, n]) for n in count for kind in (1, 2)]
        + [bytes([0, n]) + vector.leaf.der for n, vector in enumerate(f.genuine())],
        "crl": [bytes([kind, n]) for n in range(3) for kind in (1, 2, 3)]
        + [bytes([0, n]) + crl for n, crl in enumerate(f.lists())],
        "authority": [bytes([kind, n, m]) for n in range(3) for m in range(3) for kind in (1, 2)],
        "ear": ear_target.seeds(),
    }
