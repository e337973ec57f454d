"""The append-only log: a Merkle tree (RFC 6962) over every decision and certificate, with signed checkpoints.

`Log.append` belongs into the transaction that makes what it logs. `vtpm.wire.log` holds what others need to verify.
"""

from typing import TYPE_CHECKING

from ca_service.faces import on_demand

if TYPE_CHECKING:
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
else:
    __getattr__ = on_demand(
        __name__,
        {
            ".database": "audit_database",
            ".decisions": "ExportedDecisions",
            ".export": "ExportReport export_log",
            ".findings": "AuditReport Finding",
            ".folder": "audit_folder",
            ".issuers": "Issuers",
            ".leaf": (
                "CERTIFICATE DECISION KINDS RESTORE Leaf certificate_leaf decision_leaf "
                "responder_leaf restore_leaf"
            ),
            ".log": "Log Receipt Seen",
            ".note": "NoteSigner verifier_key",
            "vtpm.wire.log": "Checkpoint Proof open_checkpoint",
            "vtpm.wire.note": "VerifierKey",
        },
    )

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
