"""Auditing the CA's log, and exporting it for others to audit.

These two read the database themselves, also while a server runs: what the audited process says about itself would prove
nothing, and a database of a million certificates takes longer than a request may.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.audit import (
    AuditReport,
    Checkpoint,
    ExportReport,
    Issuers,
    VerifierKey,
    audit_database,
    audit_folder,
    export_log,
    open_checkpoint,
)
from ca_service.judgment import BadRequest
from ca_service.keys import PublicAuthority
from ca_service.operations.log_identity import log_key
from ca_service.store import ListKey, Store
from vtpm.wire.errors import WireError


def parse_key(text: str) -> VerifierKey:
    """A verifier key as an auditor types it; raises BadRequest."""
    try:
        return VerifierKey.parse(text.strip(), "key")
    except WireError as error:
        raise BadRequest(error.path, error.problem) from None


def audit_ca(
    public: PublicAuthority,
    store: Store,
    since: bytes | None = None,
    *,
    kept: Mapping[ListKey, bytes] = MappingProxyType({}),
) -> AuditReport:
    """Recompute a CA's log and hold the database against it.

    Args:
        public: the CA.
        store: its database.
        since: an older signed checkpoint, which must be of the same history.
        kept: the newest revocation lists (DER) of each issuing CA, by key id and shard, as remembered elsewhere.

    Raises:
        BadRequest: `since` is no checkpoint of this log.
        Unavailable: the CA has no log, or the database cannot be read.
    """
    key = log_key(public)
    older = _older(since, key)
    with store.read() as tx:
        return audit_database(tx, key, _issuers(public), older, kept=kept)


def audit_export(folder: Path, key: VerifierKey, since: bytes | None = None) -> AuditReport:
    """The same for an exported folder, with the log's public key alone.

    Raises:
        BadRequest: `since` is no checkpoint of this log, or the folder is no export.
    """
    return audit_folder(folder, key, _older(since, key))


def export_ca(public: PublicAuthority, store: Store, folder: Path) -> ExportReport:
    """Bring an auditor's folder to the log's present state; raises as `export_log`."""
    key = log_key(public)
    with store.read() as tx:
        return export_log(tx, key, folder, _authorities(public))


def _issuers(public: PublicAuthority) -> Issuers:
    return Issuers(public.root, {ca.skid: ca.certificate for ca in public.issuers})


def _authorities(public: PublicAuthority) -> Mapping[str, bytes]:
    root = {public.root_info.skid: public.root.public_bytes(Encoding.PEM)}
    return root | {ca.skid: ca.certificate.public_bytes(Encoding.PEM) for ca in public.issuers}


def _older(since: bytes | None, key: VerifierKey) -> Checkpoint | None:
    try:
        return None if since is None else open_checkpoint(since, key, "since")
    except WireError as error:
        raise BadRequest(error.path, error.problem, remedy="It must be a checkpoint of this log.") from None
