"""The tables of the Merkle log; what they mean, `ca_service.audit` knows."""

import functools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, repeat

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import Repository
from ca_service.store.rows import CertificateRow, CertificateState, DecisionRow, HeadRow, LeafRow
from ca_service.store.statements import Statement

_HEAD = 1
_PAGE = 1000
_PLACES = (16, 64, 256)
"""How many places a query of nodes has: few sizes, so that each is compiled once."""

_EPOCH = sa.select(sa.func.coalesce(sa.func.max(schema.epochs.c.number), 0)).scalar_subquery()
_HEAD_AND_EPOCH = sa.select(schema.log_head, _EPOCH.label("epoch")).where(schema.log_head.c.id == _HEAD)
_READ_HEAD = Statement(_HEAD_AND_EPOCH)
_LOCK_HEAD = Statement(_HEAD_AND_EPOCH.with_for_update(of=schema.log_head))

_SUBJECTS = 8
"""Leaves in one query about them; a TPM has fewer certificates."""

_LEAVES_ABOUT = Statement(
    sa.select(schema.log_leaves).where(
        schema.log_leaves.c.kind == sa.bindparam("of_kind"),
        schema.log_leaves.c.subject.in_([sa.bindparam(f"subject{i}") for i in range(_SUBJECTS)]),
    )
)

_NOWHERE = (-1, -1)
"""Fills the places of a query that nobody asks for: no node stands there."""


@functools.cache
def _nodes_at(count: int) -> Statement:
    """The hashes at so many places: a list that is joined, because SQLite reads the whole table for IN with pairs."""
    places = ", ".join(f"(:level{i}, :position{i})" for i in range(count))
    return Statement(
        sa.text(
            f"""
            WITH k (level, position) AS (VALUES {places})
            SELECT n.level, n.position, n.hash FROM k
                JOIN log_nodes n ON n.level = k.level AND n.position = k.position
            """  # noqa: S608 - our own words
        )
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
    """Leaves, hashes of complete subtrees, and the head. Nothing here is ever changed but the head."""

    def head(self, *, lock: bool = False) -> HeadRow | None:
        """The log's present state; with `lock`, no other transaction appends until this one ends."""
        return self._one(HeadRow, _LOCK_HEAD if lock else _READ_HEAD)

    def set_head(self, row: HeadRow, *, first: bool) -> None:
        """Store the new state."""
        values = {"size": row.size, "frontier": row.frontier, "checkpoint": row.checkpoint, "at": row.at}
        if first:
            self._insert_all(schema.log_head, [{"id": _HEAD, **values}])
        else:
            self._update(schema.log_head, {"id": _HEAD}, **values)

    def add_leaves(self, rows: Iterable[LeafRow]) -> None:
        """Append leaves; the database refuses a position, or a subject of one kind, twice."""
        values = [
            {"position": row.position, "kind": row.kind, "subject": row.subject, "data": row.data}
            for row in rows
        ]
        self._insert_all(schema.log_leaves, values)

    def add_nodes(self, nodes: Iterable[tuple[int, int, bytes]]) -> None:
        """Store hashes: (level, position within the level, hash)."""
        values = [{"level": level, "position": position, "hash": hash_} for level, position, hash_ in nodes]
        self._insert_all(schema.log_nodes, values)

    def nodes(self, places: Collection[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """The hashes at these (level, position); a place without one is left out."""
        found, wanted = dict[tuple[int, int], bytes](), sorted(places)
        for start in range(0, len(wanted), _PLACES[-1]):
            some = wanted[start : start + _PLACES[-1]]
            size = next(size for size in _PLACES if size >= len(some))
            values = {}
            for i, (level, position) in enumerate(chain(some, repeat(_NOWHERE, size - len(some)))):
                values[f"level{i}"], values[f"position{i}"] = level, position
            for level, position, hash_ in self._session.rows(_nodes_at(size), values)[1]:
                found[level, position] = _octets(hash_)
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
        return {(row.level, row.position): _octets(row.hash) for row in rows}

    def count_nodes(self) -> int:
        """How many hashes are stored."""
        return self._connection.execute(sa.select(sa.func.count()).select_from(schema.log_nodes)).scalar_one()

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

    def leaves(self, first: int, count: int) -> list[LeafRow]:
        """At most `count` leaves in their order, from position `first` on."""
        table = schema.log_leaves
        query = sa.select(table).where(table.c.position >= first).order_by(table.c.position).limit(count)
        return self._all(LeafRow, query)

    def positions(self, after: object, count: int) -> list[object]:
        """At most `count` positions of leaves in their order, those after `after`; whatever stands there."""
        column = schema.log_leaves.c.position
        query = sa.select(column).order_by(column).limit(count)
        return list(
            self._connection.execute(query if after is None else query.where(column > after)).scalars()
        )

    def leaves_at(self, positions: Collection[int]) -> dict[int, LeafRow]:
        """The leaves at these positions."""
        table = schema.log_leaves
        rows = self._connection.execute(sa.select(table).where(table.c.position.in_(positions)))
        return {row.position: LeafRow(row.position, row.kind, row.subject, _octets(row.data)) for row in rows}

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
        return self._keys(table.c.at, table.c.id, _no_leaf("decision", table.c.id))

    def unlogged_certificates(self) -> Iterator[tuple[datetime, str]]:
        """Time and serial of the issued certificates without a leaf, in that order, as they are read."""
        table = schema.certificates
        condition = sa.and_(table.c.der.is_not(None), _no_leaf("certificate", table.c.serial))
        return self._keys(table.c.issued_at, table.c.serial, condition)

    def _keys(
        self, at: "sa.Column[datetime]", key: "sa.Column[str]", condition: "sa.ColumnElement[bool]"
    ) -> Iterator[tuple[datetime, str]]:
        # One statement that is read bit by bit: pages would sort the whole table again for each of them.
        query = sa.select(at, key).where(condition).order_by(at, key).execution_options(yield_per=_PAGE)
        for row in self._connection.execute(query):
            yield row[0], row[1]

    def without_leaf(self, kind: str) -> Iterator[str]:
        """Ids of the decisions, or serials of the issued certificates, that have no leaf; as they are read."""
        decisions, certificates = schema.decisions.c, schema.certificates.c
        key, condition = decisions.id, _no_leaf(kind, decisions.id)
        if kind == "certificate":
            key = certificates.serial
            condition = sa.and_(certificates.der.is_not(None), _no_leaf(kind, key))
        query = sa.select(key).where(condition).order_by(key)
        for row in self._connection.execute(query.execution_options(yield_per=_PAGE)):
            yield row[0]

    def evidence_digests(self, after: str, count: int) -> list[str]:
        """At most `count` digests of evidence in their order, those after `after`."""
        column = schema.evidence.c.digest
        query = sa.select(column).where(column > after).order_by(column).limit(count)
        return list(self._connection.execute(query).scalars())

    def evidence(self, digests: Collection[str]) -> dict[str, bytes]:
        """The evidence under these digests."""
        table = schema.evidence
        rows = self._connection.execute(
            sa.select(table.c.digest, table.c.body).where(table.c.digest.in_(digests))
        )
        return {row.digest: _octets(row.body) for row in rows}

    def policy_versions(self) -> list[int]:
        """All versions of the policy, in their order."""
        column = schema.policies.c.version
        return list(self._connection.execute(sa.select(column).order_by(column)).scalars())

    def missing_evidence(self, count: int) -> list[str]:
        """Digests on which decisions rest, and whose evidence is not there."""
        decisions, evidence = schema.decisions, schema.evidence
        there = sa.exists().where(evidence.c.digest == decisions.c.evidence_digest)
        query = sa.select(decisions.c.evidence_digest).where(~there).distinct().limit(count)
        return list(self._connection.execute(query).scalars())

    def policies_of_decisions(self) -> list[tuple[int, str]]:
        """All (version, digest) by which anything was decided."""
        table = schema.decisions
        query = sa.select(table.c.policy_version, table.c.policy_digest).distinct()
        return [(row.policy_version, row.policy_digest) for row in self._connection.execute(query)]

    def unrevoked(self, count: int) -> list[str]:
        """Serials of certificates that were ended for good and are on no CRL's list."""
        table = schema.certificates
        query = sa.select(table.c.serial).where(table.c.state.in_(_ENDED), ~_revoked())
        return list(self._connection.execute(query.limit(count)).scalars())

    def revived(self, count: int) -> list[str]:
        """Serials of certificates that are revoked and count as good."""
        table = schema.certificates
        query = sa.select(table.c.serial).where(table.c.state.in_(_GOOD), _revoked())
        return list(self._connection.execute(query.limit(count)).scalars())

    def crl_issuers(self) -> list[str]:
        """Subject key ids of the issuers that have published a CRL."""
        query = sa.select(schema.crls.c.issuer).distinct().order_by(schema.crls.c.issuer)
        return list(self._connection.execute(query).scalars())

    def stored_certificates(self, after: str, count: int) -> list[str]:
        """At most `count` serials of issued certificates in their order, those after `after`."""
        table = schema.certificates
        query = sa.select(table.c.serial).where(table.c.serial > after, table.c.der.is_not(None))
        return list(self._connection.execute(query.order_by(table.c.serial).limit(count)).scalars())

    def certificate_rows(self, serials: Collection[str]) -> dict[str, CertificateRow]:
        """The certificates with these serials."""
        table = schema.certificates
        rows = self._all(CertificateRow, sa.select(table).where(table.c.serial.in_(serials)))
        return {row.serial: row for row in rows}

    def unfit(self, count: int) -> list[str]:
        """Serials of certificates whose state does not fit their mark as the live one, or what is stored."""
        table = schema.certificates
        live = table.c.state.in_((CertificateState.ISSUED, CertificateState.INTENDED))
        unsigned = table.c.state.in_((CertificateState.INTENDED, CertificateState.ABANDONED))
        mark = table.c.profile + ":" + table.c.key_name
        # The mark of an ephemeral one ends in a hash over launch and Name, which SQL cannot make: its form is compared.
        start = sa.literal("ephemeral-") + table.c.profile + ":"
        ephemeral = sa.and_(
            sa.func.substr(table.c.live, 1, sa.func.length(start)) == start,
            sa.func.length(table.c.live) == sa.func.length(start) + 64,
        )
        query = sa.select(table.c.serial).where(
            sa.or_(
                sa.and_(live, sa.or_(table.c.live.is_(None), sa.and_(table.c.live != mark, ~ephemeral))),
                sa.and_(~live, table.c.live.is_not(None)),
                sa.and_(unsigned, table.c.der.is_not(None)),
                table.c.state.not_in(tuple(CertificateState)),
            )
        )
        return list(self._connection.execute(query.order_by(table.c.serial).limit(count)).scalars())

    def unreplaced(self, count: int) -> list[str]:
        """Serials of certificates that gave their place to one that is not there, or was never issued."""
        table, other = schema.certificates, schema.certificates.alias()
        replacing = sa.exists().where(
            other.c.replaces == table.c.serial, other.c.state != CertificateState.ABANDONED
        )
        query = sa.select(table.c.serial).where(table.c.state == CertificateState.SUPERSEDED, ~replacing)
        return list(self._connection.execute(query.order_by(table.c.serial).limit(count)).scalars())

    def revoking_issuers(self) -> list[str]:
        """Subject key ids of the issuers that have revoked anything."""
        return list(self._connection.execute(sa.select(schema.revocations.c.issuer).distinct()).scalars())

    def crl_numbers(self, issuer: str) -> list[int]:
        """Numbers of all CRLs of an issuer, in their order."""
        table = schema.crls
        query = sa.select(table.c.number).where(table.c.issuer == issuer).order_by(table.c.number)
        return list(self._connection.execute(query).scalars())

    def revoked_by(self, issuer: str) -> list[str]:
        """Serials of everything that an issuer has revoked."""
        table = schema.revocations
        return list(
            self._connection.execute(sa.select(table.c.serial).where(table.c.issuer == issuer)).scalars()
        )

    def good_among(self, issuer: str, serials: Collection[str]) -> set[str]:
        """Those of the serials that are of certificates of this issuer that count as good."""
        table = schema.certificates
        query = sa.select(table.c.serial).where(
            table.c.issuer == issuer, table.c.serial.in_(serials), table.c.state.in_(_GOOD)
        )
        return set(self._connection.execute(query).scalars())


def _octets(value: object) -> bytes:
    """What stands in a column of bytes. SQLite may hold a number there, of which `bytes` would make as many zeros."""
    if not isinstance(value, bytes | memoryview):
        raise TypeError("the column holds no bytes")
    return bytes(value)


_GOOD = (CertificateState.ISSUED, CertificateState.SUPERSEDED)
_ENDED = (CertificateState.REVOKED, CertificateState.ABANDONED)


def _revoked() -> "sa.ColumnElement[bool]":
    certificates, revocations = schema.certificates, schema.revocations
    return sa.exists().where(
        revocations.c.issuer == certificates.c.issuer, revocations.c.serial == certificates.c.serial
    )


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
