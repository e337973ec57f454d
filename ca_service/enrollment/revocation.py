"""Revoking, and having `publishing` publish what was revoked, in one transaction."""

from collections.abc import Iterable
from datetime import datetime

from ca_service.enrollment.limits import Limits
from ca_service.enrollment.publishing import publish
from ca_service.judgment import NotFound
from ca_service.keys import Authority
from ca_service.store import (
    CertificateRow,
    CertificateState,
    EnrollmentState,
    IntentRow,
    IntentState,
    RevocationRow,
    Store,
    Transaction,
)

_LIVE = (CertificateState.ISSUED, CertificateState.INTENDED)
_GOOD = (CertificateState.ISSUED, CertificateState.SUPERSEDED)
"""States of certificates that relying parties take."""


def _held(authority: Authority) -> set[str]:
    return {ca.skid for ca in authority.issuers}


def _end(
    tx: Transaction,
    rows: Iterable[CertificateRow],
    state: CertificateState,
    at: datetime,
    reason: str,
    cause: str,
) -> set[str]:
    """End live certificates and put their serials on record; returns the issuers whose CRL changes."""
    touched = set()
    for row in rows:
        tx.certificates.end(row.serial, state)
        if tx.revocations.add(RevocationRow(row.issuer, row.serial, at, reason, cause, row.shard)):
            touched.add(row.issuer)
    return touched


def revoke(
    store: Store, authority: Authority, serial: str, *, at: datetime, reason: str, cause: str, limits: Limits
) -> CertificateRow:
    """Revoke one certificate and publish its issuer's CRL.

    Args:
        store: the CA's database.
        authority: whose keys sign the CRL.
        serial: the certificate's serial number, hex.
        at: now.
        reason: as RFC 5280 section 5.3.1 names it, for example ``keyCompromise``.
        cause: in the operator's words.
        limits: how long the CRL holds.

    Raises:
        NotFound: there is no issued certificate with this serial.
    """
    with store.write() as tx:
        row = tx.certificates.get(serial)
        if row is None or row.state in (CertificateState.INTENDED, CertificateState.ABANDONED):
            raise NotFound("there is no issued certificate with this serial number")
        if row.state in _GOOD:
            touched = _end(tx, [row], CertificateState.REVOKED, at, reason, cause)
            publish(tx, authority, touched, at, limits)
        return row


def reset_instance(
    store: Store,
    authority: Authority,
    kbs_id: str,
    resource: str,
    *,
    salt: str = "",
    at: datetime,
    cause: str,
    limits: Limits,
) -> list[CertificateRow]:
    """End the life of the TPM in an instance: revoke what is live, free the instance, publish the CRLs.

    An issuance that is under way is abandoned with it. The Names and the persistence key stay bound to the
    instance and the resource.

    Returns:
        The certificates that were live.

    Raises:
        NotFound: no TPM lives there.
    """
    with store.write() as tx:
        instance = tx.ledger.instance(kbs_id, resource, salt)
        occupant = None if instance is None else tx.ledger.occupant(instance.id)
        if occupant is None:
            raise NotFound("no TPM lives in this instance")
        rows = tx.certificates.of_tpm(occupant.id)
        touched: set[str] = set()
        for intent_id in {row.intent_id for row in rows if row.state is CertificateState.INTENDED}:
            intent = tx.intents.get(intent_id)
            if intent is not None:
                touched |= give_up(tx, intent, at, EnrollmentState.FAILED)
        good = [row for row in rows if row.state in _GOOD]
        touched |= _end(tx, good, CertificateState.REVOKED, at, "superseded", cause)
        tx.ledger.free(occupant.id, at)
        publish(tx, authority, touched, at, limits)
        return [row for row in rows if row.state in (*_LIVE, CertificateState.SUPERSEDED)]


def give_up(tx: Transaction, intent: IntentRow, at: datetime, then: EnrollmentState) -> set[str]:
    """Abandon an intent if it is open, and move its enrolment to `then`; returns the issuers whose CRL changes."""
    if not tx.intents.close(intent.id, IntentState.ABANDONED, at):
        return set()
    rows = [row for row in tx.certificates.of_intent(intent.id) if row.state is CertificateState.INTENDED]
    touched = _end(tx, rows, CertificateState.ABANDONED, at, "unspecified", "the issuance was abandoned")
    for row in rows:
        if row.replaces is not None and row.live is not None:
            tx.certificates.reinstate(row.replaces, row.live)
    tx.enrollments.move(intent.enrollment_id, EnrollmentState.ISSUING, then)
    if all(row.state is CertificateState.ABANDONED for row in tx.certificates.of_tpm(intent.tpm_id)):
        # Nothing was ever issued to it: the instance must not be blocked by a TPM that nobody can have met.
        tx.ledger.free(intent.tpm_id, at)
    return touched


def abandon(
    store: Store, authority: Authority, intents: Iterable[IntentRow], at: datetime, limits: Limits
) -> set[str]:
    """Give up intents that nobody signs any more, and put their serials on the CRL.

    Whether a signature was made before the end of the process that wanted to make it, nobody knows; so the
    serials count as revoked for good. The enrolments wait for their clients' next try. Intents under an issuing CA
    whose key this node lacks are left to a node that can publish their serials.

    Returns:
        The ids of those that were still open and are abandoned now.
    """
    closed = set[str]()
    with store.write() as tx:
        touched: set[str] = set()
        for intent in intents:
            fresh = tx.intents.get(intent.id)
            if fresh is None or fresh.state is not IntentState.OPEN:
                continue
            if {row.issuer for row in tx.certificates.of_intent(fresh.id)} <= _held(authority):
                touched |= give_up(tx, fresh, at, EnrollmentState.PENDING)
                closed.add(fresh.id)
        publish(tx, authority, touched, at, limits)
    return closed
