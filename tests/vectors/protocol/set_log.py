"""A small log: leaves, hashes, checkpoints of two sizes, and proofs."""

import json
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fixed import AUD, NOW, stream

from ca_service.audit import (
    Checkpoint,
    Leaf,
    Proof,
    certificate_leaf,
    decision_leaf,
    restore_leaf,
    verifier_key,
)
from ca_service.audit.merkle import Frontier, Recipe, consistency, inclusion, leaf_hash
from ca_service.audit.note import sign_note
from ca_service.store import DecisionRow
from vtpm.wire.encoding import b64url

ORIGIN = f"{AUD}/log"
SEED = stream("log key", 32)
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
VKEY = verifier_key(ORIGIN, KEY)
OLD_SIZE = 4


def _decision(number: int, rule: str = "") -> Leaf:
    return decision_leaf(
        DecisionRow(
            id=stream(f"decision {number}", 16).hex(),
            at=NOW + timedelta(seconds=number),
            stage="enroll",
            admitted=int(not rule),
            rule=rule,
            trace="[]",
            policy_version=3,
            policy_digest=stream("policy", 32).hex(),
            evidence_digest=stream(f"evidence {number}", 32).hex(),
            kbs_id="org-kbs",
            resource="default/vtpm/guest-a",
        )
    )


def _certificate(profile: str, number: int) -> Leaf:
    return certificate_leaf(
        serial="2a" + stream(f"serial {profile}", 16).hex(),
        issuer=stream("issuer", 20).hex(),
        profile=profile,
        key_name="000b" + stream(f"name {profile}", 32).hex(),
        der=stream("leaf" if profile == "iak" else f"certificate {profile}", 80),
        decision_id=stream(f"decision {number}", 16).hex(),
        at=NOW + timedelta(seconds=number),
    )


LEAVES = (
    _decision(0),
    *(_certificate(profile, 0) for profile in ("ek", "iak", "idevid")),
    _decision(5, "snp.vmpl"),
    restore_leaf(2, NOW + timedelta(seconds=6), Checkpoint(ORIGIN, 9, stream("lost root", 32))),
    _decision(7),
)


def _grow() -> tuple[list[Frontier], dict[tuple[int, int], bytes]]:
    trees, nodes = [Frontier()], dict[tuple[int, int], bytes]()
    for leaf in LEAVES:
        tree, made = trees[-1].append(leaf_hash(leaf.data))
        trees.append(tree)
        nodes |= {(level, position): hash_ for level, position, hash_ in made}
    return trees, nodes


TREES, NODES = _grow()


def checkpoint(size: int) -> Checkpoint:
    """The checkpoint of the first leaves."""
    return Checkpoint(ORIGIN, size, TREES[size].root())


def note(size: int) -> bytes:
    """The same, signed."""
    return sign_note(checkpoint(size).to_text(), VKEY, KEY)


def proof(position: int, size: int = len(LEAVES)) -> Proof:
    """That a leaf stands in the tree of so many."""
    return Proof(LEAVES[position].data, position, inclusion(position, size).path(NODES))


def _signed_by_a_stranger(size: int) -> bytes:
    text = checkpoint(size).to_text()
    stranger = Ed25519PrivateKey.from_private_bytes(stream("stranger", 32))
    return (text + "\n" + VKEY.line(stranger.sign(text.encode()))).encode()


def _hex(recipe: Recipe) -> list[str]:
    return [hash_.hex() for hash_ in recipe.path(NODES)]


def make() -> dict[str, object]:
    """The file log.json."""
    size = len(LEAVES)
    good = proof(2)
    changes: dict[str, tuple[Proof, bytes]] = {
        "another-leaf": (Proof(LEAVES[1].data, 2, good.path), note(size)),
        "another-position": (Proof(good.leaf, 3, good.path), note(size)),
        "position-of-no-leaf": (Proof(good.leaf, size, good.path), note(size)),
        "path-too-short": (Proof(good.leaf, 2, good.path[:-1]), note(size)),
        "path-too-long": (Proof(good.leaf, 2, (*good.path, bytes(32))), note(size)),
        "path-turned-round": (Proof(good.leaf, 2, good.path[::-1]), note(size)),
        "checkpoint-of-another-size": (good, note(OLD_SIZE)),
        "checkpoint-changed": (good, note(size).replace(b"\n7\n", b"\n8\n")),
        "checkpoint-of-another-key": (good, _signed_by_a_stranger(size)),
    }
    return {
        "about": "Leaf hashes, roots and paths in hex; the seed is the Ed25519 private key of RFC 8032.",
        "origin": ORIGIN,
        "seed": SEED.hex(),
        "key": str(VKEY),
        "leaves": [
            {
                "kind": leaf.kind,
                "subject": leaf.subject,
                "text": leaf.data.decode("ascii"),
                "hash": leaf_hash(leaf.data).hex(),
            }
            for leaf in LEAVES
        ],
        "roots": [tree.root().hex() for tree in TREES],
        "checkpoints": [
            {"size": n, "text": checkpoint(n).to_text(), "note": b64url(note(n))} for n in (OLD_SIZE, size)
        ],
        "valid": [
            {
                "name": f"leaf-{position}-of-{n}",
                "checkpoint": b64url(note(n)),
                "log": json.loads(proof(position, n).text()),
            }
            for n in (OLD_SIZE, size)
            for position in range(n)
        ],
        "refused": [
            {"name": name, "checkpoint": b64url(signed), "log": json.loads(changed.text())}
            for name, (changed, signed) in changes.items()
        ],
        "consistency": [
            {"old_size": old, "size": size, "path": _hex(consistency(old, size))}
            for old in range(1, size + 1)
        ],
    }
