"""Intents and certificates: what was about to be signed, and what was."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, ClassVar

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import PAGE, Repository
from ca_service.store.rows import CertificateRow, CertificateState, IntentRow, IntentState
from ca_service.store.statements import Statement

_INTENTS, _CERTIFICATES = schema.intents.c, schema.certificates.c
OPEN = _INTENTS.state == schema.literally(IntentState.OPEN.value)
"""Whether an intent is open, in the words by which the index of the open ones is found."""

_OPEN_OF = Statement(
    sa.select(schema.intents).where(_INTENTS.enrollment_id == sa.bindparam("enrollment_id"), OPEN)
)
# By its TPM, which has a few: no index knows certificates by their intents.
_OF_INTENT = Statement(
    sa.select(schema.certificates)
    .join_from(schema.intents, schema.certificates, _CERTIFICATES.tpm_id == _INTENTS.tpm_id)
    .where(_INTENTS.id == sa.bindparam("intent_id"), _CERTIFICATES.intent_id == _INTENTS.id)
)
# What was to be signed makes room for what was.
_ISSUE = Statement(
    schema.certificates.update()
    .where(
        _CERTIFICATES.serial == sa.bindparam("this"),
        _CERTIFICATES.state == schema.literally(CertificateState.INTENDED.value),
    )
    .values(
        state=schema.literally(CertificateState.ISSUED.value),
        tbs=sa.bindparam("nothing"),
        der=sa.bindparam("signed"),
        issued_at=sa.bindparam("now"),
    )
)


def live_key(profile: str, key_name: str) -> str:
    """What the unique column `live` holds while a certificate of this profile and key is live."""
    return f"{profile}:{key_name}"


class Intents(Repository):
    """Durable promises to sign."""

    enums: ClassVar[Mapping[str, Any]] = {"state": IntentState}

    def add(self, row: IntentRow) -> None:
        """Record an intent."""
        self._insert(schema.intents, row)

    def get(self, intent_id: str) -> IntentRow | None:
        """The intent with this id."""
        return self._get(IntentRow, schema.intents, id=intent_id)

    def open(self) -> list[IntentRow]:
        """All intents that are neither issued nor abandoned, by id."""
        # Put in order here: to have them in order, SQLite would look at every intent that there ever was.
        return sorted(self._all(IntentRow, sa.select(schema.intents).where(OPEN)), key=attrgetter("id"))

    def open_of(self, enrollment_id: str) -> list[IntentRow]:
        """The open intent of an enrolment, if it has one."""
        return self._all(IntentRow, _OPEN_OF, {"enrollment_id": enrollment_id})

    def close(self, intent_id: str, state: IntentState, at: datetime) -> bool:
        """End an open intent; says whether it was still open."""
        this = {"id": intent_id, "state": IntentState.OPEN}
        return self._update(schema.intents, this, state=state, closed_at=at) == 1


class Certificates(Repository):
    """Certificates from the intent on."""

    enums: ClassVar[Mapping[str, Any]] = {"state": CertificateState}

    def add_all(self, rows: Sequence[CertificateRow]) -> None:
        """Reserve the serials and keep the bytes to be signed; the database refuses a second live one of a key."""
        self._insert_all(schema.certificates, [vars(row) for row in rows])

    def supersede(self, serial: str) -> None:
        """A certificate gives its place to the one that is intended now; it stays good until its end."""
        this = {"serial": serial, "state": CertificateState.ISSUED}
        self._update(schema.certificates, this, state=CertificateState.SUPERSEDED, live=None)

    def reinstate(self, serial: str, live: str) -> None:
        """The one that was to take its place will never be: a certificate is the live one again."""
        this = {"serial": serial, "state": CertificateState.SUPERSEDED}
        self._update(schema.certificates, this, state=CertificateState.ISSUED, live=live)

    def get(self, serial: str) -> CertificateRow | None:
        """The certificate with this serial number (hex)."""
        return self._get(CertificateRow, schema.certificates, serial=serial)

    def of_intent(self, intent_id: str) -> list[CertificateRow]:
        """All certificates of an intent."""
        return self._all(CertificateRow, _OF_INTENT, {"intent_id": intent_id})

    def of_tpm(self, tpm_id: int) -> list[CertificateRow]:
        """All certificates that were intended for a TPM during this life in its instance."""
        return self._find(CertificateRow, schema.certificates, tpm_id=tpm_id)

    def latest(self, limit: int = PAGE, *, state: CertificateState | None = None) -> list[CertificateRow]:
        """The newest certificates first, of one state or of all."""
        table = schema.certificates
        query = sa.select(table).order_by(table.c.issued_at.desc(), table.c.serial).limit(limit)
        return self._all(CertificateRow, query if state is None else query.where(table.c.state == state))

    def unrevoked_page(self, after: str, limit: int = PAGE) -> list[CertificateRow]:
        """The certificates whose serials follow `after`, in that order, without the revoked and abandoned ones."""
        table = schema.certificates
        good = (CertificateState.INTENDED, CertificateState.ISSUED, CertificateState.SUPERSEDED)
        condition = sa.and_(table.c.state.in_(good), table.c.serial > after)
        query = sa.select(table).where(condition).order_by(table.c.serial).limit(limit)
        return self._all(CertificateRow, query)

    def issued_all(self, ders: Mapping[str, bytes], at: datetime) -> bool:
        """Store the signed certificates by serial, in the place of what was to be signed.

        Returns:
            Whether all of them were still intended.
        """
        values = [{"this": serial, "nothing": b"", "signed": der, "now": at} for serial, der in ders.items()]
        return self._session.run_all(_ISSUE, values) == len(values)

    def end(self, serial: str, state: CertificateState) -> None:
        """A certificate is live no more: revoked or abandoned."""
        self._update(schema.certificates, {"serial": serial}, state=state, live=None)
