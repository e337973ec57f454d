"""What all repositories share: rows to frozen values and back."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

import sqlalchemy as sa

RowT = TypeVar("RowT")

PAGE = 200
"""Most rows that a listing returns at once, unless the caller asks for another number."""


class Repository:
    """Reads and writes one subject's tables within one transaction."""

    enums: ClassVar[Mapping[str, Any]] = {}
    """Columns whose text is read back as an enumeration."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def _value(self, kind: type[RowT], row: "sa.Row[Any]") -> RowT:
        values = {name: row._mapping[name] for name in (f.name for f in fields(kind))}  # type: ignore[arg-type] # noqa: SLF001 - the documented name
        for name, enum in self.enums.items():
            if name in values:
                values[name] = enum(values[name])
        return kind(**values)

    def _one(self, kind: type[RowT], query: "sa.Select[Any]") -> RowT | None:
        row = self._connection.execute(query).first()
        return None if row is None else self._value(kind, row)

    def _all(self, kind: type[RowT], query: "sa.Select[Any]") -> list[RowT]:
        return [self._value(kind, row) for row in self._connection.execute(query)]

    def _insert(self, table: sa.Table, row: object) -> None:
        values = {f.name: getattr(row, f.name) for f in fields(row)}  # type: ignore[arg-type]
        self._connection.execute(table.insert().values(**values))

    def _insert_numbered(self, table: sa.Table, values: Mapping[str, object]) -> int:
        result = self._connection.execute(table.insert().values(**values))
        key = result.inserted_primary_key
        return int(key[0]) if key is not None else 0

    def _update(self, table: sa.Table, condition: "sa.ColumnElement[bool]", **values: object) -> int:
        return self._connection.execute(table.update().where(condition).values(**values)).rowcount
