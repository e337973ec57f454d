"""Statements that are compiled once and then run by the database's driver.

SQLAlchemy describes the tables, writes each database's SQL, and converts what goes in and comes out. To have it execute
a statement costs several times what SQLite takes to run it, for it makes a context, a result and rows each time,
although nothing but the values differs. So what an enrolment needs is compiled when it is first used, and only its
values are handed to the driver after that. Anything rarer is executed by SQLAlchemy itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ReturnsRows

OLD = "old_"
"""Before the name of a value in an update's condition: the same column may be written too."""

_Convert = Callable[[Any], Any]


def changes(sql: str) -> bool:
    """Whether a statement may change anything."""
    return not sql.lstrip().startswith(("SELECT", "WITH", "PRAGMA"))


def opening(sql: str) -> str:
    """The first three words of a statement: what is done, and to which table."""
    return " ".join(sql.split()[:3])


@dataclass(frozen=True, eq=False)
class Statement:
    """A statement whose values are handed in by name when it is run.

    Attributes:
        element: as SQLAlchemy builds it; a value that it has already is the same each time.
        columns: those to which an insert or update gives values; empty for anything else.
    """

    element: sa.ClauseElement
    columns: tuple[str, ...] = ()


@cache
def select_by(table: sa.Table, columns: tuple[str, ...]) -> Statement:
    """Finds the rows with given values in `columns`."""
    return Statement(sa.select(table).where(*(table.c[name] == sa.bindparam(name) for name in columns)))


@cache
def insert_into(table: sa.Table, columns: tuple[str, ...]) -> Statement:
    """Inserts a row with these columns."""
    return Statement(table.insert(), columns)


@cache
def update_by(table: sa.Table, where: tuple[str, ...], columns: tuple[str, ...]) -> Statement:
    """Changes `columns` in the rows with given values in `where`, whose names begin with `OLD`."""
    condition = (table.c[name] == sa.bindparam(OLD + name) for name in where)
    return Statement(table.update().where(*condition), columns)


def one_of(column: "sa.ColumnElement[Any]", name: str, count: int) -> "sa.ColumnElement[bool]":
    """Whether a column has one of so many values, which `places` names."""
    return column.in_([sa.bindparam(f"{name}{i}") for i in range(count)])


def places(name: str, values: Sequence[object], count: int) -> dict[str, object]:
    """The values of a `one_of` with places for at least one and at most `count`: what is over repeats the last."""
    last = len(values) - 1
    return {f"{name}{i}": values[min(i, last)] for i in range(count)}


@dataclass(frozen=True)
class Prepared:
    """A statement in the words of one database.

    Attributes:
        sql: what its driver is given.
        point: its `opening` if it `changes` anything, else empty.
        names: the columns of its result.
        bind: makes the driver's parameters of named values; raises ValueError for one that no column takes.
        read: makes values of a row that the driver gives; None if they are what it gives.
    """

    sql: str
    point: str
    names: tuple[str, ...]
    bind: Callable[[Mapping[str, object]], Any]
    read: Callable[[Sequence[Any]], Sequence[Any]] | None


def prepare(statement: Statement, dialect: sa.Dialect) -> Prepared:
    """Compile a statement; `dialect` must have seen its server, whose version counts."""
    element = statement.element
    compiled = element.compile(dialect=dialect, column_keys=list(statement.columns) or None)
    if not isinstance(compiled, SQLCompiler):
        raise TypeError("only a statement can be prepared")
    results = tuple(element.exported_columns) if isinstance(element, ReturnsRows) else ()
    return Prepared(
        sql=compiled.string,
        point=opening(compiled.string) if changes(compiled.string) else "",
        names=tuple(str(column.key) for column in results),
        bind=_binder(compiled, dialect),
        read=_reader(
            [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in results]
        ),
    )


def _binder(compiled: SQLCompiler, dialect: sa.Dialect) -> Callable[[Mapping[str, object]], Any]:
    names = tuple(compiled.positiontup or ()) if compiled.positional else tuple(compiled.binds)
    if not names:
        return lambda _values: ()
    binds = [compiled.binds[name] for name in names]
    constants = {bind.key: bind.effective_value for bind in binds if not bind.required}
    pick = itemgetter(*(bind.key for bind in binds)) if len(binds) > 1 else _only(binds[0].key)
    needed = _needed([_writer(bind.type, dialect) for bind in binds])

    def positional(values: Mapping[str, object]) -> Sequence[Any]:
        row = list(pick({**constants, **values} if constants else values))
        for place, convert in needed:
            row[place] = convert(row[place])
        return row

    if compiled.positional:
        return positional if needed or constants else pick
    return lambda values: dict(zip(names, positional(values), strict=True))


def _writer(kind: "sa.types.TypeEngine[Any]", dialect: sa.Dialect) -> _Convert | None:
    # Both drivers take bytes as they are. SQLAlchemy would wrap each in an object of the driver's first.
    return None if isinstance(kind, sa.LargeBinary) else kind.dialect_impl(dialect).bind_processor(dialect)


def _only(key: str) -> Callable[[Mapping[str, object]], Sequence[Any]]:
    return lambda values: (values[key],)


def _reader(processors: Sequence[_Convert | None]) -> Callable[[Sequence[Any]], Sequence[Any]] | None:
    needed = _needed(processors)

    def read(row: Sequence[Any]) -> Sequence[Any]:
        values = list(row)
        for place, convert in needed:
            values[place] = convert(values[place])
        return values

    return read if needed else None


def _needed(processors: Sequence[_Convert | None]) -> tuple[tuple[int, _Convert], ...]:
    """Each place that is converted, and how; most need nothing."""
    return tuple((place, convert) for place, convert in enumerate(processors) if convert is not None)
