"""The two databases that a CA may lie in, and what each needs so that both keep the same promises.

SQLite runs in WAL mode with synchronous=FULL: a commit returns after the log is flushed to the disk. Write
transactions begin with BEGIN IMMEDIATE. PostgreSQL gets the same meaning from one advisory lock that every write
transaction takes first, and from synchronous_commit, which no role or database setting may switch off.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event

from ca_service.judgment import BadRequest
from ca_service.store.rows import CertificateState, EnrollmentState, IntentState, IssuerState

if TYPE_CHECKING:
    import psycopg

BUSY_TIMEOUT_MS = 15_000
"""How long a writer waits for another one's transaction before it gives up."""

STATEMENT_TIMEOUT_MS = 60_000
"""How long PostgreSQL may work on one statement."""

IDLE_TIMEOUT_MS = 60_000
"""How long a transaction may stand idle before PostgreSQL ends it: a node that hangs in one stops no other."""

WRITE_LOCK = 0x7674_706D_6361_0001
"""Number of the advisory lock that writers take ("vtpmca", 1). PostgreSQL keeps such locks per database."""

_CONNECT: Mapping[str, object] = {
    "connect_timeout": 5,
    # Else the environment or the database's own encoding decides in what text comes.
    "client_encoding": "utf8",
    # A peer that is gone without a word is noticed within these, not after the kernel's two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

# `remote_apply` asks for more than `on`, so it may stand; everything else that differs promises less.
_SESSION = f"""\
SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                  WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false),
       set_config('lock_timeout', '{BUSY_TIMEOUT_MS}', false),
       set_config('statement_timeout', '{STATEMENT_TIMEOUT_MS}', false),
       set_config('idle_in_transaction_session_timeout', '{IDLE_TIMEOUT_MS}', false),
       set_config('idle_session_timeout', '0', false),
       set_config('tcp_keepalives_idle', '10', false),
       set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false),
       set_config('default_transaction_isolation', 'read committed', false),
       set_config('search_path', 'public', false)"""


@dataclass(frozen=True)
class Backend:
    """How one kind of database is used.

    Attributes:
        name: as SQLAlchemy calls the database, ``sqlite`` or ``postgresql``.
        begin_reading: SQL with which a reader's transaction begins: all its statements see one moment.
        begin_writing: SQL with which a writer's transaction begins: no other writer gets further than this.
        polls: whether a writer who waits there looks again from time to time, instead of being woken.
        engine: arguments of `sqlalchemy.create_engine`.
    """

    name: str
    begin_reading: str
    begin_writing: str
    polls: bool
    engine: Mapping[str, Any] = field(default_factory=dict)

    def listen(self, engine: sa.Engine) -> None:
        """Have each new connection set up as it must."""
        if self.name == "sqlite":
            _register_adapters()
        event.listen(engine, "connect", _prepare_sqlite if self.name == "sqlite" else _prepare_postgresql)


SQLITE = Backend("sqlite", "BEGIN", "BEGIN IMMEDIATE", polls=True)

POSTGRESQL = Backend(
    "postgresql",
    "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    # Nothing says READ WRITE: an operator may have made the database read-only.
    f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({WRITE_LOCK})",
    polls=False,
    engine={"connect_args": dict(_CONNECT)},
)

_DRIVERS = {"sqlite": ("sqlite", "sqlite+pysqlite"), "postgresql": ("postgresql", "postgresql+psycopg")}


def sqlite_url(file: Path) -> str:
    """The URL of a SQLite database.

    Args:
        file: where it lies; its name may hold what means something else in a URL.

    Raises:
        BadRequest: the path is no UTF-8, which SQLite wants.
    """
    try:
        return sa.URL.create("sqlite", database=str(file.absolute())).render_as_string()
    except UnicodeEncodeError:
        raise BadRequest(ascii(str(file)), "is no path in UTF-8; name another one") from None


def parse_url(url: str) -> sa.URL:
    """Read the URL of a database. It may hold a password, so no error repeats it.

    Args:
        url: ``sqlite:////var/lib/vtpm-ca/ca.sqlite3`` or ``postgresql://user@host/name``, as SQLAlchemy writes it.

    Raises:
        BadRequest: it is none, names another kind of database, or the driver for it is not installed.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise BadRequest(
            "database",
            "must be the URL of a database, such as sqlite:////file or postgresql://user@host/name",
        ) from None
    kind = parsed.get_backend_name()
    if parsed.drivername not in _DRIVERS.get(kind, ()):
        raise BadRequest(
            "database",
            "must be the URL of a database whose driver is installed: sqlite:// or postgresql://",
            remedy="PostgreSQL is reached with psycopg 3 only: postgresql://... or postgresql+psycopg://...",
        )
    if kind == "sqlite":
        return parsed.set(drivername="sqlite+pysqlite")
    try:
        import psycopg  # noqa: F401, PLC0415 - an extra, wanted only by those who use PostgreSQL
    except ImportError:
        raise BadRequest(
            "database",
            "needs the PostgreSQL driver psycopg 3, which is not installed: its driver is an extra",
            code="driver",
            remedy="Install it: pip install 'vtpm-ca[postgresql]'.",
        ) from None
    return parsed.set(drivername="postgresql+psycopg")


def backend_of(url: sa.URL) -> Backend:
    """The backend for a URL that `parse_url` gave."""
    return SQLITE if url.get_backend_name() == "sqlite" else POSTGRESQL


def _register_adapters() -> None:
    import sqlite3  # noqa: PLC0415 - wanted only by those who use SQLite

    # Of a value that is no plain number or text, SQLite's driver asks two objects for an adapter, each time and in
    # vain, before it takes it as it is. That takes longer than to store it. What is registered it finds at once.
    sqlite3.register_adapter(NoneType, lambda none: none)
    sqlite3.register_adapter(bytes, bytes)
    for state in (CertificateState, EnrollmentState, IntentState, IssuerState):
        sqlite3.register_adapter(state, str.__str__)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: the store does.
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


def _prepare_postgresql(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: the store does.
    connection.autocommit = True
    connection.execute(_SESSION)


def connect_apart(url: sa.URL) -> "psycopg.Connection[Any]":
    """A PostgreSQL session outside any pool, each statement a transaction, for locks that live as long as it.

    Raises:
        psycopg.Error: the server cannot be reached.
    """
    import psycopg  # noqa: PLC0415 - see `parse_url`

    _, arguments = url.get_dialect()().create_connect_args(url)
    session = psycopg.connect(**{**_CONNECT, **arguments}, autocommit=True)
    session.execute(_SESSION)
    return session
