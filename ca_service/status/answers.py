"""What the CA answers an OCSP request, from its database as it is at this moment.

A serial number that the CA never gave out is *unknown* (RFC 6960, section 2.2), as is every certificate of another
issuer: to call it revoked, which the RFC allows too, would say that the CA has refused something of which it knows
nothing. What was reserved and never issued stands on a revocation list, and is revoked here as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from cryptography import x509

from ca_service.judgment import NotFound, Unavailable
from ca_service.keys import Authority
from ca_service.profiles import serial_hex
from ca_service.status.ocsp import Answer, CertId, OcspRequest, build_response
from ca_service.status.responder import responder_key
from ca_service.store import CertificateState, IssuerRow, ResponderRow, Transaction

LIFE: Final = timedelta(hours=1)
"""From thisUpdate to nextUpdate of an answer."""


@dataclass(frozen=True)
class Reply:
    """An answer to a request.

    Attributes:
        der: the OCSPResponse.
        this_update: when it was looked up.
        next_update: until when it may be gone by.
        lasting: whether it is of use to others: it repeats no nonce, and all that was asked about is known.
    """

    der: bytes = field(repr=False)
    this_update: datetime
    next_update: datetime
    lasting: bool


def reply_to(
    tx: Transaction, authority: Authority, request: OcspRequest, at: datetime, skid: str | None = None
) -> Reply:
    """Answer a request.

    Args:
        tx: any transaction.
        authority: the CA.
        request: what is asked. The first CertID that names an issuing CA of this CA says who answers, and what is
            asked about certificates of others is answered by *unknown*.
        at: now.
        skid: subject key id (hex) of the one issuing CA about whose certificates may be asked; None for any.

    Raises:
        NotFound: nothing is asked about certificates of that issuing CA, or of any of this CA.
        Unavailable: its responder has no certificate that holds now.
    """
    issuer, certificate = _asked(tx.issuers.all(), request, skid)
    responder = _responder(tx, issuer.skid, at)
    ours = [one for one in request.cert_ids if one.names(certificate)]
    found = _look_up(tx, issuer.skid, ours)
    answers = [found.get(one.der, Answer(one, known=False)) for one in request.cert_ids]
    end = min(at + LIFE, responder.not_after)
    der = build_response(
        answers,
        certificate=responder.der or b"",
        key=responder_key(authority, responder.issuer, responder.serial),
        this_update=at,
        next_update=end,
        nonce=request.nonce,
    )
    return Reply(der, at, end, request.nonce is None and all(answer.known for answer in answers))


def _asked(
    rows: Sequence[IssuerRow], request: OcspRequest, skid: str | None
) -> tuple[IssuerRow, x509.Certificate]:
    candidates = [(row, _loaded(row.certificate)) for row in rows if skid in (None, row.skid)]
    for cert_id in request.cert_ids:
        for row, certificate in candidates:
            if cert_id.names(certificate):
                return row, certificate
    raise NotFound("nothing is asked about certificates of this CA")


@lru_cache(maxsize=64)
def _loaded(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def _responder(tx: Transaction, skid: str, at: datetime) -> ResponderRow:
    """The one whose certificate is the newest of those that hold."""
    for row in tx.responders.of_issuer(skid, CertificateState.ISSUED):
        if row.created_at <= at < row.not_after:
            return row
    raise Unavailable("the responder of this issuing CA has no certificate yet")


def _look_up(tx: Transaction, skid: str, cert_ids: Sequence[CertId]) -> dict[bytes, Answer]:
    serials = {one.der: _serial_text(one.serial) for one in cert_ids}
    wanted = sorted(set(serials.values()) - {""})
    revoked, issued = tx.revocations.among(skid, wanted), tx.responders.issued_among(skid, wanted)
    answers = {}
    for one in cert_ids:
        serial = serials[one.der]
        row = revoked.get(serial)
        if row is not None:
            answers[one.der] = Answer(one, known=True, revoked_at=row.at, reason=row.reason)
        else:
            answers[one.der] = Answer(one, known=serial in issued)
    return answers


def _serial_text(serial: int) -> str:
    """As the database has it; empty for a number that no certificate of this CA has."""
    try:
        return serial_hex(serial)
    except OverflowError:
        return ""
