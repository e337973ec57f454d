"""What the log says about a decision, a certificate and a restore: one canonical JSON object each.

A leaf holds digests where the thing itself is long or not for everybody: with the leaf nobody learns a trace or a
policy, and whoever has them can hold them against it. ``docs/log.md`` is the reference of the members.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from ca_service.store import DecisionRow
from vtpm.wire.encoding import canonical
from vtpm.wire.log import Checkpoint
from vtpm.wire.message_fields import time_text

VERSION = 1
DECISION, CERTIFICATE, RESTORE = "decision", "certificate", "restore"
KINDS = (DECISION, CERTIFICATE, RESTORE)


@dataclass(frozen=True)
class Leaf:
    """One entry of the log.

    Attributes:
        kind: one of `KINDS`.
        subject: id of the decision, serial of the certificate, number of the epoch. Once per kind.
        data: the leaf's bytes, canonical JSON (RFC 8785).
    """

    kind: str
    subject: str
    data: bytes = field(repr=False)


def _leaf(kind: str, subject: str, at: datetime, members: dict[str, object]) -> Leaf:
    head = {"v": VERSION, "kind": kind, "at": time_text(at)}
    return Leaf(kind, subject, canonical(head | members))


def decision_leaf(row: DecisionRow) -> Leaf:
    """The leaf of a decision: a grant or an authenticated refusal."""
    return _leaf(
        DECISION,
        row.id,
        row.at,
        {
            "id": row.id,
            "stage": row.stage,
            "verdict": "admitted" if row.admitted else "refused",
            "rule": row.rule,
            "policy": row.policy_digest,
            "policy_version": row.policy_version,
            "evidence": row.evidence_digest,
            "trace": hashlib.sha256(row.trace.encode("utf-8")).hexdigest(),
            "kbs": row.kbs_id,
            "resource": row.resource,
        },
    )


def certificate_leaf(
    *, serial: str, issuer: str, profile: str, key_name: str, der: bytes, decision_id: str, at: datetime
) -> Leaf:
    """The leaf of an issued certificate.

    Args:
        serial: its serial number, hex as in the database.
        issuer: subject key id of the CA that signed it, hex.
        profile: "ek", "iak" and so on, as in the database.
        key_name: TPM Name of its key, hex.
        der: the certificate.
        decision_id: the decision in its intent.
        at: when it was stored as issued.
    """
    return _leaf(
        CERTIFICATE,
        serial,
        at,
        {
            "serial": serial,
            "issuer": issuer,
            "profile": profile,
            "key": key_name,
            "sha256": hashlib.sha256(der).hexdigest(),
            "decision": decision_id,
        },
    )


def restore_leaf(epoch: int, at: datetime, known: Checkpoint | None) -> Leaf:
    """The leaf that admits a restore of the database from a backup.

    Args:
        epoch: number of the epoch that begins.
        at: when.
        known: the newest checkpoint that was known before; what its log held beyond the present tree is lost.
    """
    size, root = (0, "") if known is None else (known.size, known.root.hex())
    # The size as text: JSON readers are exact only up to 2^53.
    return _leaf(RESTORE, str(epoch), at, {"epoch": epoch, "size": str(size), "root": root})
