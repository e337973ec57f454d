"""A CA's database: where it is, and opening it."""

import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ca_service.judgment import BadRequest, Unavailable, VtpmCaError
from ca_service.store import Store, named_issuers, open_store, parse_url, sqlite_url

if TYPE_CHECKING:
    from ca_service.keys import PublicAuthority

DATABASE = "ca.sqlite3"

_OTHERS = """\
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid() ORDER BY pid"""
_PATIENCE_S = 5.0
_PAUSE_S = 0.05


def database_url(directory: Path) -> str:
    """The database that a CA uses unless it is told otherwise."""
    return sqlite_url(directory / DATABASE)


def open_database(url: str) -> Store:
    """Open a CA's database, and never make one: a new one would not know what the CA has issued.

    Args:
        url: as SQLAlchemy writes it. It may hold a password, so no error repeats it.

    Raises:
        BadRequest: no such URL, or the driver for it is not installed.
        Unavailable: the database is missing, damaged, out of reach, or has another schema.
    """
    return _existing(url, open_store)


def require_own(public: "PublicAuthority", skids: Collection[str]) -> None:
    """Refuse a database that knows issuing CAs, but none of this directory.

    Args:
        public: the CA.
        skids: subject key ids (hex) of the issuing CAs that the database knows.

    Raises:
        BadRequest: it is another CA's (code ``authority``).
    """
    if skids and not any(ca.skid in skids for ca in public.issuers):
        raise BadRequest(
            "database",
            "is the one of another CA: it knows none of the issuing CAs in this directory",
            code="authority",
            remedy="Name the database of this CA, or the directory of that one.",
        )


def require_own_remains(public: "PublicAuthority", url: str) -> None:
    """Refuse to replace what another CA's program, of an earlier or later release, works with.

    What cannot be read at all is damaged, and is what restores are for.

    Raises:
        BadRequest: as `require_own`.
    """
    if not is_there(url):
        return
    store = Store(url)
    try:
        skids = named_issuers(store)
    except VtpmCaError:
        return
    finally:
        store.close()
    require_own(public, skids)


def is_there(url: str) -> bool:
    """Whether there may be a database; to open a missing SQLite file would make one."""
    parsed = parse_url(url)
    return parsed.get_backend_name() != "sqlite" or Path(parsed.database or "").is_file()


def require_unicode(url: str) -> None:
    """Refuse a PostgreSQL database that cannot hold every text, before a CA's rows are brought into it.

    PostgreSQL gives a new database the encoding of the server's locale, which may be none.

    Raises:
        Unavailable: it has another encoding than UTF8 (code ``encoding``), or cannot be read.
    """
    if parse_url(url).get_backend_name() != "postgresql":
        return
    store = Store(url)
    try:
        with store.read() as tx:
            encoding = tx.connection.exec_driver_sql("SHOW server_encoding").scalar()
    finally:
        store.close()
    if encoding != "UTF8":
        raise Unavailable(
            f"the database has the encoding {encoding}; the CA's texts need UTF8",
            code="encoding",
            remedy="Make one with `createdb --encoding=UTF8 --template=template0`, and name it instead.",
        )


def require_alone(url: str) -> None:
    """Refuse a PostgreSQL database on which another node, or another command, is still at work.

    What that one revoked or issued while a backup takes the database's place would be lost, and before an upgrade it is
    of an earlier release. (On SQLite the lock in the CA's directory keeps others out.)

    Raises:
        Unavailable: another session of the CA's role is open (code ``busy``), or the database cannot be read.
    """
    if parse_url(url).get_backend_name() != "postgresql":
        return
    store, deadline = Store(url), time.monotonic() + _PATIENCE_S
    try:
        # A session that was just closed may be listed for a moment.
        while others := _others(store):
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"others still work on the database: the server lists their sessions as {others}",
                    code="busy",
                    remedy="Stop the CA on every node, and end what else is connected as the CA's role.",
                )
            time.sleep(_PAUSE_S)
    finally:
        store.close()


def _others(store: Store) -> str:
    with store.read() as tx:
        return ", ".join(str(pid) for pid in tx.connection.exec_driver_sql(_OTHERS).scalars())


def upgrade_database(public: "PublicAuthority", url: str) -> None:
    """Bring a CA's database to this program's schema.

    A database without tables is refused: `init` and a restore make them. An empty one would not know what is revoked.

    Raises:
        BadRequest: as `open_database`, and if it is another CA's, whose program may be an earlier one.
        Unavailable: as `open_database` and `require_alone`.
    """
    require_alone(url)
    _existing(url, partial(_upgraded, public)).close()


def _upgraded(public: "PublicAuthority", url: str) -> Store:
    store = Store(url)
    try:
        _require_tables(store)
        require_own(public, named_issuers(store))
        store.upgrade()
    except BaseException:
        store.close()
        raise
    return store


def _require_tables(store: Store) -> None:
    if store.revision() is None:
        raise Unavailable(
            "the database is empty: no CA's tables are in it",
            code="empty",
            remedy="Bring the CA's database into it from a backup, with `vtpm-ca db restore`.",
        )


def _existing(url: str, open_: Callable[[str], Store]) -> Store:
    try:
        parsed = parse_url(url)
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
            raise Unavailable(
                f"the CA's database {parsed.database} is missing",
                remedy="Restore it from a backup: the CA must know what it has issued.",
            )
        return open_(url)
    except sa.exc.DBAPIError:
        raise Unavailable(
            "the CA's database is damaged, or is none", remedy="Restore it from a backup."
        ) from None
