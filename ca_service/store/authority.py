"""Issuing CAs with their states, the database's epochs, and keys that get no certificate."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, ClassVar

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.issuance import OPEN
from ca_service.store.repository import Repository
from ca_service.store.rows import (
    BlockedKeyRow,
    CertificateState,
    EpochRow,
    IssuerRow,
    IssuerState,
    RestingRow,
)
from ca_service.store.statements import Statement

_CERTIFICATES = schema.certificates.c
_PRESENT_EPOCH = Statement(sa.select(schema.epochs).order_by(schema.epochs.c.number.desc()).limit(1))
_GOOD = (CertificateState.ISSUED, CertificateState.SUPERSEDED)
"""States of certificates that relying parties take."""


def active_key(role: str, pair: str) -> str:
    """What the unique column `active` holds while an issuer signs for this role and pair."""
    return f"{role}:{pair}"


class Issuers(Repository):
    """Issuing CAs; the database lets one be active per role and pair."""

    enums: ClassVar[Mapping[str, Any]] = {"state": IssuerState}

    def all(self) -> list[IssuerRow]:
        """All of them, oldest first."""
        table = schema.issuers
        return self._all(IssuerRow, sa.select(table).order_by(table.c.added_at, table.c.skid))

    def get(self, skid: str) -> IssuerRow | None:
        """The issuer with this subject key id (hex)."""
        return self._get(IssuerRow, schema.issuers, skid=skid)

    def active(self) -> dict[str, str]:
        """Subject key id of the issuer that signs, by `active_key`."""
        table = schema.issuers
        query = sa.select(table.c.active, table.c.skid).where(table.c.active.is_not(None))
        return {row.active: row.skid for row in self._connection.execute(query)}

    def states(self) -> dict[str, IssuerState]:
        """State by subject key id, without the certificates."""
        query = sa.select(schema.issuers.c.skid, schema.issuers.c.state)
        return {row.skid: IssuerState(row.state) for row in self._connection.execute(query)}

    def live_counts(self, at: datetime) -> dict[str, int]:
        """How many live certificates rest on each issuer; those on which none does are left out.

        Live means issued or superseded, not revoked, and not expired at `at`.
        """
        query = (
            sa.select(_CERTIFICATES.issuer, sa.func.count()).where(_live(at)).group_by(_CERTIFICATES.issuer)
        )
        return {issuer: int(count) for issuer, count in self._connection.execute(query)}

    def resting(self, skids: Collection[str], at: datetime) -> list[RestingRow]:
        """The live certificates, as `live_counts` counts them, that rest on these issuers."""
        columns = [_CERTIFICATES[field.name] for field in fields(RestingRow)]
        query = sa.select(*columns).where(_CERTIFICATES.issuer.in_(skids), _live(at))
        rows = self._connection.execute(query.order_by(_CERTIFICATES.issuer, _CERTIFICATES.serial))
        return [
            RestingRow(**{**row._mapping, "state": CertificateState(row.state)})  # noqa: SLF001 - the documented name
            for row in rows
        ]

    def signing(self, skids: Collection[str]) -> bool:
        """Whether a certificate of one of these issuers is about to be signed."""
        # By the open intents, which are few: what is only intended stands in no index of its issuer.
        query = (
            sa.select(_CERTIFICATES.serial)
            .join_from(schema.intents, schema.certificates, _CERTIFICATES.tpm_id == schema.intents.c.tpm_id)
            .where(
                OPEN,
                _CERTIFICATES.issuer.in_(skids),
                _CERTIFICATES.state == CertificateState.INTENDED,
            )
        )
        return self._connection.execute(query.limit(1)).first() is not None

    def add(self, row: IssuerRow) -> None:
        """Make an issuer known."""
        self._insert(schema.issuers, row)

    def move(self, skid: str, state: IssuerState, at: datetime) -> None:
        """Change an issuer's state. To make one active, end the active one first: the database refuses a second."""
        row = self.get(skid)
        if row is None:
            return
        active = active_key(row.role, row.pair) if state is IssuerState.ACTIVE else None
        self._update(schema.issuers, {"skid": skid}, state=state, active=active, changed_at=at)


def _live(at: datetime) -> "sa.ColumnElement[bool]":
    # Earlier releases did not record the end; what has none on record counts as live.
    unexpired = sa.or_(_CERTIFICATES.not_after.is_(None), _CERTIFICATES.not_after >= at)
    return sa.and_(_CERTIFICATES.state.in_(_GOOD), unexpired, schema.SETTLED)


class Epochs(Repository):
    """Ages of the database between two restores."""

    def current(self) -> EpochRow | None:
        """The present epoch; None in a database that no CA has opened yet."""
        return self._one(EpochRow, _PRESENT_EPOCH)

    def all(self) -> list[EpochRow]:
        """All of them, oldest first."""
        return self._all(EpochRow, sa.select(schema.epochs).order_by(schema.epochs.c.number))

    def begin(self, row: EpochRow) -> None:
        """Begin an epoch; the database refuses a number twice."""
        self._insert(schema.epochs, row)


class BlockedKeys(Repository):
    """Keys that get no certificate."""

    def all(self) -> list[BlockedKeyRow]:
        """All of them."""
        return self._all(BlockedKeyRow, sa.select(schema.blocked_keys).order_by(schema.blocked_keys.c.spki))

    def among(self, digests: Collection[str]) -> set[str]:
        """Those of the SHA-256 digests (hex) that are blocked."""
        table = schema.blocked_keys
        return set(
            self._connection.execute(sa.select(table.c.spki).where(table.c.spki.in_(digests))).scalars()
        )

    def add(self, row: BlockedKeyRow) -> None:
        """Block a key; the database refuses one twice."""
        self._insert(schema.blocked_keys, row)

    def remove(self, spki: str) -> bool:
        """Let a key have certificates again; says whether it was blocked."""
        table = schema.blocked_keys
        return self._connection.execute(table.delete().where(table.c.spki == spki)).rowcount == 1


def spki_digest(spki: bytes) -> str:
    """How a key is named in the block list: SHA-256 over its DER SubjectPublicKeyInfo, hex."""
    return hashlib.sha256(spki).hexdigest()
