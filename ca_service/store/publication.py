"""Revoked serials and published CRLs."""

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import cached_property

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import Repository
from ca_service.store.rows import CertificateState, CrlRow, ListedRow, ListKey, ListTimes, RevocationRow
from ca_service.store.statements import Statement, one_of, places

_CERTIFICATES, _REVOCATIONS, _CRLS = schema.certificates.c, schema.revocations.c, schema.crls.c
_PLACES = 500
"""Most values in one query; databases bound how many parameters a statement has."""

_THESE = one_of(_CERTIFICATES.serial, "serial", _PLACES)
_OF_CERTIFICATES = Statement(
    schema.revocations.insert()
    .from_select(
        ["issuer", "serial", "at", "reason", "cause", "shard"],
        sa.select(
            _CERTIFICATES.issuer,
            _CERTIFICATES.serial,
            sa.bindparam("at", type_=schema.Instant),
            sa.bindparam("reason", type_=sa.String),
            sa.bindparam("cause", type_=sa.String),
            _CERTIFICATES.shard,
        ).where(
            _THESE,
            ~sa.exists().where(
                _REVOCATIONS.issuer == _CERTIFICATES.issuer, _REVOCATIONS.serial == _CERTIFICATES.serial
            ),
        ),
    )
    .returning(_REVOCATIONS.issuer, _REVOCATIONS.shard)
)

_OF_SHARD = sa.and_(
    _REVOCATIONS.issuer == sa.bindparam("issuer"), _REVOCATIONS.shard == sa.bindparam("shard")
)
# The times as the text that they are: many are the same, and each is read once.
_LISTED = Statement(
    sa.select(_REVOCATIONS.serial, sa.type_coerce(_REVOCATIONS.at, sa.String), _REVOCATIONS.reason).where(
        _OF_SHARD
    )
)
_EXPIRES = sa.and_(
    _CERTIFICATES.issuer == sa.bindparam("issuer"),
    sa.or_(
        _CERTIFICATES.state == CertificateState.REVOKED.value,
        _CERTIFICATES.state == CertificateState.ABANDONED.value,
    ),
    _CERTIFICATES.not_after < sa.bindparam("before"),
    schema.SETTLED,
)
_ANY_EXPIRED = Statement(sa.select(_CERTIFICATES.serial).where(_EXPIRES).limit(1))
_EXPIRED = Statement(
    sa.select(_CERTIFICATES.serial)
    .join(schema.revocations, _REVOCATIONS.serial == _CERTIFICATES.serial)
    .where(_OF_SHARD, _EXPIRES)
)
_NEWEST = (
    sa.select(_CRLS.issuer, _CRLS.shard, sa.func.max(_CRLS.number).label("number"))
    .where(_CRLS.issuer.in_(sa.bindparam("issuers", expanding=True)))
    .group_by(_CRLS.issuer, _CRLS.shard)
    .subquery()
)
_THE_NEWEST = sa.and_(
    _CRLS.issuer == _NEWEST.c.issuer, _CRLS.shard == _NEWEST.c.shard, _CRLS.number == _NEWEST.c.number
)
_IN_FORCE = sa.select(schema.crls).join(_NEWEST, _THE_NEWEST)
_TIMES = sa.select(_CRLS.issuer, _CRLS.shard, _CRLS.number, _CRLS.this_update, _CRLS.next_update).join_from(
    schema.crls, _NEWEST, _THE_NEWEST
)


class Revocations(Repository):
    """Serials on the CRLs. There is no way to take one off."""

    @cached_property
    def _touched(self) -> set[ListKey]:
        return set()

    @property
    def touched(self) -> frozenset[ListKey]:
        """The lists that changed within this transaction, since they were made last."""
        return frozenset(self._touched)

    def add(self, row: RevocationRow) -> bool:
        """Put a serial on its issuer's next CRL; says whether it was not there yet."""
        return bool(self.add_all([row]))

    def add_all(self, rows: Sequence[RevocationRow]) -> set[str]:
        """Put serials on the next CRLs of their issuers; returns those that were not there yet."""
        known, shards = set[tuple[str, str]](), dict[tuple[str, str], int]()
        wanted = {(row.issuer, row.serial): row for row in reversed(rows)}
        serials = sorted({serial for _, serial in wanted})
        for start in range(0, len(serials), _PLACES):
            some = serials[start : start + _PLACES]
            found = sa.select(_REVOCATIONS.issuer, _REVOCATIONS.serial).where(_REVOCATIONS.serial.in_(some))
            known |= {(row.issuer, row.serial) for row in self._connection.execute(found)}
            certificates = sa.select(_CERTIFICATES.issuer, _CERTIFICATES.serial, _CERTIFICATES.shard)
            for row in self._connection.execute(certificates.where(_CERTIFICATES.serial.in_(some))):
                shards[row.issuer, row.serial] = row.shard
        # A certificate's distribution point was settled when it was drafted, whatever a caller makes of it.
        new = [
            {**vars(row), "shard": shards.get(key, row.shard)}
            for key, row in wanted.items()
            if key not in known
        ]
        if new:
            self._connection.execute(schema.revocations.insert(), new)
        self._touched |= {(row["issuer"], row["shard"]) for row in new}
        return {row["serial"] for row in new}

    def add_certificates(self, serials: Sequence[str], at: datetime, reason: str, cause: str) -> None:
        """Put certificates of this CA by their serials on the next CRLs of their issuers, if they are not there yet.

        As `add_all`, for many that have everything but the serial in common: the database itself looks them up.
        """
        common = {"at": at, "reason": reason, "cause": cause}
        for start in range(0, len(serials), _PLACES):
            values = places("serial", serials[start : start + _PLACES], _PLACES) | common
            self._touched |= {
                (issuer, shard) for issuer, shard in self._session.rows(_OF_CERTIFICATES, values)[1]
            }

    def published(self, key: ListKey) -> None:
        """This list was made anew: until the next revocation it has not changed."""
        self._touched.discard(key)

    def get(self, issuer: str, serial: str) -> RevocationRow | None:
        """The revocation of one serial."""
        return self._get(RevocationRow, schema.revocations, issuer=issuer, serial=serial)

    def among(self, issuer: str, serials: Collection[str]) -> dict[str, RevocationRow]:
        """The revocations of those of the serials that are revoked; a few hundred serials at most."""
        table = schema.revocations
        query = sa.select(table).where(table.c.issuer == issuer, table.c.serial.in_(serials))
        return {row.serial: row for row in self._all(RevocationRow, query)}

    def of_issuer(self, issuer: str) -> list[RevocationRow]:
        """Everything that an issuer has revoked, by serial."""
        table = schema.revocations
        return self._all(
            RevocationRow, sa.select(table).where(table.c.issuer == issuer).order_by(table.c.serial)
        )

    def of_shard(self, issuer: str, shard: int) -> list[ListedRow]:
        """Everything that an issuer has revoked and whose certificates name this shard; in no order."""
        _, rows = self._session.rows(_LISTED, {"issuer": issuer, "shard": shard})
        times = {text: datetime.fromisoformat(text) for text in {row[1] for row in rows}}
        return [(serial, times[at], reason) for serial, at, reason in rows]

    def expired(self, issuer: str, shard: int, before: datetime) -> set[str]:
        """Those of `of_shard` whose certificates have been valid until a time before `before`, as their rows have it.

        A certificate that is neither revoked nor abandoned is not among them, whatever the list says of it.
        """
        values = {"issuer": issuer, "shard": shard, "before": before}
        if self._session.first(_ANY_EXPIRED, values) is None:
            # As with every issuing CA whose certificates do not expire: nobody looks at each.
            return set()
        return {row[0] for row in self._session.rows(_EXPIRED, values)[1]}

    def shards(self, issuer: str) -> set[int]:
        """The shards in which an issuer has revoked anything."""
        query = sa.select(_REVOCATIONS.shard).where(_REVOCATIONS.issuer == issuer).distinct()
        return set(self._connection.execute(query).scalars())


class Crls(Repository):
    """CRLs as they were published, byte for byte."""

    def latest(self, issuer: str, shard: int = 0) -> CrlRow | None:
        """The CRL in force of an issuer (subject key id in hex) for one shard."""
        table = schema.crls
        query = sa.select(table).where(table.c.issuer == issuer, table.c.shard == shard)
        return self._one(CrlRow, query.order_by(table.c.number.desc()).limit(1))

    def newest(self, issuers: Collection[str]) -> dict[ListKey, CrlRow]:
        """The CRLs in force of these issuers, of all their shards."""
        return {row.key: row for row in self._all(CrlRow, _IN_FORCE, {"issuers": sorted(issuers)})}

    def times(self, issuers: Collection[str]) -> dict[ListKey, ListTimes]:
        """When the CRLs in force of these issuers were made and end, without the lists, which may be long."""
        rows = self._connection.execute(_TIMES, {"issuers": sorted(issuers)})
        return {(row[0], row[1]): ListTimes(*row[2:]) for row in rows}

    def get(self, issuer: str, number: int, shard: int = 0) -> CrlRow | None:
        """An issuer's CRL of this number."""
        return self._get(CrlRow, schema.crls, issuer=issuer, number=number, shard=shard)

    def add(self, row: CrlRow) -> None:
        """Publish a CRL; the database refuses a number twice."""
        self._insert(schema.crls, row)
