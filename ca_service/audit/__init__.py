"""The append-only log: a Merkle tree (RFC 6962) over every decision and certificate, with signed checkpoints.

`Log.append` belongs into the transaction that makes what it logs. `vtpm.wire.log` holds what others need to verify.
"""

from ca_service.audit.database import audit_database
from ca_service.audit.decisions import ExportedDecisions
from ca_service.audit.export import ExportReport, export_log
from ca_service.audit.findings import AuditReport, Finding
from ca_service.audit.folder import audit_folder
from ca_service.audit.issuers import Issuers
from ca_service.audit.leaf import (
    CERTIFICATE,
    DECISION,
    KINDS,
    RESTORE,
    Leaf,
    certificate_leaf,
    decision_leaf,
    responder_leaf,
    restore_leaf,
)
from ca_service.audit.log import Log, Receipt, Seen
from ca_service.audit.note import NoteSigner, verifier_key
from vtpm.wire.log import Checkpoint, Proof, open_checkpoint
from vtpm.wire.note import VerifierKey

__all__ = [
    "CERTIFICATE",
    "DECISION",
    "KINDS",
    "RESTORE",
    "AuditReport",
    "Checkpoint",
    "ExportReport",
    "ExportedDecisions",
    "Finding",
    "Issuers",
    "Leaf",
    "Log",
    "NoteSigner",
    "Proof",
    "Receipt",
    "Seen",
    "VerifierKey",
    "audit_database",
    "audit_folder",
    "certificate_leaf",
    "decision_leaf",
    "export_log",
    "open_checkpoint",
    "responder_leaf",
    "restore_leaf",
    "verifier_key",
]
