"""Connections that stay open between transactions, and the statements that they run.

A session is used by one transaction at a time. What a transaction left behind is rolled back before the next one gets
it, and a session that may not be as it was is closed instead of being used again.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from operator import attrgetter, methodcaller
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from ca_service.judgment import Unavailable, VtpmCaError
from ca_service.store.statements import Prepared, Statement, prepare

MOST = 80
"""Sessions that a process has at once."""

KEPT = 16
"""Those of them that stay open while nobody needs them."""

WAIT_S = 30.0
"""How long somebody waits for one when all are in use."""

Faults = Callable[[str], None]
"""Called with the name of each point around a write; the tests of crashes end the process there."""

NO_VALUES: Mapping[str, object] = MappingProxyType({})

_FETCH_ALL = methodcaller("fetchall")
_ROW_COUNT = attrgetter("rowcount")


def _number(cursor: Any) -> Any:
    # SQLAlchemy lets PostgreSQL return the number. SQLite's driver knows it; to return it costs SQLite a table.
    return cursor.lastrowid if cursor.description is None else cursor.fetchone()[0]


class Session:
    """One connection to the database."""

    def __init__(self, connection: sa.Connection, prepared: dict[Statement, Prepared]) -> None:
        self._connection = connection
        self._options = connection.get_execution_options()
        self._lent = False
        driver: Any = connection.connection.dbapi_connection
        self._driver = driver
        # One for all statements: each takes the place of what the one before it left there.
        self._cursor = driver.cursor()
        self._dialect = connection.dialect
        self._error = connection.dialect.loaded_dbapi.Error
        self._prepared = prepared
        self._begun = False

    @property
    def connection(self) -> sa.Connection:
        """SQLAlchemy's, for whatever is not worth a `Statement`; it takes part in the same transaction."""
        self._lent = True
        return self._connection

    def rows(
        self, statement: Statement, values: Mapping[str, object] = NO_VALUES
    ) -> tuple[tuple[str, ...], list[Sequence[Any]]]:
        """Run a statement that gives rows; returns the columns' names and the rows. Raises `DBAPIError`."""
        prepared = self._prepared.get(statement) or self._prepare(statement)
        found = self._execute(prepared, prepared.bind(values), _FETCH_ALL)
        return prepared.names, found if prepared.read is None else [prepared.read(row) for row in found]

    def first(self, statement: Statement, values: Mapping[str, object] = NO_VALUES) -> Sequence[Any] | None:
        """The first row, None if there is none; raises `DBAPIError`."""
        _, rows = self.rows(statement, values)
        return rows[0] if rows else None

    def run(self, statement: Statement, values: Mapping[str, object]) -> int:
        """Run a statement that writes; returns how many rows it changed. Raises `DBAPIError`."""
        prepared = self._prepared.get(statement) or self._prepare(statement)
        changed: int = self._execute(prepared, prepared.bind(values), _ROW_COUNT)
        return changed

    def run_all(self, statement: Statement, values: Sequence[Mapping[str, object]]) -> int:
        """Run it once with each of the values; returns how many rows were changed altogether. Raises `DBAPIError`."""
        prepared = self._prepared.get(statement) or self._prepare(statement)
        changed: int = self._execute(prepared, list(map(prepared.bind, values)), _ROW_COUNT, many=True)
        return changed

    def insert(self, statement: Statement, values: Mapping[str, object]) -> int:
        """Insert a row to which the database gives a number, and return that. Raises `DBAPIError`."""
        prepared = self._prepared.get(statement) or self._prepare(statement)
        number: int = self._execute(prepared, prepared.bind(values), _number)
        return number

    def _execute(
        self, prepared: Prepared, parameters: Any, result: Callable[[Any], Any], *, many: bool = False
    ) -> Any:
        if not self._begun:
            # The driver would make a transaction of its own of it, and the session may be another thread's by now.
            raise VtpmCaError("a transaction was used after its end", code="internal")
        cursor = self._cursor
        try:
            if many:
                cursor.executemany(prepared.sql, parameters)
            else:
                cursor.execute(prepared.sql, parameters)
            return result(cursor)
        except self._error as error:
            self._fail(prepared.sql, error)

    def _prepare(self, statement: Statement) -> Prepared:
        prepared = self._prepared[statement] = prepare(statement, self._dialect)
        return prepared

    def _fail(self, sql: str, error: Exception) -> NoReturn:
        """Raise a driver's error as SQLAlchemy does, so that there is one kind of them."""
        raise DBAPIError.instance(
            sql, None, error, self._error, hide_parameters=True, dialect=self._dialect,
            connection_invalidated=self.lost(error),
        ) from error  # fmt: skip

    def lost(self, error: BaseException | None) -> bool:
        """Whether the error means that there is no connection any more."""
        return isinstance(error, self._error) and self._dialect.is_disconnect(error, self._driver, None)

    def begin(self, sql: str) -> None:
        """Begin a transaction; raises `DBAPIError`."""
        self.control(sql)
        self._begun = True

    def control(self, sql: str) -> None:
        """Run a statement about the transaction itself; raises `DBAPIError`."""
        try:
            self._cursor.execute(sql)
        except self._error as error:
            self._fail(sql, error)

    def hand_on(self) -> "Session":
        """The same connection and transaction in other hands; with this one nothing can be done any more."""
        other = copy(self)
        self._begun = False
        return other

    def commit(self) -> None:
        """Make the transaction durable; raises `DBAPIError`."""
        if self._lent and self._connection.in_transaction():
            self._connection.commit()
            return
        try:
            self._driver.commit()
        except self._error as error:
            self._fail("COMMIT", error)

    def reset(self) -> bool:
        """Roll back what was not committed; says whether the session is as it was when it was new."""
        self._begun = False
        try:
            if self._lent:
                # Whatever SQLAlchemy says of it: of a transaction whose commit failed, that there is none.
                self._connection.rollback()
            self._driver.rollback()
        except (self._error, sa.exc.SQLAlchemyError):
            return False
        if not self._lent:
            return True
        self._lent = False
        connection = self._connection
        return not connection.invalidated and connection.get_execution_options() is self._options

    def close(self) -> None:
        """End the connection."""
        with suppress(self._error, sa.exc.SQLAlchemyError):
            # Without a last rollback, which would fail noisily where the server is gone already.
            self._connection.invalidate()
            self._connection.close()


class _FaultySession(Session):
    """One in which something goes wrong around the writes."""

    def __init__(
        self, connection: sa.Connection, prepared: dict[Statement, Prepared], faults: Faults
    ) -> None:
        super().__init__(connection, prepared)
        self._faults = faults

    def _execute(
        self, prepared: Prepared, parameters: Any, result: Callable[[Any], Any], *, many: bool = False
    ) -> Any:
        if not prepared.point:
            return super()._execute(prepared, parameters, result, many=many)
        self._faults("before " + prepared.point)
        found = super()._execute(prepared, parameters, result, many=many)
        self._faults("after " + prepared.point)
        return found


class Sessions:
    """The sessions of one process with one database, at most `MOST`. Safe for threads; not to be used after a fork.

    Args:
        engine: makes connections.
        faults: what goes wrong around the writes, if anything does.
    """

    def __init__(self, engine: sa.Engine, faults: Faults | None) -> None:
        self._engine = engine
        self._faults = faults
        # By statement, of which the program has a bounded number; the engine has one dialect.
        self._prepared: dict[Statement, Prepared] = {}
        # One ticket for each session that there may be. A semaphore would do, but is not written in C.
        self._tickets: SimpleQueue[None] = SimpleQueue()
        for _ in range(MOST):
            self._tickets.put(None)
        self._idle: deque[Session] = deque()
        self._open = True

    def begin(self, sql: str) -> Session:
        """A session in a transaction that `sql` has begun; `end` must follow.

        Raises:
            Unavailable: all are in use.
            DBAPIError: the database cannot be reached, or does not let a transaction begin.
        """
        try:
            self._tickets.get(timeout=WAIT_S)
        except Empty:
            raise Unavailable("the database cannot be reached now: no connection is free") from None
        session = None
        try:
            session = self._kept()
            if session is not None and self._begin(session, sql):
                return session
            session = None
            session = self._new()
            session.begin(sql)
        except BaseException:
            self.end(session)
            raise
        return session

    def _new(self) -> Session:
        connection = self._engine.connect()
        if self._faults is None:
            return Session(connection, self._prepared)
        return _FaultySession(connection, self._prepared, self._faults)

    def _kept(self) -> Session | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _begin(self, session: Session, sql: str) -> bool:
        """Begin with a kept session; False if the server has ended it meanwhile."""
        try:
            session.begin(sql)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            # What ended one has ended them all. Nothing rests on any of them yet.
            session.close()
            self.clear()
            return False
        return True

    def end(self, session: Session | None) -> None:
        """Take a session back; what it has not committed is rolled back."""
        try:
            if session is None:
                return
            if session.reset() and self._open and len(self._idle) < KEPT:
                self._idle.append(session)
            else:
                session.close()
        finally:
            self._tickets.put(None)

    def clear(self) -> None:
        """Close those that nobody uses."""
        while (session := self._kept()) is not None:
            session.close()

    def close(self) -> None:
        """Close all of them; those in use are closed when they are given back."""
        self._open = False
        self.clear()
