"""Revoking, and publishing what was revoked, in one transaction.

A serial that is revoked is on a published CRL when the transaction is durable: both are rows of the same
commit.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from cryptography import x509

from ca_service.enrollment.limits import Limits
from ca_service.judgment import NotFound, Unavailable, VtpmCaError
from ca_service.keys import Authority, IssuingCa
from ca_service.status import RevokedEntry, build_crl
from ca_service.store import (
    CertificateRow,
    CertificateState,
    CrlRow,
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


def publish(
    tx: Transaction, authority: Authority, skids: Iterable[str], at: datetime, limits: Limits
) -> list[CrlRow]:
    """Make the next CRL of the issuing CAs with these subject key ids (hex).

    Raises:
        Unavailable: a list would drop what the one before names, or that one is forged (code ``log``); or this node
            lacks the key of one (code ``issuer``). What would have to stand on its list must then
            not be recorded either, so the caller's transaction ends here.
    """
    wanted = set(skids)
    if not wanted <= _held(authority):
        raise Unavailable(
            "this node lacks the key of an issuing CA whose revocation list would change",
            code="issuer",
            remedy="Do it on a node that has the key, or copy what is new in certs/ and private/, and then ca.toml.",
        )
    return [_publish_one(tx, ca, at, limits.crl_lifetime) for ca in authority.issuers if ca.skid in wanted]


def _held(authority: Authority) -> set[str]:
    return {ca.skid for ca in authority.issuers}


def _publish_one(tx: Transaction, ca: IssuingCa, at: datetime, lifetime: timedelta) -> CrlRow:
    latest = tx.crls.latest(ca.skid)
    number = 1 if latest is None else latest.number + 1
    revoked = [
        RevokedEntry(serial=int(row.serial, 16), at=row.at, reason=row.reason)
        for row in tx.revocations.of_issuer(ca.skid)
    ]
    if latest is not None and not _listed(ca, latest.der) <= {entry.serial for entry in revoked}:
        # Somebody has taken a revocation out of the database. To sign the list would make that come true.
        raise Unavailable(
            "the next revocation list would drop what the last one names",
            code="log",
            remedy="Run `vtpm-ca audit verify`. Bring back what is gone with `vtpm-ca db restore`.",
        )
    der = build_crl(ca, revoked, number, at, at + lifetime)
    row = CrlRow(ca.skid, number, at, at + lifetime, der)
    tx.crls.add(row)
    return row


def _listed(ca: IssuingCa, der: bytes) -> set[int]:
    """Serials on the CRL of this issuer; raises `Unavailable` if it is none."""
    key = ca.certificate.public_key()
    try:
        crl = x509.load_der_x509_crl(der)
        if crl.is_signature_valid(key):  # type: ignore[arg-type] # an issuer's key is one that signs
            return {entry.serial_number for entry in crl}
    except ValueError:
        pass
    raise Unavailable(
        "the last revocation list in the database is not one that its issuing CA has signed",
        code="log",
        remedy="Run `vtpm-ca audit verify`. Bring back what is gone with `vtpm-ca db restore`.",
    )


def publish_all(store: Store, authority: Authority, at: datetime, limits: Limits) -> list[CrlRow]:
    """Make the next CRL of every issuing CA."""
    with store.write() as tx:
        return publish(tx, authority, [ca.skid for ca in authority.issuers], at, limits)


def _is_due(row: CrlRow | None, at: datetime) -> bool:
    return (
        row is None or at < row.this_update or at - row.this_update > (row.next_update - row.this_update) / 2
    )


def publish_due(store: Store, authority: Authority, at: datetime, limits: Limits) -> list[CrlRow]:
    """Make the next CRL of those issuing CAs that have none, or whose last one is past half of its life.

    An issuing CA whose key cannot be used does not keep the others from theirs.

    Raises:
        Unavailable: the key of one cannot be used, and all others have their lists; or the database cannot be used.
    """
    with store.read() as tx:
        due = [ca.skid for ca in authority.issuers if _is_due(tx.crls.latest(ca.skid), at)]
    if not due:
        return []
    with store.write() as tx:
        # Another process may have been faster.
        due = [skid for skid in due if _is_due(tx.crls.latest(skid), at)]
        made, failures = list[CrlRow](), list[VtpmCaError]()
        for skid in due:
            try:
                made += publish(tx, authority, [skid], at, limits)
            except VtpmCaError as error:
                # It was to be signed before anything is written. What the database refuses ends the whole transaction.
                failures.append(error)
    if failures:
        raise failures[0]
    return made


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
        if tx.revocations.add(RevocationRow(row.issuer, row.serial, at, reason, cause)):
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
