"""The connection to the database and its transactions.

A commit returns after the disk has it, and only then may an answer leave the process. What a write transaction
reads is what it overwrites, across threads, processes and nodes: there is one writer at a time
(docs/adr/0012-one-writer.md).
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from ca_service.judgment import Unavailable
from ca_service.store.backends import backend_of, parse_url
from ca_service.store.failures import failure
from ca_service.store.file import DatabaseFile
from ca_service.store.sessions import Faults, Session, Sessions
from ca_service.store.statements import changes, opening
from ca_service.store.transaction import Transaction
from ca_service.store.turns import Turns
from ca_service.store.writers import Writers


def no_faults(point: str) -> None:
    """Nothing goes wrong at `point`."""


REVISION = "0009"
"""The schema that this program needs: the newest of the migrations, as Alembic names it."""

_REVISIONS = sa.table("alembic_version", sa.column("version_num", sa.String))
_COUNTED = 2**31
_MESSAGE = "SELECT pg_logical_emit_message(true, 'vtpm-ca', 'is it writable?')"


class _Reading:
    """A transaction that reads; there are many of them, and to enter a generator costs half as much again."""

    def __init__(self, sessions: Sessions, sql: str) -> None:
        self._sessions = sessions
        self._sql = sql

    def __enter__(self) -> Transaction:
        try:
            self._session = self._sessions.begin(self._sql)
        except DBAPIError as error:
            raise failure("read", error) from None
        return Transaction(self._session)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._sessions.end(self._session)
        if isinstance(error, DBAPIError):
            raise failure("read", error) from None


class Store:
    """The CA's database.

    Safe for threads, and for processes that fork after it was made: each process gets connections of its own.
    """

    def __init__(self, url: str, faults: Faults = no_faults) -> None:
        self.url = url
        self._parsed = parse_url(url)
        self._backend = backend_of(self._parsed)
        self._faults = faults
        # PostgreSQL wakes the next writer itself. Made before a server forks its workers, who share it.
        self._turns = Turns() if self._backend.polls else None
        self._file = DatabaseFile(self._parsed.database if self.backend == "sqlite" else None)
        self._inherited: list[object] = []
        self._forked = threading.Lock()
        self._connect()

    @property
    def backend(self) -> str:
        """The kind of database, ``sqlite`` or ``postgresql``."""
        return self._backend.name

    def _connect(self) -> None:
        # The sessions are the pool.
        self._engine = sa.create_engine(
            self._parsed, poolclass=sa.NullPool, hide_parameters=True, **self._backend.engine
        )
        self._backend.listen(self._engine)
        event.listen(self._engine, "connect", self._file.opened)
        faults = None if self._faults is no_faults else self._faults
        if faults is not None:
            event.listen(self._engine, "before_cursor_execute", self._before_statement)
            event.listen(self._engine, "after_cursor_execute", self._after_statement)
        self._sessions = Sessions(self._engine, faults)
        self._writers = Writers(
            self._sessions, self._backend.begin_writing, self._turns, self._faults, self._file.check
        )
        # Last: another thread goes by it.
        self._pid = os.getpid()

    def _before_statement(self, _connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if changes(statement):
            self._faults("before " + opening(statement))

    def _after_statement(self, _connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if changes(statement):
            self._faults("after " + opening(statement))

    def _own(self) -> None:
        if self._pid == os.getpid():
            return
        with self._forked:
            if self._pid != os.getpid():
                # A database connection must not be used on both sides of a fork, and to let go of it would be a use.
                self._inherited.append((self._engine, self._sessions, self._writers))
                self._connect()

    def read(self) -> AbstractContextManager[Transaction]:
        """A consistent view of the database; nothing is changed.

        Raises:
            Unavailable: the database cannot be reached; at the beginning or within the block.
        """
        self._own()
        return _Reading(self._sessions, self._backend.begin_reading)

    @contextmanager
    def write(self, *, together: bool = False) -> Iterator[Transaction]:
        """One durable transaction: when the block ends without an exception, the disk has it.

        Args:
            together: a flush may be shared with other threads that write so. It is for transactions that take
                milliseconds, because each may wait for a few others; nobody may hold a lock that one of those needs.

        Raises:
            Taken: a constraint does not allow it; nothing was written.
            Unavailable: the database is busy or cannot be reached; nothing was written, unless the connection was
                lost while the commit was under way: then one must look.
        """
        self._own()
        writers = self._writers
        try:
            if together:
                batch = writers.join()
                try:
                    tx = Transaction(batch.session)
                    yield tx
                    self._faults("before commit")
                    batch.keep()
                except BaseException as error:
                    writers.undo(batch, error)
                    raise
                writers.finish(batch)
            else:
                with writers.alone() as session:
                    tx = Transaction(session)
                    yield tx
                    self._faults("before commit")
                    session.commit()
            tx.committed()
            self._faults("after commit")
        except DBAPIError as error:
            raise failure("written", error) from None

    @contextmanager
    def _exclusive(self) -> Iterator[Session]:
        """A session for writing; what was not committed at the end is rolled back."""
        self._own()
        with self._writers.alone() as session:
            yield session

    def check(self) -> None:
        """Whether the database has this program's schema.

        Raises:
            Unavailable: with the reason and the remedy.
        """
        found = self.revision()
        if found == REVISION:
            return
        from ca_service.store import upgrading  # noqa: PLC0415 - as in `upgrade`

        if found and not upgrading.knows(found):
            raise _later_schema()
        raise Unavailable(
            f"the database has schema {found or 'none'}, this program needs {REVISION}",
            code="schema",
            remedy="Run `vtpm-ca db upgrade`.",
        )

    def revision(self) -> str | None:
        """The schema of the database; None if it has none. Raises `Unavailable`."""
        # Where Alembic keeps it. To ask Alembic would load it, which takes a tenth of a server's start.
        with self.read() as tx:
            if not sa.inspect(tx.connection).has_table(_REVISIONS.name):
                return None
            found = tx.connection.execute(sa.select(_REVISIONS.c.version_num)).scalars().all()
        if len(found) > 1:
            raise Unavailable(
                "the database has more than one schema at once",
                code="schema",
                remedy="Bring it back with `vtpm-ca db restore`.",
            )
        return str(found[0]) if found else None

    def check_writable(self) -> None:
        """Commit a write and wait for the disk, as an enrolment would; nothing of it is left, and nothing grows.

        In SQLite a number in the file's head is counted on, which this program uses for nothing else. PostgreSQL writes
        a message into its log that nobody reads, with the transaction that every committed write needs.

        Raises:
            Unavailable: the database cannot be written, for example because its disk is full.
        """
        try:
            with self._exclusive() as session:
                if self.backend == "sqlite":
                    count = session.connection.exec_driver_sql("PRAGMA user_version").scalar() or 0
                    session.connection.exec_driver_sql(f"PRAGMA user_version = {(count + 1) % _COUNTED}")
                else:
                    setting = session.connection.exec_driver_sql("SHOW transaction_read_only").scalar()
                    if setting != "off":
                        raise Unavailable(
                            "the database cannot be written now: it is read-only",
                            remedy="Make it writable, or name the primary server.",
                        )
                    session.connection.exec_driver_sql(_MESSAGE)
                session.commit()
        except DBAPIError as error:
            raise failure("written", error) from None

    def upgrade(self) -> None:
        """Bring the schema to this program's, whole or not at all; a new database gets all of it.

        Raises:
            Unavailable: the database cannot be reached, or has the schema of a later release (code ``schema``).
        """
        from ca_service.store import upgrading  # noqa: PLC0415 - it loads Alembic, which nothing else needs

        try:
            with self._exclusive() as session:
                upgrading.upgrade(session.connection)
                session.commit()
        except upgrading.UnknownSchema as error:
            raise _later_schema() from error
        except DBAPIError as error:
            raise failure("upgraded", error) from None

    def close(self) -> None:
        """Let go of all connections; those in use are closed when their transactions end."""
        if self._pid == os.getpid():
            self._sessions.close()
            self._file.forget()


def open_store(url: str, faults: Faults = no_faults) -> Store:
    """Open an existing database.

    Args:
        url: as SQLAlchemy writes it, for example ``sqlite:////var/lib/vtpm-ca/ca.sqlite3``.
        faults: what goes wrong around the writes; only tests hand something in.

    Raises:
        Unavailable: the database is not there or has another schema.
    """
    return _opened(Store(url, faults), Store.check)


def create_store(url: str, faults: Faults = no_faults) -> Store:
    """Make a new database, or upgrade one, and open it; raises as `Store.upgrade` does."""
    return _opened(Store(url, faults), Store.upgrade)


def _opened(store: Store, prepare: Callable[[Store], None]) -> Store:
    try:
        prepare(store)
    except BaseException:
        store.close()
        raise
    return store


def _later_schema() -> Unavailable:
    return Unavailable(
        "the database has a schema that this program does not know: a later release wrote it",
        code="schema",
        remedy="Run that release, or a later one.",
    )
