"""docs/log.md says what the code does, and its vectors are those of log.json."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from ca_service.audit import VerifierKey, layout
from ca_service.audit.findings import MOST_KEPT
from ca_service.audit.leaf import _MEMBERS, parse_leaf
from vtpm.wire.encoding import unb64url
from vtpm.wire.errors import WireError
from vtpm.wire.log import MAX_LEAF, Proof, open_checkpoint
from vtpm.wire.merkle import leaf_hash, verify_consistency

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "log.md").read_text()
LOG = json.loads((ROOT / "tests/vectors/protocol/log.json").read_text())
KEY = VerifierKey.parse(LOG["key"])


def section(title: str) -> str:
    return re.split(r"\n#{2,3} ", TEXT.split(f"# {title}\n", 1)[1])[0]


def note(vector) -> bytes:
    return unb64url(vector["checkpoint"], "checkpoint")


@pytest.mark.parametrize("vector", LOG["valid"], ids=lambda vector: vector["name"])
def test_proofs_that_hold(vector):
    proof = Proof.parse(vector["log"], "log")
    assert proof.holds(open_checkpoint(note(vector), KEY))
    assert proof.leaf.decode() == LOG["leaves"][proof.position]["text"]


@pytest.mark.parametrize("vector", LOG["refused"], ids=lambda vector: vector["name"])
def test_proofs_that_do_not(vector):
    proof = Proof.parse(vector["log"], "log")
    try:
        assert not proof.holds(open_checkpoint(note(vector), KEY))
    except WireError:
        assert vector["name"] in ("checkpoint-changed", "checkpoint-of-another-key")


@pytest.mark.parametrize("leaf", LOG["leaves"], ids=lambda leaf: leaf["subject"])
def test_leaves(leaf):
    read, members = parse_leaf(leaf["text"].encode())
    assert (read.kind, read.subject) == (leaf["kind"], leaf["subject"])
    assert leaf_hash(read.data).hex() == leaf["hash"]
    assert set(members) == {"at", *_MEMBERS[read.kind]}


@pytest.mark.parametrize("vector", LOG["consistency"], ids=lambda vector: str(vector["old_size"]))
def test_consistency(vector):
    old, size = vector["old_size"], vector["size"]
    roots = [bytes.fromhex(root) for root in LOG["roots"]]
    path = [bytes.fromhex(hash_) for hash_ in vector["path"]]
    assert verify_consistency(old, size, roots[old], roots[size], path)
    assert not verify_consistency(old, size, roots[old - 1], roots[size], path)


def test_the_document_shows_the_checkpoint_of_the_vectors():
    (shown,) = re.findall(r"```\n(ca\.vectors.*?)```", section("Checkpoint"), re.DOTALL)
    assert open_checkpoint(shown.encode(), KEY).size == len(LOG["leaves"])
    assert shown.encode() == note(LOG["valid"][-1])
    assert f"at most {MAX_LEAF:,} bytes" in section("Leaves")


def test_the_worked_example_is_right_at_every_step():
    text = section("A worked example")
    (leaf,) = re.findall(r"```\n(.*)\n```", text)
    assert leaf == LOG["leaves"][2]["text"]
    shown = [bytes.fromhex(cell) for cell in re.findall(r"`([0-9a-f]{64})` \|", text)]
    hash_, *steps = shown
    assert hash_ == hashlib.sha256(b"\0" + leaf.encode()).digest()
    for sibling, after, left in zip(steps[::2], steps[1::2], (False, True, False), strict=True):
        pair = sibling + hash_ if left else hash_ + sibling
        hash_ = hashlib.sha256(b"\1" + pair).digest()
        assert hash_ == after
    assert base64.b64encode(hash_).decode() in section("Checkpoint")
    assert KEY.public.hex() in text
    assert str(KEY) in text


def test_members_of_leaves_are_those_of_the_code():
    found, kind = {}, ""
    for line in section("Leaves").splitlines():
        row = re.match(r"\| (?:`([a-z]+)`)? ?\| ((?:`[a-z_0-9]+`(?:, )?)+) \|", line)
        if row:
            kind = row[1] or kind
            found.setdefault(kind, []).extend(re.findall(r"`([a-z_0-9]+)`", row[2]))
    assert found == {kind: list(members) for kind, members in _MEMBERS.items()}


def test_every_finding_is_in_the_table():
    source = "".join(path.read_text() for path in sorted((ROOT / "ca_service/audit").glob("*.py")))
    source += (ROOT / "ca_service/operations/verification.py").read_text()
    codes = set(re.findall(r'\.(?:add|with_finding)\(\s*"([a-z]+\.[a-z-]+)"', source))
    codes |= set(re.findall(r'tolerated\(\s*(?:self\._)?findings,\s*"([a-z]+\.[a-z-]+)"', source))
    for template in re.findall(r'\.add\(\s*f"\{(?:kind|what)\}(\.[a-z]+)"', source):
        codes |= {kind + template for kind in ("decision", "certificate", "responder")}
    codes |= {f"{what}.{how}" for what in ("trace", "evidence") for how in ("missing", "altered")}
    listed = re.findall(r"`([a-z]+\.[a-z-]+)`", section("Verifying").split("| finding |", 1)[1])
    assert sorted(codes) == sorted(listed)
    assert f"the first {MOST_KEPT:,} in full" in section("Verifying")


def test_the_folder_is_the_one_that_is_described():
    text = section("Export")
    for name in (*layout.FOLDERS, layout.CHECKPOINT, layout.README):
        assert f"`{name}" in text
    assert f"{layout.BUNDLE:,} lines in each file" in text
    assert len(layout.bundle_name(0).split(".")[0]) == 15
