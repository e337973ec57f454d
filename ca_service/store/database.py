"""The connection to the database, its transactions and their durability.

SQLite runs in WAL mode with synchronous=FULL: a commit returns after the log is flushed to the disk, and only
then may an answer leave the process. Write transactions begin with BEGIN IMMEDIATE, so what they read is what
they overwrite, across threads and processes.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from ca_service.judgment import Unavailable, VtpmCaError
from ca_service.store.transaction import Transaction

BUSY_TIMEOUT_MS = 15_000
"""How long a writer waits for another process's transaction before it gives up."""

Faults = Callable[[str], None]
"""Called with the name of each point around a write; the tests of crashes end the process there."""


class Taken(VtpmCaError):
    """A constraint of the database said no: another request was faster, or the ledger forbids it."""

    code = "taken"


def no_faults(point: str) -> None:
    """Nothing goes wrong at `point`."""


class Store:
    """The CA's database.

    Safe for threads, and for processes that fork after it was made: each process gets connections of its own.
    """

    def __init__(self, url: str, faults: Faults = no_faults) -> None:
        self.url = url
        self._faults = faults
        self._pid = os.getpid()
        self._engine = self._new_engine()
        # SQLite's own waiting polls; within one process a lock is fair and wakes at once.
        self._turn = threading.Lock()

    def _new_engine(self) -> sa.Engine:
        engine = sa.create_engine(
            self.url, pool_size=16, max_overflow=64, pool_timeout=30, hide_parameters=True
        )
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        if self._faults is not no_faults:
            event.listen(engine, "before_cursor_execute", self._before_statement)
            event.listen(engine, "after_cursor_execute", self._after_statement)
        return engine

    def _before_statement(self, _connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if not statement.startswith(("SELECT", "PRAGMA")):
            self._faults("before " + " ".join(statement.split()[:3]))

    def _after_statement(self, _connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if not statement.startswith(("SELECT", "PRAGMA")):
            self._faults("after " + " ".join(statement.split()[:3]))

    def _own_engine(self) -> sa.Engine:
        if self._pid != os.getpid():
            # A database connection must not be used on both sides of a fork.
            self._engine.dispose(close=False)
            self._engine = self._new_engine()
            self._turn = threading.Lock()
            self._pid = os.getpid()
        return self._engine

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A consistent view of the database; nothing is changed.

        Raises:
            Unavailable: the database cannot be reached.
        """
        try:
            with self._own_engine().connect() as connection:
                yield Transaction(connection)
        except DatabaseError as error:
            raise _unavailable("read", error) from error

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """One durable transaction: when the block ends without an exception, the disk has it.

        Raises:
            Taken: a constraint does not allow it; nothing was written.
            Unavailable: the database is busy or cannot be reached; nothing was written.
        """
        engine = self._own_engine()
        try:
            with self._turn, engine.connect().execution_options(immediate=True) as connection:
                with _rolled_back(connection):
                    yield Transaction(connection)
                    self._faults("before commit")
                    connection.commit()
                self._faults("after commit")
        except IntegrityError as error:
            raise Taken(f"a constraint of the database does not allow it: {error.orig}") from error
        except DatabaseError as error:
            raise _unavailable("written", error) from error

    def check(self) -> None:
        """Whether the database can be written and has this program's schema.

        Raises:
            Unavailable: with the reason and the remedy.
        """
        with self.read() as tx:
            found = MigrationContext.configure(tx.connection).get_current_revision()
        wanted = ScriptDirectory.from_config(_alembic(self.url)).get_current_head()
        if found != wanted:
            raise Unavailable(
                f"the database has schema {found or 'none'}, this program needs {wanted}",
                code="schema",
                remedy="Run `vtpm-ca db upgrade`.",
            )

    def check_writable(self) -> None:
        """Begin a write transaction and roll it back; raises `Unavailable` if that fails."""
        try:
            with self._turn, self._own_engine().connect().execution_options(immediate=True) as connection:
                connection.execute(sa.text("SELECT 1"))
        except DatabaseError as error:
            raise _unavailable("written", error) from error

    def upgrade(self) -> None:
        """Bring the schema to this program's; a new database gets all of it."""
        config = _alembic(self.url)
        with self._own_engine().connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()


@contextmanager
def _rolled_back(connection: sa.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.rollback()
        raise


def _unavailable(what: str, error: DatabaseError) -> Unavailable:
    if isinstance(error, OperationalError):
        return Unavailable(f"the database cannot be {what} now")
    return Unavailable("the database is damaged, or is none", remedy="Restore it from a backup.")


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: `_begin_sqlite` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "trusted_schema=OFF",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _alembic(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", "ca_service.store:migrations")
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def open_store(url: str, faults: Faults = no_faults) -> Store:
    """Open an existing database.

    Args:
        url: as SQLAlchemy writes it, for example ``sqlite:////var/lib/vtpm-ca/ca.sqlite3``.
        faults: what goes wrong around the writes; only tests hand something in.

    Raises:
        Unavailable: the database is not there or has another schema.
    """
    store = Store(url, faults)
    store.check()
    return store


def create_store(url: str, faults: Faults = no_faults) -> Store:
    """Make a new database, or upgrade one, and open it."""
    store = Store(url, faults)
    store.upgrade()
    return store
