"""The audit of a CA's database: tree, leaves and rows against each other.

Everything is read in one transaction and in batches, so a database of any size takes no more memory than a small one.
Whoever changes a row, a leaf or a hash by SQL is found, unless he also has the log's key; whoever has that too is
found by an older checkpoint that somebody else keeps.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType

from ca_service.audit.certificates import audit_certificates
from ca_service.audit.decisions import collateral_named
from ca_service.audit.facts import altered_facts
from ca_service.audit.findings import AuditReport, Findings
from ca_service.audit.issuers import Issuers
from ca_service.audit.leaf import (
    CERTIFICATE,
    DECISION,
    RESPONDER,
    RESTORE,
    Leaf,
    decision_leaf,
    parse_leaf,
    responder_leaf,
)
from ca_service.audit.log import leaf_of_certificate
from ca_service.audit.merkle import Frontier, Node, leaf_hash
from ca_service.audit.policies import digest_of_policy
from ca_service.audit.rebuild import Rebuild, differing
from ca_service.audit.revocations import audit_revocations
from ca_service.audit.salvage import read_each, tolerated
from ca_service.collateral.items import read_item
from ca_service.judgment import BadRequest
from ca_service.store import EvidenceFacts, HeadRow, LeafRow, ListKey, Transaction
from vtpm.wire.errors import WireError
from vtpm.wire.log import Checkpoint, open_checkpoint
from vtpm.wire.merkle import HASH_SIZE, MAX_TREE_SIZE
from vtpm.wire.message_fields import time_text
from vtpm.wire.note import VerifierKey

BATCH = 1000
"""How many rows are held in memory at once."""


def audit_database(
    tx: Transaction,
    key: VerifierKey,
    issuers: Issuers,
    since: Checkpoint | None = None,
    *,
    kept: Mapping[ListKey, bytes] = MappingProxyType({}),
) -> AuditReport:
    """Recompute the log, and compare it with what the database holds.

    Args:
        tx: a read transaction; nothing is changed.
        key: verifier key of the log.
        issuers: the CA's certificates: whose revocation lists are believed.
        since: an older checkpoint of this log whose signature was verified.
        kept: the newest CRLs (DER) of each issuer, by key id and shard, as they are remembered outside the database.
    """
    findings = Findings()
    row, head = None, None
    with tolerated(findings, "log.head-unreadable", "", "the log's head cannot be read"):
        row = tx.log.head()
        head = _head(row, key, findings)
    rebuild = Rebuild(head, since, findings)
    tree = _Tree(tx, rebuild)
    with _part(findings, "log"):
        tree.read()
    if row is not None and not rebuild.broken:
        _compare_frontier(row, rebuild.frontier, findings)
    for kind in (DECISION, CERTIFICATE, RESPONDER):
        with _part(findings, f"{kind}s"):
            _audit_unlogged(tx, kind, findings)
    with _part(findings, "evidence"):
        _audit_evidence(tx, findings)
    with _part(findings, "collateral"):
        _audit_collateral(tx, tree.named, findings)
    with _part(findings, "policies"):
        _audit_policies(tx, findings)
    with _part(findings, "certificates"):
        audit_certificates(tx, findings)
    with _part(findings, "revocations"):
        audit_revocations(tx, issuers, kept, rebuild.restores, findings)
    return rebuild.finish(key.name)


def _part(findings: Findings, table: str) -> AbstractContextManager[None]:
    """The last resort: what cannot be read even row by row must not hide the rest."""
    detail = "a key in this part of the database cannot be read: what follows there was not looked at"
    return tolerated(findings, "database.unreadable", table, detail)


def _head(row: HeadRow | None, key: VerifierKey, findings: Findings) -> Checkpoint | None:
    if row is None:
        findings.add("log.head-missing", "", "the log has no head: nothing says how long it was")
        return None
    try:
        checkpoint = open_checkpoint(row.checkpoint.encode("utf-8"), key)
    except (WireError, UnicodeError) as error:
        findings.add("log.checkpoint", row.size, f"the checkpoint is not the log's: {error}")
        return None
    if checkpoint.size != row.size:
        detail = f"the head counts {row.size} leaves, the signed checkpoint {checkpoint.size}"
        findings.add("log.head-size", row.size, detail)
    return checkpoint


def _compare_frontier(row: HeadRow, rebuilt: Frontier, findings: Findings) -> None:
    if row.frontier != rebuilt.to_bytes():
        findings.add("log.frontier", row.size, "the head's frontier is not that of the leaves")


class _Tree:
    """Reads leaves in their order, with the hashes and rows that belong to them."""

    def __init__(self, tx: Transaction, rebuild: Rebuild) -> None:
        self._tx = tx
        self._rebuild = rebuild
        self._findings = rebuild.findings
        self.named = set[str]()
        """Certificates and lists that decisions say they rest on."""

    def read(self) -> None:
        after: object = None
        end = MAX_TREE_SIZE
        if self._rebuild.head is not None:
            end = self._rebuild.head.size
        while positions := self._tx.log.positions(after, BATCH):
            after, inside = positions[-1], list[int]()
            for position in positions:
                if isinstance(position, int) and 0 <= position < end:
                    inside.append(position)
                else:
                    detail = "the leaf stands outside the tree that was signed"
                    self._findings.add("log.leaf-surplus", position, detail)
            rows = self._leaves(inside)
            if rows and not self._rebuild.broken:
                self._grow(rows)
            self._compare_rows(rows)

    def _leaves(self, positions: list[int]) -> list[LeafRow]:
        found, unreadable = read_each(self._tx.log.leaves_at, positions)
        hashes, _ = read_each(self._tx.log.hashes, unreadable)
        # One that cannot be read is none: empty, it is found to be altered and malformed.
        return [
            found[position]
            if position in found
            else LeafRow(position, "", "", b"", hashes.get(position, b""))
            for position in positions
        ]

    def _grow(self, rows: list[LeafRow]) -> None:
        start, end = self._rebuild.position, rows[-1].position + 1
        if end - start > len(rows):
            self._gap(start, rows)
            return
        for row in rows:
            hash_ = leaf_hash(row.data)
            kept = row.hashes[:HASH_SIZE]
            if kept and kept != hash_:
                detail = "the leaf is not the one whose hash is in the tree"
                self._findings.add("log.leaf-altered", row.position, detail)
            made = self._rebuild.add(row.data, kept if len(kept) == HASH_SIZE else hash_)
            self._compare_hashes(made, row)

    def _gap(self, start: int, rows: list[LeafRow]) -> None:
        """A leaf is not there: from here on no root can be recomputed."""
        there = {row.position for row in rows}
        missing = next(position for position in range(start, start + len(rows) + 1) if position not in there)
        detail = "the leaf is missing, and with it the proof of everything after it"
        self._findings.add("log.leaf-missing", missing, detail)
        self._rebuild.broken = True

    def _compare_hashes(self, made: Sequence[Node], row: LeafRow) -> None:
        for level, position, hash_ in made:
            place, kept = f"{level}/{position}", row.hashes[HASH_SIZE * level : HASH_SIZE * (level + 1)]
            if not kept:
                self._findings.add("log.node-missing", place, "a hash of the tree is missing")
            elif kept != hash_:
                self._findings.add("log.node-altered", place, "a hash of the tree is not that of its leaves")
        if len(row.hashes) > HASH_SIZE * len(made):
            detail = "beside the leaf stand hashes that do not belong to the tree"
            self._findings.add("log.node-surplus", row.position, detail)

    def _compare_rows(self, rows: list[LeafRow]) -> None:
        leaves = list[tuple[Leaf, dict[str, str]]]()
        for row in rows:
            read = self._rebuild.read(row.data, row.position)
            if read is None:
                continue
            leaf, _ = read
            if (leaf.kind, leaf.subject) != (row.kind, row.subject):
                detail = f"the leaf is about {leaf.kind} {leaf.subject}, its row says another thing"
                self._findings.add("log.leaf-misplaced", row.position, detail)
            leaves.append(read)
        self._compare(leaves, DECISION, self._decisions)
        self._compare(leaves, CERTIFICATE, self._certificates)
        self._compare(leaves, RESPONDER, self._responders)
        with tolerated(self._findings, "database.unreadable", "epochs", "an epoch cannot be read"):
            self._compare_restores(leaves)

    def _decisions(self, ids: Collection[str]) -> dict[str, Leaf]:
        rows = self._tx.log.decisions(ids)
        for row in rows.values():
            self.named.update(collateral_named(row.trace))
        return {id_: decision_leaf(row) for id_, row in rows.items()}

    def _certificates(self, serials: Collection[str]) -> dict[str, Leaf]:
        return {
            serial: leaf_of_certificate(row) for serial, row in self._tx.log.certificates(serials).items()
        }

    def _responders(self, serials: Collection[str]) -> dict[str, Leaf]:
        return {
            serial: responder_leaf(
                serial=row.serial, issuer=row.issuer, der=row.der or b"", at=row.issued_at or row.created_at
            )
            for serial, row in self._tx.log.responders(serials).items()
        }

    def _compare(
        self,
        leaves: list[tuple[Leaf, dict[str, str]]],
        kind: str,
        fetch: Callable[[Collection[str]], Mapping[str, Leaf]],
    ) -> None:
        expected, unreadable = read_each(fetch, _subjects(leaves, kind))
        for subject in unreadable:
            self._findings.add(f"{kind}.unreadable", subject, f"the {kind} holds what cannot be read")
        for leaf, members in leaves:
            if leaf.kind != kind or leaf.subject in unreadable:
                continue
            now = expected.get(leaf.subject)
            if now is None:
                self._findings.add(f"{kind}.missing", leaf.subject, f"the {kind} was logged and is gone")
            elif now.data != leaf.data:
                other = differing(members.items(), _members(now))
                self._findings.add(
                    f"{kind}.altered", leaf.subject, f"the {kind} was logged with another {other}"
                )

    def _compare_restores(self, leaves: list[tuple[Leaf, dict[str, str]]]) -> None:
        restores = [(leaf, members) for leaf, members in leaves if leaf.kind == RESTORE]
        if not restores:
            return
        epochs = {str(row.number): time_text(row.begun_at) for row in self._tx.epochs.all()}
        for leaf, members in restores:
            if leaf.subject not in epochs:
                self._findings.add("restore.missing", leaf.subject, "the epoch was logged and is gone")
            elif epochs[leaf.subject] != members["at"]:
                self._findings.add("restore.altered", leaf.subject, "the epoch was logged with another time")


def _subjects(leaves: list[tuple[Leaf, dict[str, str]]], kind: str) -> list[str]:
    return [leaf.subject for leaf, _ in leaves if leaf.kind == kind]


def _members(leaf: Leaf) -> dict[str, str]:
    try:
        return dict(parse_leaf(leaf.data)[1])
    except WireError:
        # A row with a value that no leaf may have: all of it counts as altered.
        return {}


def _audit_unlogged(tx: Transaction, kind: str, findings: Findings) -> None:
    for subject in tx.log.without_leaf(kind):
        findings.add(f"{kind}.unlogged", subject, f"the {kind} has no leaf in the log")


def _audit_evidence(tx: Transaction, findings: Findings) -> None:
    after = ""
    while digests := tx.log.evidence_digests(after, BATCH // 10):
        after = digests[-1]
        found, _ = read_each(tx.log.evidence, digests)
        facts, _ = read_each(tx.causes.facts, digests)
        for digest in digests:
            body = found.get(digest)
            if body is None or hashlib.sha256(body).hexdigest() != digest:
                findings.add("evidence.altered", digest, "the evidence is not the one with this digest")
            elif others := altered_facts(body, facts.get(digest, EvidenceFacts())):
                detail = (
                    f"what certificates are revoked by is not what the evidence says: {', '.join(others)}"
                )
                findings.add("evidence.facts", digest, detail)
    for digest in tx.log.missing_evidence(BATCH):
        findings.add("evidence.missing", digest, "a decision rests on evidence that is gone")


def _audit_collateral(tx: Transaction, named: Collection[str], findings: Findings) -> None:
    names = sorted(named)
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        found, _ = read_each(tx.decisions.collateral, batch)
        for name in batch:
            if name not in found:
                findings.add(
                    "collateral.missing", name, "a decision rests on a certificate or list that is gone"
                )
            elif read_item(name, found[name]) is None:
                findings.add("collateral.altered", name, "the certificate or list is not what its name says")


def _audit_policies(tx: Transaction, findings: Findings) -> None:
    known: set[tuple[object, object]] = {(0, "")}
    next_ = 1
    for version in tx.log.policy_versions():
        if version != next_:
            findings.add("policy.missing", next_, "this version of the policy is gone")
        next_ = version + 1
        with tolerated(findings, "policy.unreadable", version, "the policy's row cannot be read"):
            _audit_policy(tx, version, known, findings)
    for number, digest in tx.log.policies_of_decisions():
        if (number, digest) not in known:
            detail = f"decisions rest on a version {number} that the policies do not have"
            findings.add("policy.missing", number, detail)


def _audit_policy(
    tx: Transaction, version: int, known: set[tuple[object, object]], findings: Findings
) -> None:
    row = tx.policies.get(version)
    if row is None:
        return
    known.add((version, row.digest))
    try:
        digest = digest_of_policy(row.text.encode("utf-8"))
    except (BadRequest, ValueError):
        detail = "the policy cannot be read, so it cannot be compared with its digest"
        findings.add("policy.unreadable", version, detail)
        return
    if digest != row.digest:
        findings.add("policy.altered", version, "the policy is not the one with this digest")
