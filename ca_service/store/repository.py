"""What all repositories share: rows to frozen values and back."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from operator import itemgetter
from typing import Any, ClassVar, TypeVar, cast

import sqlalchemy as sa

from ca_service.store.sessions import NO_VALUES, Session
from ca_service.store.statements import OLD, Statement, insert_into, select_by, update_by

RowT = TypeVar("RowT")

PAGE = 200
"""Most rows that a listing returns at once, unless the caller asks for another number."""


@lru_cache(maxsize=256)
def _reader(
    kind: type[Any], names: tuple[str, ...], enums: tuple[tuple[str, Any], ...]
) -> Callable[[Sequence[Any]], Any]:
    """Makes values of `kind` of rows with these columns."""
    wanted = [field.name for field in fields(kind)]
    pick = itemgetter(*(names.index(name) for name in wanted))
    conversions = tuple((wanted.index(name), enum) for name, enum in enums if name in wanted)

    def read(row: Sequence[Any]) -> Any:
        values = list(pick(row))
        for place, enum in conversions:
            values[place] = enum(values[place])
        return kind(*values)

    return read


class Repository:
    """Reads and writes one subject's tables within one transaction.

    A `Statement` is run by the session, anything else by SQLAlchemy: see `ca_service.store.statements`.
    """

    enums: ClassVar[Mapping[str, Any]] = {}
    """Columns whose text is read back as an enumeration."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def _connection(self) -> sa.Connection:
        return self._session.connection

    def _reader(self, kind: type[RowT], names: Sequence[str]) -> Callable[[Sequence[Any]], RowT]:
        read = _reader(cast("Hashable", kind), tuple(names), tuple(self.enums.items()))
        return cast("Callable[[Sequence[Any]], RowT]", read)

    def _all(
        self,
        kind: type[RowT],
        query: "Statement | sa.Select[Any]",
        values: Mapping[str, object] | None = None,
    ) -> list[RowT]:
        rows: Sequence[Sequence[Any]]
        if isinstance(query, Statement):
            names, rows = self._session.rows(query, values or NO_VALUES)
        else:
            result = self._connection.execute(query, values)
            names, rows = tuple(result.keys()), result.all()
        if not rows:
            return []
        read = self._reader(kind, names)
        return [read(row) for row in rows]

    def _one(
        self,
        kind: type[RowT],
        query: "Statement | sa.Select[Any]",
        values: Mapping[str, object] | None = None,
    ) -> RowT | None:
        found = self._all(kind, query, values)
        return found[0] if found else None

    def _get(self, kind: type[RowT], table: sa.Table, **where: object) -> RowT | None:
        return self._one(kind, select_by(table, tuple(where)), where)

    def _find(self, kind: type[RowT], table: sa.Table, **where: object) -> list[RowT]:
        return self._all(kind, select_by(table, tuple(where)), where)

    def _insert(self, table: sa.Table, row: object) -> None:
        values = vars(row)
        self._session.run(insert_into(table, tuple(values)), values)

    def _insert_all(self, table: sa.Table, rows: Sequence[Mapping[str, object]]) -> None:
        """Insert rows of the same columns."""
        if not rows:
            return
        statement = insert_into(table, tuple(rows[0]))
        if len(rows) == 1:
            self._session.run(statement, rows[0])
        else:
            self._session.run_all(statement, rows)

    def _insert_numbered(self, table: sa.Table, values: Mapping[str, object]) -> int:
        return self._session.insert(insert_into(table, tuple(values)), values)

    def _update(self, table: sa.Table, where: Mapping[str, object], **values: object) -> int:
        return self._session.run(update_by(table, tuple(where), tuple(values)), _change(where, values))


def _change(where: Mapping[str, object], values: Mapping[str, object]) -> dict[str, object]:
    return {**{OLD + name: value for name, value in where.items()}, **values}
