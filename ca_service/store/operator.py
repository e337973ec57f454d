"""Policy versions and alarms: what operators write and read."""

from datetime import datetime

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import PAGE, Repository
from ca_service.store.rows import AlarmRow, PolicyRow
from ca_service.store.statements import Statement

_HIGHEST = Statement(sa.select(sa.func.max(schema.policies.c.version)))


class Policies(Repository):
    """Policy versions; the highest one is in force, none is ever changed."""

    def in_force(self) -> PolicyRow | None:
        """The policy by which evidence is judged now; None if none was ever applied."""
        return self._one(
            PolicyRow, sa.select(schema.policies).order_by(schema.policies.c.version.desc()).limit(1)
        )

    def version_in_force(self) -> int:
        """Its version, 0 if there is none; cheaper than the whole row."""
        found = self._session.first(_HIGHEST)
        return 0 if found is None or found[0] is None else int(found[0])

    def get(self, version: int) -> PolicyRow | None:
        """One version."""
        return self._get(PolicyRow, schema.policies, version=version)

    def all(self) -> list[PolicyRow]:
        """All versions, oldest first."""
        return self._all(PolicyRow, sa.select(schema.policies).order_by(schema.policies.c.version))

    def append(self, digest: str, text: str, at: datetime, by: str) -> PolicyRow:
        """Put a policy in force as the next version."""
        row = PolicyRow(self.version_in_force() + 1, digest, text, at, by)
        self._insert(schema.policies, row)
        return row


class Alarms(Repository):
    """What an operator must look at."""

    def add(self, kind: str, decision_id: str, detail: str, at: datetime) -> int:
        """Raise an alarm; `detail` is JSON text. Returns its number."""
        values = {"kind": kind, "decision_id": decision_id, "detail": detail, "at": at}
        return self._insert_numbered(schema.alarms, values)

    def latest(self, limit: int = PAGE) -> list[AlarmRow]:
        """The newest alarms first."""
        table = schema.alarms
        return self._all(AlarmRow, sa.select(table).order_by(table.c.id.desc()).limit(limit))

    def count_since(self, since: datetime) -> dict[str, int]:
        """How many alarms there were from then on, by kind; however many came of one kind, none hides another."""
        kind, at = schema.alarms.c.kind, schema.alarms.c.at
        query = sa.select(kind, sa.func.count()).where(at >= since).group_by(kind)
        return {str(found): int(count) for found, count in self._connection.execute(query)}
