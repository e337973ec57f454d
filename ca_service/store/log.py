"""The tables of the Merkle log; what they mean, `ca_service.audit` knows."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import Repository
from ca_service.store.rows import DecisionRow, HeadRow, LeafRow

_HEAD = 1
_PLACES = 200
"""Most places in one query: SQLite bounds the depth of an expression at 1,000."""


@dataclass(frozen=True)
class LoggedCertificate:
    """What the log says of a certificate, as the tables of issuance have it."""

    serial: str
    issuer: str
    profile: str
    key_name: str
    der: bytes = field(repr=False)
    decision_id: str
    issued_at: datetime


class LogTables(Repository):
    """Leaves, hashes of complete subtrees, and the head. Nothing here is ever changed but the head."""

    def head(self, *, lock: bool = False) -> HeadRow | None:
        """The log's present state; with `lock`, no other transaction appends until this one ends."""
        query = sa.select(schema.log_head).where(schema.log_head.c.id == _HEAD)
        return self._one(HeadRow, query.with_for_update() if lock else query)

    def set_head(self, row: HeadRow, *, first: bool) -> None:
        """Store the new state."""
        values = {"size": row.size, "frontier": row.frontier, "checkpoint": row.checkpoint, "at": row.at}
        table = schema.log_head
        if first:
            self._connection.execute(table.insert().values(id=_HEAD, **values))
        else:
            self._update(table, table.c.id == _HEAD, **values)

    def add_leaves(self, rows: Iterable[LeafRow]) -> None:
        """Append leaves; the database refuses a position, or a subject of one kind, twice."""
        values = [
            {"position": row.position, "kind": row.kind, "subject": row.subject, "data": row.data}
            for row in rows
        ]
        if values:
            self._connection.execute(schema.log_leaves.insert(), values)

    def add_nodes(self, nodes: Iterable[tuple[int, int, bytes]]) -> None:
        """Store hashes: (level, position within the level, hash)."""
        values = [{"level": level, "position": position, "hash": hash_} for level, position, hash_ in nodes]
        if values:
            self._connection.execute(schema.log_nodes.insert(), values)

    def nodes(self, places: Collection[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """The hashes at these (level, position); a place without one is left out."""
        table, found, wanted = schema.log_nodes, dict[tuple[int, int], bytes](), sorted(places)
        for start in range(0, len(wanted), _PLACES):
            by_level = dict[int, list[int]]()
            for level, position in wanted[start : start + _PLACES]:
                by_level.setdefault(level, []).append(position)
            condition = sa.or_(
                *(
                    sa.and_(table.c.level == level, table.c.position.in_(positions))
                    for level, positions in by_level.items()
                )
            )
            rows = self._connection.execute(sa.select(table).where(condition))
            found |= {(row.level, row.position): bytes(row.hash) for row in rows}
        return found

    def nodes_between(self, bounds: Collection[tuple[int, int, int]]) -> dict[tuple[int, int], bytes]:
        """The hashes of each (level, first position, end position), the end left out."""
        table = schema.log_nodes
        if not bounds:
            return {}
        condition = sa.or_(
            *(
                sa.and_(table.c.level == level, table.c.position >= first, table.c.position < end)
                for level, first, end in bounds
            )
        )
        rows = self._connection.execute(sa.select(table).where(condition))
        return {(row.level, row.position): bytes(row.hash) for row in rows}

    def count_nodes(self) -> int:
        """How many hashes are stored."""
        return self._connection.execute(sa.select(sa.func.count()).select_from(schema.log_nodes)).scalar_one()

    def length(self) -> int:
        """One more than the last leaf's position; 0 for none."""
        last = self._connection.execute(sa.select(sa.func.max(schema.log_leaves.c.position))).scalar()
        return 0 if last is None else int(last) + 1

    def about(self, subjects: Collection[tuple[str, str]]) -> dict[tuple[str, str], LeafRow]:
        """The leaves about these (kind, subject)."""
        table, by_kind = schema.log_leaves, dict[str, list[str]]()
        for kind, subject in subjects:
            by_kind.setdefault(kind, []).append(subject)
        if not by_kind:
            return {}
        condition = sa.or_(
            *(sa.and_(table.c.kind == kind, table.c.subject.in_(names)) for kind, names in by_kind.items())
        )
        rows = self._all(LeafRow, sa.select(table).where(condition))
        return {(row.kind, row.subject): row for row in rows}

    def leaf(self, kind: str, subject: str) -> LeafRow | None:
        """The leaf about this subject."""
        return self.about([(kind, subject)]).get((kind, subject))

    def leaves(self, first: int, count: int) -> list[LeafRow]:
        """Leaves in their order, from position `first` on."""
        table = schema.log_leaves
        query = sa.select(table).where(table.c.position >= first, table.c.position < first + count)
        return self._all(LeafRow, query.order_by(table.c.position))

    def decisions(self, ids: Collection[str]) -> dict[str, DecisionRow]:
        """The decisions with these ids."""
        table = schema.decisions
        rows = self._all(DecisionRow, sa.select(table).where(table.c.id.in_(ids)))
        return {row.id: row for row in rows}

    def certificates(self, serials: Collection[str]) -> dict[str, LoggedCertificate]:
        """The issued certificates with these serials."""
        rows = self._all(LoggedCertificate, _certificates().where(schema.certificates.c.serial.in_(serials)))
        return {row.serial: row for row in rows}

    def unlogged_decisions(self, after: tuple[datetime, str] | None, count: int) -> list[DecisionRow]:
        """Decisions without a leaf in order of (time, id), those after `after` and at most `count`."""
        table = schema.decisions
        query = sa.select(table).where(_no_leaf("decision", table.c.id))
        return self._all(DecisionRow, _page(query, table.c.at, table.c.id, after, count))

    def unlogged_certificates(
        self, after: tuple[datetime, str] | None, count: int
    ) -> list[LoggedCertificate]:
        """Issued certificates without a leaf in order of (time, serial), those after `after` and at most `count`."""
        table = schema.certificates
        query = _certificates().where(_no_leaf("certificate", table.c.serial))
        return self._all(LoggedCertificate, _page(query, table.c.issued_at, table.c.serial, after, count))


def _certificates() -> "sa.Select[tuple[object, ...]]":
    table, intents = schema.certificates, schema.intents
    return (
        sa.select(
            table.c.serial,
            table.c.issuer,
            table.c.profile,
            table.c.key_name,
            table.c.der,
            intents.c.decision_id,
            table.c.issued_at,
        )
        .join(intents, intents.c.id == table.c.intent_id)
        .where(table.c.der.is_not(None))
    )


def _no_leaf(kind: str, subject: "sa.Column[str]") -> "sa.ColumnElement[bool]":
    leaves = schema.log_leaves
    return ~sa.exists().where(leaves.c.kind == kind, leaves.c.subject == subject)


def _page(
    query: "sa.Select[tuple[object, ...]]",
    at: "sa.Column[datetime]",
    key: "sa.Column[str]",
    after: tuple[datetime, str] | None,
    count: int,
) -> "sa.Select[tuple[object, ...]]":
    if after is not None:
        query = query.where(sa.or_(at > after[0], sa.and_(at == after[0], key > after[1])))
    return query.order_by(at, key).limit(count)
