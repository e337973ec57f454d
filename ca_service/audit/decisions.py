"""The decisions of an export as the database had them, and what they rest on, for whoever makes them anew."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ca_service.audit import layout
from ca_service.audit.leaf import DECISION, parse_leaf
from ca_service.audit.policies import MAX_POLICY
from ca_service.judgment import Record
from ca_service.store import DecisionRow
from vtpm.wire.errors import WireError


def collateral_named(trace: str) -> tuple[str, ...]:
    """Names of the certificates and lists that a stored trace says it rests on; nothing of one that is damaged."""
    try:
        inputs = Record.parse(trace).inputs
    except ValueError:
        return ()
    names = () if inputs is None else inputs.get("collateral")
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


@dataclass(frozen=True)
class ExportedDecisions:
    """The folder of an export, whose log and files `audit_folder` has found to be whole."""

    path: Path

    def rows(self, decision_id: str | None = None) -> Iterator[DecisionRow]:
        """All decisions in the order of the log, or the one with this id; what cannot be read is left out."""
        for data in layout.read_leaves(self.path):
            try:
                leaf, members = parse_leaf(data)
            except WireError:
                continue
            if leaf.kind != DECISION or decision_id not in {None, leaf.subject}:
                continue
            trace = layout.read(self.path / layout.TRACES / layout.trace_name(leaf.subject))
            yield DecisionRow(
                id=leaf.subject,
                at=datetime.fromisoformat(members["at"]).astimezone(UTC),
                stage=members["stage"],
                admitted=int(members["verdict"] == "admitted"),
                rule=members["rule"],
                trace="" if trace is None else trace.decode("ascii", "replace"),
                policy_version=int(members["policy_version"]),
                policy_digest=members["policy"],
                evidence_digest=members["evidence"],
                kbs_id=members["kbs"],
                resource=members["resource"],
            )

    def evidence(self, digest: str) -> bytes | None:
        """The request with this digest."""
        return layout.read(self.path / layout.EVIDENCE / digest)

    def collateral(self, names: Collection[str]) -> dict[str, bytes]:
        """Certificates and lists by name; those that are missing, or have a name that none has, are left out."""
        return {
            name: content
            for name in names
            if layout.is_collateral(name)
            and (content := layout.read(self.path / layout.COLLATERAL / name)) is not None
        }

    def policy(self, digest: str) -> str | None:
        """Text of the policy with this digest."""
        content = layout.read(self.path / layout.POLICIES / layout.policy_name(digest), MAX_POLICY)
        return None if content is None else content.decode("utf-8", "replace")
