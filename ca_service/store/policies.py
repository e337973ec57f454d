"""Policy versions, and which one is in force: the only place that says so.

A version is an immutable row. That it comes in force, and from when on, is a row of its own (`policy_starts`), which
comes when the version needs nobody's approval any more and goes if it is ended before its time.

Two things bring a version in force: that its time has come, by the clock of whoever asks, or that it was released
when its time had come already. It stays in force until a later version takes its place. So a clock that is wrong
can delay or hasten a version that was announced for a time to come, and approved, and nothing else: neither does one
that was to hold at once wait for anybody's clock, nor does an earlier one judge again after a later one has.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.policy_rows import PolicyEnd, PolicyRow, PolicyStartRow, PolicyVerdictRow, VersionRecord
from ca_service.store.repository import Repository
from ca_service.store.statements import Statement

IN_FORCE = """
    SELECT max(reached) FROM (
        SELECT (SELECT version FROM policy_starts WHERE in_force_from <= :at OR in_force_from <= released_at
            ORDER BY version DESC LIMIT 1) AS reached
        UNION ALL SELECT max(policy_version) FROM decisions
    ) AS versions"""
"""SQL for the version in force at ``:at``, NULL for none. The second line of it is a version that has judged."""

AT = sa.bindparam("at", type_=schema.Instant)
"""The parameter of `IN_FORCE`."""

_IN_FORCE = Statement(sa.text(IN_FORCE).bindparams(AT))
_POLICIES, _STARTS = schema.policies.c, schema.policy_starts.c
_JOINED = sa.outerjoin(schema.policies, schema.policy_starts, _POLICIES.version == _STARTS.version)
# All but the text: there may be many versions, and each may be long.
_RECORDS = (
    sa.select(
        _POLICIES.version,
        _POLICIES.digest,
        _POLICIES.applied_at,
        _POLICIES.applied_by,
        _POLICIES.base,
        _POLICIES.requested_from,
        _STARTS.in_force_from,
        _STARTS.released_at,
    )
    .select_from(_JOINED)
    .where(_POLICIES.version >= sa.bindparam("first", type_=sa.Integer))
    .order_by(_POLICIES.version)
)


class Policies(Repository):
    """Policy versions: a later one takes the place of an earlier one, and none is ever changed."""

    def version_in_force(self, at: datetime) -> int:
        """The version by which evidence is judged at `at`, 0 for none; cheaper than the whole row."""
        found = self._session.first(_IN_FORCE, {"at": at})
        return 0 if found is None or found[0] is None else int(found[0])

    def in_force(self, at: datetime) -> PolicyRow | None:
        """The policy by which evidence is judged at `at`; None if there is none yet."""
        version = self.version_in_force(at)
        return self.get(version) if version else None

    def get(self, version: int) -> PolicyRow | None:
        """One version, whether or not it ever comes in force."""
        return self._get(PolicyRow, schema.policies, version=version)

    def all(self) -> list[PolicyRow]:
        """All versions, oldest first."""
        return self._all(PolicyRow, sa.select(schema.policies).order_by(_POLICIES.version))

    def released(self) -> list[PolicyRow]:
        """The versions that have been in force, are, or will be by themselves; oldest first."""
        query = sa.select(schema.policies).join(schema.policy_starts, _POLICIES.version == _STARTS.version)
        return self._all(PolicyRow, query.order_by(_POLICIES.version))

    def records(self, first: int = 1) -> list[VersionRecord]:
        """What is known of each version from `first` on, without its text; oldest first."""
        verdicts = defaultdict[int, list[PolicyVerdictRow]](list)
        for verdict in self.verdicts(first):
            verdicts[verdict.version].append(verdict)
        return [
            VersionRecord(*row, verdicts=tuple(verdicts[row.version]))
            for row in self._connection.execute(_RECORDS, {"first": first})
        ]

    def starts(self) -> list[PolicyStartRow]:
        """Which versions have come in force, or will; oldest first."""
        return self._all(PolicyStartRow, sa.select(schema.policy_starts).order_by(_STARTS.version))

    def verdicts(self, first: int = 1) -> list[PolicyVerdictRow]:
        """What operators have said about versions from `first` on, in the order in which they did."""
        columns = schema.policy_verdicts.c
        query = sa.select(schema.policy_verdicts).where(columns.version >= first)
        return self._all(PolicyVerdictRow, query.order_by(columns.version, columns.at, columns.verdict))

    def next_version(self) -> int:
        """The number that the next version gets."""
        return int(self._connection.execute(sa.select(sa.func.max(_POLICIES.version))).scalar() or 0) + 1

    def append(self, digest: str, text: str, at: datetime, by: str) -> PolicyRow:
        """Put a policy in force as the next version, at once."""
        row = PolicyRow(self.next_version(), digest, text, at, by, self.version_in_force(at))
        self.add(row)
        self.start(PolicyStartRow(row.version, at, at))
        return row

    def add(self, row: PolicyRow) -> None:
        """Keep a version; it does not come in force by that."""
        self._insert(schema.policies, row)

    def start(self, row: PolicyStartRow) -> None:
        """Let a version come in force; the database refuses it twice."""
        self._insert(schema.policy_starts, row)

    def forget(self, versions: Collection[int]) -> None:
        """Remove all that is known of what became of versions: a restore says it anew."""
        for table in (schema.policy_starts, schema.policy_verdicts):
            self._connection.execute(table.delete().where(table.c.version.in_(versions)))

    def speak(self, rows: Sequence[PolicyVerdictRow]) -> None:
        """Keep what an operator says about versions. One that `PolicyEnd` names does not come in force any more.

        The caller has seen to it that it never was: `version_in_force` of this transaction is an earlier one.
        """
        self._insert_all(schema.policy_verdicts, [vars(row) for row in rows])
        ended = [row.version for row in rows if row.verdict in tuple(PolicyEnd)]
        if ended:
            self._connection.execute(schema.policy_starts.delete().where(_STARTS.version.in_(ended)))
