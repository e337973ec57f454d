"""Alarms: what operators are told."""

from datetime import datetime

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import PAGE, Repository
from ca_service.store.rows import AlarmRow


class Alarms(Repository):
    """What an operator must look at."""

    def add(self, kind: str, decision_id: str, detail: str, at: datetime) -> int:
        """Raise an alarm; `detail` is JSON text. Returns its number."""
        values = {"kind": kind, "decision_id": decision_id, "detail": detail, "at": at}
        return self._insert_numbered(schema.alarms, values)

    def latest(self, limit: int = PAGE, kind: str | None = None) -> list[AlarmRow]:
        """The newest alarms first; of one kind, if it is given."""
        table = schema.alarms
        query = sa.select(table).order_by(table.c.id.desc()).limit(limit)
        return self._all(AlarmRow, query if kind is None else query.where(table.c.kind == kind))

    def count_since(self, since: datetime) -> dict[str, int]:
        """How many alarms there were from then on, by kind; however many came of one kind, none hides another."""
        kind, at = schema.alarms.c.kind, schema.alarms.c.at
        query = sa.select(kind, sa.func.count()).where(at >= since).group_by(kind)
        return {str(found): int(count) for found, count in self._connection.execute(query)}
