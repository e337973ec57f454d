"""Leaves say the same in the same bytes, and nothing else is taken for one."""

import hashlib
import json
from dataclasses import replace

import audit_stage as a
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_service.audit import certificate_leaf, decision_leaf, restore_leaf
from ca_service.audit.leaf import parse_leaf
from vtpm.wire.encoding import canonical
from vtpm.wire.errors import WireError
from vtpm.wire.log import MAX_LEAF, Checkpoint

ROW = a.decision(7, admitted=False)
CERTIFICATE = {
    "serial": "0a" * 17,
    "issuer": a.ISSUER,
    "profile": "ek",
    "key_name": "000b" + "11" * 32,
    "der": b"der",
    "decision_id": ROW.id,
    "at": a.AT,
}


def test_a_decision():
    leaf = decision_leaf(ROW)
    assert (leaf.kind, leaf.subject) == ("decision", ROW.id)
    assert json.loads(leaf.data) == {
        "v": 1,
        "kind": "decision",
        "at": "2026-11-26T12:00:07Z",
        "id": ROW.id,
        "stage": "enroll",
        "verdict": "refused",
        "rule": "snp.vmpl",
        "policy": ROW.policy_digest,
        "policy_version": 1,
        "evidence": hashlib.sha256(b"evidence 7").hexdigest(),
        "trace": hashlib.sha256(ROW.trace.encode()).hexdigest(),
        "kbs": "org",
        "resource": "default/vtpm/7",
    }
    assert canonical(json.loads(leaf.data)) == leaf.data
    assert ROW.trace not in leaf.data.decode()


def test_a_certificate():
    leaf = certificate_leaf(**CERTIFICATE)
    assert (leaf.kind, leaf.subject) == ("certificate", "0a" * 17)
    assert json.loads(leaf.data) == {
        "v": 1,
        "kind": "certificate",
        "at": "2026-11-26T12:00:00Z",
        "serial": "0a" * 17,
        "issuer": a.ISSUER,
        "profile": "ek",
        "key": "000b" + "11" * 32,
        "sha256": hashlib.sha256(b"der").hexdigest(),
        "decision": ROW.id,
    }


@given(st.text(max_size=20), st.text(max_size=20), st.integers(0, 2**53 - 1))
def test_a_leaf_is_canonical_whatever_its_texts_are(one, another, number):
    decision = decision_leaf(replace(ROW, kbs_id=one, resource=another, rule=another, policy_version=number))
    certificate = certificate_leaf(**CERTIFICATE | {"profile": one, "key_name": another, "decision_id": one})
    for leaf, said in (
        (decision, ("kbs", "resource", "rule")),
        (certificate, ("profile", "key", "decision")),
    ):
        members = json.loads(leaf.data)
        assert canonical(members) == leaf.data
        assert {members[name] for name in said} == {one, another}


def test_a_restore():
    known = Checkpoint(a.ORIGIN, 2**60, bytes(32))
    leaf = restore_leaf(3, a.AT, known)
    assert (leaf.kind, leaf.subject) == ("restore", "3")
    head = {"v": 1, "kind": "restore", "at": "2026-11-26T12:00:00Z", "epoch": 3}
    assert json.loads(leaf.data) == {**head, "size": str(2**60), "root": "00" * 32}
    assert json.loads(restore_leaf(3, a.AT, None).data) == {**head, "size": "0", "root": ""}


LEAVES = [decision_leaf(ROW), certificate_leaf(**CERTIFICATE), restore_leaf(3, a.AT, None)]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.kind)
def test_reading_gives_back_what_was_written(leaf):
    read, members = parse_leaf(leaf.data)
    assert read == leaf
    assert {"v": 1, "kind": leaf.kind} | {
        name: int(value) if name in ("policy_version", "epoch") else value for name, value in members.items()
    } == json.loads(leaf.data)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.kind)
def test_a_leaf_has_exactly_its_members(leaf):
    value = json.loads(leaf.data)
    for name in value:
        with pytest.raises(WireError):
            parse_leaf(canonical({key: member for key, member in value.items() if key != name}))
        with pytest.raises(WireError):
            parse_leaf(canonical(value | {name: None}))
        with pytest.raises(WireError):
            parse_leaf(canonical(value | {name: ["x"]}))
    with pytest.raises(WireError):
        parse_leaf(canonical(value | {"more": "x"}))
    with pytest.raises(WireError, match="canonical"):
        parse_leaf(json.dumps(value).encode())
    with pytest.raises(WireError):
        parse_leaf(leaf.data + b" " * MAX_LEAF)


@pytest.mark.parametrize(
    ("leaf", "member", "value"),
    [
        (0, "v", 2),
        (0, "kind", "other"),
        (0, "id", "../../etc/passwd"),
        (0, "id", "x" * 65),
        (0, "evidence", "AA" * 32),
        (0, "evidence", "../x"),
        (0, "trace", "aa" * 31),
        (0, "policy", "aa"),
        (0, "policy_version", -1),
        (0, "at", "2026-11-26 12:00:00"),
        (1, "serial", ""),
        (1, "serial", "0A"),
        (1, "serial", ".."),
        (1, "issuer", "a/b"),
        (2, "epoch", "3"),
        (2, "size", "01"),
        (2, "root", "00"),
    ],
)
def test_members_have_forms(leaf, member, value):
    with pytest.raises(WireError):
        parse_leaf(canonical(json.loads(LEAVES[leaf].data) | {member: value}))


@given(st.binary(max_size=400), st.integers(0, 2), st.integers(0, 2000))
def test_reading_any_bytes(data, which, place):
    original = LEAVES[which].data
    place %= len(original)
    for sample in (data, original[:place] + data + original[place:], original[:place] + data):
        try:
            leaf, _ = parse_leaf(sample)
        except WireError:
            continue
        assert leaf.data == sample
        assert canonical(json.loads(sample)) == sample


@given(st.text(max_size=300))
def test_any_trace_has_a_leaf(trace):
    leaf = decision_leaf(replace(ROW, trace=trace))
    assert parse_leaf(leaf.data)[0] == leaf
    assert len(leaf.data) < MAX_LEAF


def test_the_largest_leaves_fit():
    row = replace(
        ROW, id="x" * 64, rule="r" * 64, kbs_id='"' * 128, resource="\\" * 128, policy_version=2**53 - 1
    )
    assert parse_leaf(decision_leaf(row).data)
    assert len(decision_leaf(row).data) < MAX_LEAF
    certificate = certificate_leaf(**(CERTIFICATE | {"key_name": "0d" * 66, "serial": "ff" * 20}))
    assert parse_leaf(certificate.data)
