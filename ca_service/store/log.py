"""The tables of the Merkle log, as whoever appends to it needs them; what they mean, `ca_service.audit` knows."""

import functools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import Repository
from ca_service.store.rows import DecisionRow, HeadRow, LeafRow
from ca_service.store.statements import Statement, one_of, places

_HEAD = 1
PAGE = 1000
"""How many rows are fetched at once of an answer that may be long."""

_PLACES = (16, 64, 256)
"""How many places a query of hashes has: few sizes, so that each is compiled once."""

_HASH = 32
"""Bytes of a hash of the tree."""

_EPOCH = sa.select(
    sa.func.coalesce(sa.func.max(schema.epochs.c.number), sa.literal_column("0"))
).scalar_subquery()
_HEAD_AND_EPOCH = sa.select(schema.log_head, _EPOCH.label("epoch")).where(schema.log_head.c.id == _HEAD)
_READ_HEAD = Statement(_HEAD_AND_EPOCH)
_LOCK_HEAD = Statement(_HEAD_AND_EPOCH.with_for_update(of=schema.log_head))

_SET_HEAD = Statement(
    schema.log_head.update().where(schema.log_head.c.id == sa.literal_column(str(_HEAD))),
    ("size", "frontier", "checkpoint", "at"),
)

_SUBJECTS = 8
"""Leaves in one query about them; a TPM has fewer certificates."""

_LEAVES_ABOUT = Statement(
    sa.select(schema.log_leaves).where(
        schema.log_leaves.c.kind == sa.bindparam("of_kind"),
        schema.log_leaves.c.subject.in_([sa.bindparam(f"subject{i}") for i in range(_SUBJECTS)]),
    )
)


@functools.cache
def _hashes_at(count: int) -> Statement:
    """The hashes beside so many leaves."""
    leaves = schema.log_leaves.c
    return Statement(
        sa.select(leaves.position, leaves.hashes).where(one_of(leaves.position, "position", count))
    )


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
    """Leaves with the hashes of the subtrees that they complete, and the head. Only the head is ever changed."""

    def head(self, *, lock: bool = False) -> HeadRow | None:
        """The log's present state; with `lock`, no other transaction appends until this one ends."""
        return self._one(HeadRow, _LOCK_HEAD if lock else _READ_HEAD)

    def set_head(self, row: HeadRow, *, first: bool) -> None:
        """Store the new state."""
        if first:
            values = {"size": row.size, "frontier": row.frontier, "checkpoint": row.checkpoint, "at": row.at}
            self._insert_all(schema.log_head, [{"id": _HEAD, **values}])
        else:
            self._session.run(_SET_HEAD, vars(row))

    def add_leaves(self, rows: Iterable[LeafRow]) -> None:
        """Append leaves; the database refuses a position, or a subject of one kind, twice."""
        self._insert_all(schema.log_leaves, [vars(row) for row in rows])

    def nodes(self, wanted: Collection[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """The hashes of complete subtrees at these (level, position in the level); one that is missing is left out."""
        last = {(level, position): ((position + 1) << level) - 1 for level, position in wanted}
        beside, found = self.hashes(set(last.values())), dict[tuple[int, int], bytes]()
        for (level, position), leaf in last.items():
            hash_ = beside.get(leaf, b"")[_HASH * level : _HASH * (level + 1)]
            if len(hash_) == _HASH:
                found[level, position] = hash_
        return found

    def hashes(self, positions: Collection[int]) -> dict[int, bytes]:
        """The hashes beside the leaves at these positions; raises TypeError where there stands what is none."""
        found, wanted = dict[int, bytes](), sorted(positions)
        for start in range(0, len(wanted), _PLACES[-1]):
            some = wanted[start : start + _PLACES[-1]]
            size = next(size for size in _PLACES if size >= len(some))
            rows = self._session.rows(_hashes_at(size), places("position", some, size))[1]
            found |= {position: octets(hashes) for position, hashes in rows}
        return found

    def length(self) -> int:
        """One more than the last leaf's position; 0 for none."""
        last = self._connection.execute(sa.select(sa.func.max(schema.log_leaves.c.position))).scalar()
        return 0 if last is None else int(last) + 1

    def about(self, subjects: Collection[tuple[str, str]]) -> dict[tuple[str, str], LeafRow]:
        """The leaves about these (kind, subject)."""
        by_kind = dict[str, list[str]]()
        for kind, subject in subjects:
            by_kind.setdefault(kind, []).append(subject)
        found = dict[tuple[str, str], LeafRow]()
        for kind, names in by_kind.items():
            for start in range(0, len(names), _SUBJECTS):
                some = names[start : start + _SUBJECTS]
                # A place too many asks for the first one again.
                some += some[:1] * (_SUBJECTS - len(some))
                values = {"of_kind": kind, **{f"subject{i}": name for i, name in enumerate(some)}}
                found |= {(row.kind, row.subject): row for row in self._all(LeafRow, _LEAVES_ABOUT, values)}
        return found

    def leaf(self, kind: str, subject: str) -> LeafRow | None:
        """The leaf about this subject."""
        return self.about([(kind, subject)]).get((kind, subject))

    def decisions(self, ids: Collection[str]) -> dict[str, DecisionRow]:
        """The decisions with these ids."""
        table = schema.decisions
        rows = self._all(DecisionRow, sa.select(table).where(table.c.id.in_(ids)))
        return {row.id: row for row in rows}

    def certificates(self, serials: Collection[str]) -> dict[str, LoggedCertificate]:
        """The issued certificates with these serials."""
        rows = self._all(LoggedCertificate, _certificates().where(schema.certificates.c.serial.in_(serials)))
        return {row.serial: row for row in rows}

    def lacks_an_end(self) -> bool:
        """Whether the first or the last decision has no leaf: cheap, and what a log that was begun late shows."""
        table = schema.decisions
        ends = [
            self._connection.execute(sa.select(table.c.id).order_by(*order).limit(1)).scalar()
            for order in ((table.c.at, table.c.id), (table.c.at.desc(), table.c.id.desc()))
        ]
        return any(end is not None and self.leaf("decision", end) is None for end in ends)

    def unlogged_decisions(self) -> Iterator[tuple[datetime, str]]:
        """Time and id of the decisions without a leaf, in that order, as they are read."""
        table = schema.decisions
        return self._keys(table.c.at, table.c.id, no_leaf("decision", table.c.id))

    def unlogged_certificates(self) -> Iterator[tuple[datetime, str]]:
        """Time and serial of the issued certificates without a leaf, in that order, as they are read."""
        table = schema.certificates
        condition = sa.and_(table.c.der.is_not(None), no_leaf("certificate", table.c.serial))
        return self._keys(table.c.issued_at, table.c.serial, condition)

    def _keys(
        self, at: "sa.Column[datetime]", key: "sa.Column[str]", condition: "sa.ColumnElement[bool]"
    ) -> Iterator[tuple[datetime, str]]:
        # One statement that is read bit by bit: pages would sort the whole table again for each of them.
        query = sa.select(at, key).where(condition).order_by(at, key).execution_options(yield_per=PAGE)
        for row in self._connection.execute(query):
            yield row[0], row[1]


def octets(value: object) -> bytes:
    """What stands in a column of bytes. SQLite may hold a number there, of which `bytes` would make as many zeros."""
    if not isinstance(value, bytes | memoryview):
        raise TypeError("the column holds no bytes")
    return bytes(value)


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


def no_leaf(kind: str, subject: "sa.Column[str]") -> "sa.ColumnElement[bool]":
    """Whether there is no leaf of this kind about a subject."""
    leaves = schema.log_leaves
    return ~sa.exists().where(leaves.c.kind == kind, leaves.c.subject == subject)
