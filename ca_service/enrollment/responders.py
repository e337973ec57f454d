"""Certificates for the CA's own OCSP responders, in the same order of writes as every other: intent, signature, issue.

Each issuing CA has one at a time, for all processes and nodes; its successor comes at half of its life.
"""

from datetime import datetime, timedelta

from ca_service.audit import responder_leaf
from ca_service.enrollment.desk import Desk
from ca_service.enrollment.publishing import publish
from ca_service.judgment import VtpmCaError
from ca_service.keys import IssuingCa, sign_certificate
from ca_service.logger import logger
from ca_service.profiles import OCSP_LIMIT, Validity, draft_ocsp, lint, serial_hex
from ca_service.status import responder_key
from ca_service.store import CertificateState, IssuerState, ResponderRow, RevocationRow, Transaction

OPEN_FOR = timedelta(minutes=10)
"""To sign takes less than a second: a process that has not done it after that time is dead."""


def ensure_responders(desk: Desk) -> list[str]:
    """See that each issuing CA has a responder's certificate that holds for some days yet; returns the new serials.

    An issuing CA whose key cannot be used keeps no other from its certificate, and nobody from enrolling: it is tried
    again the next time.

    Raises:
        Unavailable: the database cannot be used.
    """
    at, made = desk.now(), []
    with desk.store.read() as tx:
        due = [ca for ca in _signing(desk, tx, at) if _wants(tx, ca, at)]
    for ca in due:
        try:
            serial = _issue(desk, ca, at)
        except VtpmCaError as error:
            logger(__name__).warning(
                "an OCSP responder gets no certificate", issuer=ca.skid, reason=error.detail
            )
            continue
        if serial:
            made.append(serial)
    return made


def _signing(desk: Desk, tx: Transaction, at: datetime) -> list[IssuingCa]:
    """The issuing CAs that may sign and whose keys this node has; whoever is retired signs nothing any more."""
    states = tx.issuers.states()
    return [
        ca
        for ca in desk.authority.issuers
        if states.get(ca.skid, IssuerState.RETIRED) is not IssuerState.RETIRED
        and ca.info.validity.not_before <= at < ca.info.validity.not_after
    ]


def _wants(tx: Transaction, ca: IssuingCa, at: datetime) -> bool:
    # A clock that was put back makes one of the future useless, however long it will hold.
    issued = [
        row for row in tx.responders.of_issuer(ca.skid, CertificateState.ISSUED) if row.created_at <= at
    ]
    waiting = any(_is_dead(row, at) for row in tx.responders.of_issuer(ca.skid, CertificateState.INTENDED))
    end = issued[0].not_after if issued else None
    return waiting or end is None or (end - at < OCSP_LIMIT / 2 and end < ca.info.validity.not_after)


def _is_dead(row: ResponderRow, at: datetime) -> bool:
    return abs(at - row.created_at) > OPEN_FOR


def _issue(desk: Desk, ca: IssuingCa, at: datetime) -> str:
    """Make one certificate; empty if another process does."""
    serial = desk.authority.new_serial(desk.entropy)
    name = serial_hex(serial)
    key = responder_key(desk.authority, ca.skid, name)
    validity = Validity.bounded(at, OCSP_LIMIT.days, ca.info.validity.not_after)
    draft = draft_ocsp(public_key=key.public_key(), serial=serial, validity=validity, issuer=ca.info)
    token = lint(draft, ca.info)
    with desk.store.write() as tx:
        _abandon_dead(desk, tx, ca, at)
        if tx.responders.of_issuer(ca.skid, CertificateState.INTENDED) or not _wants(tx, ca, at):
            return ""
        row = ResponderRow(
            serial=name,
            issuer=ca.skid,
            state=CertificateState.INTENDED,
            tbs=draft.tbs,
            der=None,
            created_at=at,
            issued_at=None,
            not_after=validity.not_after,
            shard=ca.info.shard_of(serial),
        )
        tx.responders.add(row)
    desk.faults("before signing ocsp")
    der = sign_certificate(draft.tbs, token, ca.signer, ca.certificate)
    desk.faults("after signing ocsp")
    with desk.store.write() as tx:
        if not tx.responders.issue(name, der, at):
            return ""
        desk.log.add(tx, [responder_leaf(serial=name, issuer=ca.skid, der=der, at=at)], at)
    return name


def _abandon_dead(desk: Desk, tx: Transaction, ca: IssuingCa, at: datetime) -> None:
    """Whether a dead process has signed, nobody knows: the serial counts as revoked for good."""
    for row in tx.responders.of_issuer(ca.skid, CertificateState.INTENDED):
        if _is_dead(row, at) and tx.responders.abandon(row.serial):
            cause = "the issuance was abandoned"
            tx.revocations.add(RevocationRow(ca.skid, row.serial, at, "unspecified", cause, row.shard))
    if any(skid == ca.skid for skid, _ in tx.revocations.touched):
        publish(tx, desk.authority, [ca.skid], at, desk.limits)
