"""What all repositories share: rows to frozen values and back, and statements that are built once.

To build an expression costs several times what SQLite takes to run it. So the statements of an enrolment are made
when they are first needed, by table and columns, and only their values differ from call to call.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any, ClassVar, TypeVar, cast

import sqlalchemy as sa

RowT = TypeVar("RowT")

PAGE = 200
"""Most rows that a listing returns at once, unless the caller asks for another number."""

_OLD = "old_"
"""Before the name of a value in an update's condition: the same column may be written too."""


@lru_cache(maxsize=256)
def _reader(
    kind: type[Any], names: tuple[str, ...], enums: tuple[tuple[str, Any], ...]
) -> Callable[["sa.Row[Any]"], Any]:
    """Makes values of `kind` of rows with these columns."""
    places = tuple(names.index(field.name) for field in fields(kind))
    wanted = [field.name for field in fields(kind)]
    conversions = tuple((wanted.index(name), enum) for name, enum in enums if name in wanted)

    def read(row: "sa.Row[Any]") -> Any:
        values = [row[place] for place in places]
        for place, enum in conversions:
            values[place] = enum(values[place])
        return kind(*values)

    return read


@lru_cache(maxsize=256)
def insert_into(table: sa.Table) -> sa.Insert:
    """The statement that inserts rows, which are handed to its execution."""
    return table.insert()


@lru_cache(maxsize=256)
def select_by(table: sa.Table, columns: tuple[str, ...]) -> "sa.Select[Any]":
    """The statement that finds the rows with given values in `columns`."""
    return sa.select(table).where(*(table.c[name] == sa.bindparam(name) for name in columns))


@lru_cache(maxsize=256)
def update_by(table: sa.Table, columns: tuple[str, ...]) -> sa.Update:
    """The statement that changes rows with given values in `columns`; the new ones are handed to its execution."""
    return table.update().where(*(table.c[name] == sa.bindparam(_OLD + name) for name in columns))


class Repository:
    """Reads and writes one subject's tables within one transaction."""

    enums: ClassVar[Mapping[str, Any]] = {}
    """Columns whose text is read back as an enumeration."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def _value(self, kind: type[RowT], row: "sa.Row[Any]") -> RowT:
        read = _reader(cast("Hashable", kind), row._fields, tuple(self.enums.items()))
        return cast("RowT", read(row))

    def _one(
        self, kind: type[RowT], query: "sa.Select[Any]", values: Mapping[str, object] | None = None
    ) -> RowT | None:
        row = self._connection.execute(query, values).first()
        return None if row is None else self._value(kind, row)

    def _all(
        self, kind: type[RowT], query: "sa.Select[Any]", values: Mapping[str, object] | None = None
    ) -> list[RowT]:
        return [self._value(kind, row) for row in self._connection.execute(query, values)]

    def _get(self, kind: type[RowT], table: sa.Table, **where: object) -> RowT | None:
        return self._one(kind, select_by(table, tuple(where)), where)

    def _find(self, kind: type[RowT], table: sa.Table, **where: object) -> list[RowT]:
        return self._all(kind, select_by(table, tuple(where)), where)

    def _insert(self, table: sa.Table, row: object) -> None:
        self._connection.execute(insert_into(table), dict(vars(row)))

    def _insert_all(self, table: sa.Table, rows: Sequence[object]) -> None:
        if rows:
            self._connection.execute(insert_into(table), [dict(vars(row)) for row in rows])

    def _insert_numbered(self, table: sa.Table, values: Mapping[str, object]) -> int:
        result = self._connection.execute(insert_into(table), values)
        key = result.inserted_primary_key
        return int(key[0]) if key is not None else 0

    def _update_all(
        self, table: sa.Table, changes: Sequence[tuple[Mapping[str, object], Mapping[str, object]]]
    ) -> int:
        """Several updates of the same form, (condition, new values) each; says how many rows changed."""
        if not changes:
            return 0
        given = [
            {**{_OLD + name: value for name, value in where.items()}, **values} for where, values in changes
        ]
        return self._connection.execute(update_by(table, tuple(changes[0][0])), given).rowcount

    def _update(self, table: sa.Table, where: Mapping[str, object], **values: object) -> int:
        given = {**{_OLD + name: value for name, value in where.items()}, **values}
        return self._connection.execute(update_by(table, tuple(where)), given).rowcount
