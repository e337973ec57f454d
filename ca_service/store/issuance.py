"""Intents and certificates: what was about to be signed, and what was."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, ClassVar

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import PAGE, Repository
from ca_service.store.rows import CertificateRow, CertificateState, IntentRow, IntentState


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
        return self._one(IntentRow, sa.select(schema.intents).where(schema.intents.c.id == intent_id))

    def open(self) -> list[IntentRow]:
        """All intents that are neither issued nor abandoned."""
        table = schema.intents
        return self._all(
            IntentRow, sa.select(table).where(table.c.state == IntentState.OPEN).order_by(table.c.id)
        )

    def open_of(self, enrollment_id: str) -> list[IntentRow]:
        """The open intent of an enrolment, if it has one."""
        table = schema.intents
        condition = sa.and_(table.c.enrollment_id == enrollment_id, table.c.state == IntentState.OPEN)
        return self._all(IntentRow, sa.select(table).where(condition))

    def close(self, intent_id: str, state: IntentState, at: datetime) -> bool:
        """End an open intent; says whether it was still open."""
        table = schema.intents
        condition = sa.and_(table.c.id == intent_id, table.c.state == IntentState.OPEN)
        return self._update(table, condition, state=state, closed_at=at) == 1


class Certificates(Repository):
    """Certificates from the intent on."""

    enums: ClassVar[Mapping[str, Any]] = {"state": CertificateState}

    def add(self, row: CertificateRow) -> None:
        """Reserve the serial and keep the bytes to be signed; the database refuses a second live one."""
        self._insert(schema.certificates, row)

    def supersede(self, serial: str) -> None:
        """A certificate gives its place to the one that is intended now; it stays good until its end."""
        table = schema.certificates
        condition = sa.and_(table.c.serial == serial, table.c.state == CertificateState.ISSUED)
        self._update(table, condition, state=CertificateState.SUPERSEDED, live=None)

    def reinstate(self, serial: str, live: str) -> None:
        """The one that was to take its place will never be: a certificate is the live one again."""
        table = schema.certificates
        condition = sa.and_(table.c.serial == serial, table.c.state == CertificateState.SUPERSEDED)
        self._update(table, condition, state=CertificateState.ISSUED, live=live)

    def get(self, serial: str) -> CertificateRow | None:
        """The certificate with this serial number (hex)."""
        table = schema.certificates
        return self._one(CertificateRow, sa.select(table).where(table.c.serial == serial))

    def of_intent(self, intent_id: str) -> list[CertificateRow]:
        """All certificates of an intent."""
        table = schema.certificates
        return self._all(CertificateRow, sa.select(table).where(table.c.intent_id == intent_id))

    def of_tpm(self, tpm_id: int) -> list[CertificateRow]:
        """All certificates that were intended for a TPM during this life in its instance."""
        table = schema.certificates
        return self._all(CertificateRow, sa.select(table).where(table.c.tpm_id == tpm_id))

    def live(self, keys: Collection[str]) -> dict[str, CertificateRow]:
        """The intended or issued certificates among these `live_key` values."""
        table = schema.certificates
        rows = self._all(CertificateRow, sa.select(table).where(table.c.live.in_(keys)))
        return {row.live: row for row in rows if row.live is not None}

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

    def issued(self, serial: str, der: bytes, at: datetime) -> bool:
        """Store the signed certificate; says whether it was still intended."""
        table = schema.certificates
        condition = sa.and_(table.c.serial == serial, table.c.state == CertificateState.INTENDED)
        return self._update(table, condition, state=CertificateState.ISSUED, der=der, issued_at=at) == 1

    def end(self, serial: str, state: CertificateState) -> None:
        """A certificate is live no more: revoked or abandoned."""
        self._update(schema.certificates, schema.certificates.c.serial == serial, state=state, live=None)
