"""The block list: keys that get no certificate, because their private half is known to others.

To block a key is one durable write, and from then on nothing is issued for it. Only after that are its certificates
looked for, so that none is missed that was issued meanwhile.
"""

import re
from collections.abc import Iterator

from cryptography import x509

from ca_service.enrollment import revoke as revoke_certificate
from ca_service.judgment import BadRequest, NotFound
from ca_service.operations.bounds import MAX_CAUSE
from ca_service.operations.certificates import certificate_row, rows_now
from ca_service.operations.context import (
    Json,
    Operation,
    OperationContext,
    instant,
    note,
    optional_flag,
    recorded_cause,
)
from ca_service.profiles import certified_key
from ca_service.store import BlockedKeyRow, CertificateRow, CertificateState, Transaction, spki_digest
from vtpm.wire.encoding import Members

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_REASON = "keyCompromise"


def _blocked(row: BlockedKeyRow) -> dict[str, Json]:
    return {"spki": row.spki, "at": instant(row.at), "by": row.by, "cause": row.cause}


def _digest(arguments: Members) -> str:
    digest = arguments.text("digest", most=128)
    if not _DIGEST.match(digest):
        raise BadRequest("digest", "must be a SHA-256 over a SubjectPublicKeyInfo, 64 lower-case hex digits")
    return digest


def _find(tx: Transaction, digest: str) -> BlockedKeyRow | None:
    return next((row for row in tx.blocked_keys.all() if row.spki == digest), None)


def _certificates_of(tx: Transaction, digest: str) -> Iterator[CertificateRow]:
    """The good certificates of a key: it may be in several, in several roles, and superseded ones are good too."""
    page = tx.certificates.unrevoked_page("")
    while page:
        yield from (row for row in page if spki_digest(certified_key(_content(row))) == digest)
        page = tx.certificates.unrevoked_page(page[-1].serial)


def _content(row: CertificateRow) -> bytes:
    """What is signed, or to be signed."""
    return row.tbs if row.der is None else x509.load_der_x509_certificate(row.der).tbs_certificate_bytes


def list_(context: OperationContext, arguments: Members) -> Json:
    """All blocked keys, by digest."""
    arguments.end()
    with context.store.read() as tx:
        return [_blocked(row) for row in tx.blocked_keys.all()]


def block(context: OperationContext, arguments: Members) -> Json:
    """Let a key have no more certificates, list those that it has and, if `revoke` is true, revoke them.

    With `revoke` it is a dry run, in which the key is not blocked either, unless `yes` is true.
    """
    digest = _digest(arguments)
    cause = arguments.text("cause", most=MAX_CAUSE)
    revoke, confirmed = optional_flag(arguments, "revoke"), optional_flag(arguments, "yes")
    arguments.end()
    done = confirmed or not revoke
    blocked = BlockedKeyRow(digest, context.clock(), context.by, cause)
    if done:
        with context.store.write() as tx:
            known = _find(tx, digest)
            if known is None:
                tx.blocked_keys.add(blocked)
            # Who blocked it first, and why, stays on record.
            blocked = known or blocked
        note(context, "a key was blocked", digest=digest)
    with context.store.read() as tx:
        found = list(_certificates_of(tx, digest))
    issued = [row for row in found if row.state is not CertificateState.INTENDED]
    if revoke and confirmed and issued:
        authority = context.unlock()
        for certificate in issued:
            revoke_certificate(
                context.store,
                authority,
                certificate.serial,
                at=context.clock(),
                reason=_REASON,
                cause=recorded_cause(context, "key blocked", cause),
                limits=context.limits,
            )
    return {
        "done": done,
        "key": _blocked(blocked),
        "certificates": rows_now(context, issued),
        "being_issued": [certificate_row(c) for c in found if c.state is CertificateState.INTENDED],
    }


def unblock(context: OperationContext, arguments: Members) -> Json:
    """Let a key have certificates again; a dry run unless `yes` is true. What was revoked stays revoked."""
    digest = _digest(arguments)
    confirmed = optional_flag(arguments, "yes")
    arguments.end()
    with context.store.read() as tx:
        row = _find(tx, digest)
    if row is None:
        raise NotFound("this key is not blocked", remedy="`vtpm-ca key list` names those that are.")
    if confirmed:
        with context.store.write() as tx:
            tx.blocked_keys.remove(digest)
        note(context, "a key was unblocked", digest=digest)
    return {"done": confirmed, "key": _blocked(row)}


OPERATIONS = (
    Operation("key-list", list_),
    Operation("key-block", block, publishes=True),
    Operation("key-unblock", unblock),
)
