"""Revoking all that rests on a cause, a bounded number of certificates at a time.

Each step is one transaction: it finds what is left to be ended, ends it by whole TPMs, and publishes the lists. So
whenever a step is over, what it says is revoked is published, and to ask again goes on with the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ca_service.enrollment.limits import Limits
from ca_service.enrollment.publishing import publish
from ca_service.enrollment.revocation import give_up
from ca_service.keys import Authority
from ca_service.store import (
    Cause,
    CertificateState,
    EnrollmentState,
    HitRow,
    Store,
    Transaction,
)

MOST_AT_ONCE = 25_000
"""Certificates after which a step ends: while it lasts, nobody else writes."""

_TPMS = 500
"""Of how many TPMs the certificates are looked up at once."""


@dataclass(frozen=True)
class Grounds:
    """What is put on record with a revocation.

    Attributes:
        at: now.
        reason: as RFC 5280 section 5.3.1 names it.
        words: who wants it and why.
    """

    at: datetime
    reason: str
    words: str


@dataclass(frozen=True)
class Ended:
    """What one step ended.

    Attributes:
        rows: the certificates as they are now, by TPM.
        more: whether there is something left.
    """

    rows: tuple[HitRow, ...]
    more: bool


def revoke_by_cause(
    store: Store,
    authority: Authority,
    cause: Cause,
    grounds: Grounds,
    limits: Limits,
    most: int = MOST_AT_ONCE,
) -> Ended:
    """Revoke what a cause hits, and publish the CRLs; once, or again while there is `more`.

    The TPMs stay in their instances: a live one whose certificate is revoked gets none until `reset_instance`. An
    issuance that is under way is abandoned, and its enrolment has failed.

    Args:
        store: the CA's database.
        authority: whose keys sign the CRLs.
        cause: what is meant.
        grounds: for the record.
        limits: how long the CRLs hold.
        most: after how many certificates the step ends; the last TPM's are all ended, or none.

    Raises:
        Unavailable: a list cannot be signed, see `publish`; nothing of this step is done.
    """
    with store.write() as tx:
        rows, more = _some(tx, cause, grounds.at, most)
        touched, rows = _end_issuances(tx, cause, rows, grounds.at)
        good = [row for row in rows if row.state is not CertificateState.INTENDED]
        serials = [row.serial for row in good]
        tx.revocations.add_certificates(serials, grounds.at, grounds.reason, grounds.words)
        tx.causes.end(serials)
        publish(tx, authority, touched | {row.issuer for row in good}, grounds.at, limits)
    return Ended(tuple(_now(row) for row in rows), more)


def _end_issuances(
    tx: Transaction, cause: Cause, rows: list[HitRow], at: datetime
) -> tuple[set[str], list[HitRow]]:
    """Give up what is just being issued; returns the issuers that this touches, and what ends with this step."""
    intended = [row for row in rows if row.state is CertificateState.INTENDED]
    touched = set[str]()
    for intent_id in sorted({row.intent_id for row in intended}):
        intent = tx.intents.get(intent_id)
        if intent is not None:
            touched |= give_up(tx, intent, at, EnrollmentState.FAILED)
    known = {row.serial for row in rows}
    left = tx.causes.hits_of(cause, at, sorted({row.tpm_id for row in intended}))
    # What was to be replaced is the live one again. What could not be given up is not said to be.
    back = [row for row in left if row.serial not in known]
    still = {row.serial for row in left if row.state is CertificateState.INTENDED}
    return touched, [row for row in rows + back if row.serial not in still]


def _some(tx: Transaction, cause: Cause, at: datetime, most: int) -> tuple[list[HitRow], bool]:
    """The certificates of the next TPMs, and whether others are left."""
    tpm_ids, rows, taken = tx.causes.tpms(cause, at), list[HitRow](), 0
    while taken < len(tpm_ids) and len(rows) < most:
        rows += tx.causes.hits_of(cause, at, tpm_ids[taken : taken + _TPMS])
        taken += _TPMS
    whole = _whole_tpms(rows, most)
    return whole, taken < len(tpm_ids) or len(whole) < len(rows)


def _whole_tpms(rows: Sequence[HitRow], most: int) -> list[HitRow]:
    """The first `most` of the rows, which come by TPM, and what else belongs to the last TPM of them."""
    end = min(most, len(rows))
    while 0 < end < len(rows) and rows[end].tpm_id == rows[end - 1].tpm_id:
        end += 1
    return list(rows[:end])


def _now(row: HitRow) -> HitRow:
    intended = row.state is CertificateState.INTENDED
    state = CertificateState.ABANDONED if intended else CertificateState.REVOKED
    # What `dataclasses.replace` does, in a fifth of the time: there are many.
    return HitRow(**{**vars(row), "state": state})
