"""The audit of an exported folder: with the log's public key and nothing of the CA."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ca_service.audit import layout
from ca_service.audit.decisions import collateral_named
from ca_service.audit.findings import AuditReport, Findings
from ca_service.audit.leaf import CERTIFICATE, DECISION, RESPONDER, Leaf
from ca_service.audit.policies import MAX_POLICY, digest_of_policy
from ca_service.audit.rebuild import Rebuild
from ca_service.collateral.items import read_item
from ca_service.judgment import BadRequest
from vtpm.wire.errors import WireError
from vtpm.wire.log import Checkpoint, open_checkpoint
from vtpm.wire.note import VerifierKey


def audit_folder(path: Path, key: VerifierKey, since: Checkpoint | None = None) -> AuditReport:
    """Recompute the log of an export, and hold every file against the leaf that names it.

    Args:
        path: the folder; whoever made it is not trusted.
        key: verifier key of the log.
        since: an older checkpoint of this log whose signature was verified.

    Raises:
        BadRequest: the folder is no export at all: it has no checkpoint.
    """
    note = layout.read_checkpoint(path)
    if note is None:
        raise BadRequest(str(path), "has no checkpoint: it is not the folder of an export")
    findings, head = Findings(), None
    try:
        head = open_checkpoint(note, key)
    except WireError as error:
        findings.add("log.checkpoint", "", f"the checkpoint is not the log's: {error}")
    rebuild, files = Rebuild(head, since, findings), _Files(path, findings)
    for data in layout.read_leaves(path):
        position = rebuild.position
        if head is not None and position >= head.size:
            detail = "leaves follow that the checkpoint does not count; an export may have been interrupted"
            findings.add("log.leaf-surplus", position, detail)
            break
        read = rebuild.read(data, position)
        rebuild.add(data)
        if read is not None:
            files.check(*read)
    report = rebuild.finish(key.name)
    if not report.size or "log.root" in report.counts or "log.leaf-missing" in report.counts:
        # To read a policy is work. Leaves that nobody has signed must not be able to demand any amount of it.
        return report
    files.check_policies()
    return rebuild.report(key.name)


class _Files:
    """Looks up what leaves name."""

    def __init__(self, path: Path, findings: Findings) -> None:
        self._path = path
        self._findings = findings
        self._seen = set[tuple[str, str]]()
        self._policies = dict[str, None]()

    def check(self, leaf: Leaf, members: Mapping[str, str]) -> None:
        if leaf.kind in (CERTIFICATE, RESPONDER):
            name = layout.certificate_name(leaf.subject)
            self._check(layout.CERTIFICATES, name, members["sha256"], "certificate", leaf.subject)
            self._check_issuer(members["issuer"])
        elif leaf.kind == DECISION:
            name = layout.trace_name(leaf.subject)
            trace = self._check(layout.TRACES, name, members["trace"], "trace", leaf.subject)
            for name in collateral_named(trace.decode("ascii", "replace")):
                self._check_collateral(name)
            digest = members["evidence"]
            if self._first(layout.EVIDENCE, digest):
                self._check(layout.EVIDENCE, digest, digest, "evidence", digest)
            if members["policy"]:
                self._policies[members["policy"]] = None

    def check_policies(self) -> None:
        """Read the policies that the leaves have named; only their content has a digest, not their bytes."""
        for digest in self._policies:
            self._check_policy(digest)

    def _check(self, part: str, name: str, digest: str, what: str, subject: str) -> bytes:
        """Look a file up; returns it, or nothing if it is not what the leaf names."""
        content = layout.read(self._path / part / name)
        if content is None:
            self._findings.add(f"{what}.missing", subject, f"{part}/{name} is not there")
        elif hashlib.sha256(content).hexdigest() != digest:
            self._findings.add(f"{what}.altered", subject, f"{part}/{name} is not what the leaf names")
        else:
            return content
        return b""

    def _check_collateral(self, name: str) -> None:
        if not layout.is_collateral(name) or not self._first(layout.COLLATERAL, name):
            return
        content = layout.read(self._path / layout.COLLATERAL / name)
        if content is None:
            self._findings.add("collateral.missing", name, f"{layout.COLLATERAL}/{name} is not there")
        elif read_item(name, content) is None:
            detail = f"{layout.COLLATERAL}/{name} is not what its name says"
            self._findings.add("collateral.altered", name, detail)

    def _check_issuer(self, skid: str) -> None:
        if self._first(layout.ISSUERS, skid):
            name = layout.issuer_name(skid)
            if layout.read(self._path / layout.ISSUERS / name) is None:
                self._findings.add("issuer.missing", skid, f"{layout.ISSUERS}/{name} is not there")

    def _check_policy(self, digest: str) -> None:
        name = layout.policy_name(digest)
        content = layout.read(self._path / layout.POLICIES / name, MAX_POLICY)
        if content is None:
            self._findings.add("policy.missing", digest, f"{layout.POLICIES}/{name} is not there")
            return
        try:
            found = digest_of_policy(content)
        except (BadRequest, ValueError):
            self._findings.add("policy.unreadable", digest, f"{layout.POLICIES}/{name} cannot be read")
            return
        if found != digest:
            self._findings.add("policy.altered", digest, f"{layout.POLICIES}/{name} has another digest")

    def _first(self, part: str, name: str) -> bool:
        """Whether this is asked for the first time: many leaves name the same few."""
        first = (part, name) not in self._seen
        self._seen.add((part, name))
        return first
