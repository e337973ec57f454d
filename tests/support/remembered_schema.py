"""A new database runs every migration there ever was. What comes of it is kept here, and made again at once.

Only for databases in a file, and only for empty ones. The tests of the migrations take `every_migration`, which sets
this aside.
"""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime

import sqlalchemy as sa

from ca_service.store import upgrading

every_migration: Callable[[sa.Connection], None] = upgrading.upgrade
"""What `upgrading.upgrade` is outside the tests."""

_EPOCHS = "epochs"


class _Schema:
    """The statements that make the tables of a database which the migrations have made, and its rows."""

    def __init__(self, connection: sa.Connection) -> None:
        raw = connection.connection.dbapi_connection
        made = raw.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
        found = made.fetchall()
        self._statements = [sql for _, _, sql in found]
        tables = [name for kind, name, _ in found if kind == "table"]
        self._rows = {name: raw.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables}  # noqa: S608
        # A database's first epoch is its own: salt and time are made anew.
        ((self._number, _, _, self._reason),) = self._rows.pop(_EPOCHS)

    def make(self, connection: sa.Connection) -> None:
        connection.begin()
        for statement in self._statements:
            connection.exec_driver_sql(statement)
        for table, rows in self._rows.items():
            for row in rows:
                self._insert(connection, table, row)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._insert(connection, _EPOCHS, (self._number, secrets.token_hex(32), now, self._reason))

    @staticmethod
    def _insert(connection: sa.Connection, table: str, row: tuple) -> None:
        places = ", ".join("?" * len(row))
        connection.exec_driver_sql(f'INSERT INTO "{table}" VALUES ({places})', row)  # noqa: S608


_known: list[_Schema] = []


def _upgrade(connection: sa.Connection) -> None:
    # Not through SQLAlchemy, which would begin a transaction.
    raw = connection.connection.dbapi_connection
    if connection.dialect.name != "sqlite" or raw.execute("SELECT 1 FROM sqlite_master").fetchone():
        every_migration(connection)
    elif _known:
        _known[0].make(connection)
    else:
        every_migration(connection)
        _known.append(_Schema(connection))


def remember_schema() -> None:
    """Let this process run the migrations once for all the new databases that it makes in files."""
    upgrading.upgrade = _upgrade
