"""What went wrong in a database, as an error of the CA: who may try again, and what the operator has to do.

The texts are ours. A driver's own may repeat values of the statement (PostgreSQL's DETAIL does), so none of it
is passed on but the short name of the condition.
"""

import re

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError

from ca_service.judgment import Unavailable, VtpmCaError


class Taken(VtpmCaError):
    """A constraint of the database said no: another request was faster, or the ledger forbids it."""

    code = "taken"


_NO_TABLE = "42P01"

_SQLSTATES = {
    "25006": ("it is read-only", "Make it writable, or name the primary server."),
    "28000": ("it does not let the CA in", "See user and password of the database's URL."),
    "28P01": ("it does not let the CA in", "See user and password of the database's URL."),
    "3D000": ("there is no database of that name", "Restore it from a backup, or correct its URL."),
    "40001": ("another transaction was faster", ""),
    "40P01": ("another transaction was faster", ""),
    "42501": ("the CA's role lacks a right", "Let the CA's role own the database."),
    "53100": ("its disk is full", "Make room on the database's disk."),
    "53300": ("it has no connection left", "Raise max_connections."),
    "55P03": ("another writer holds it too long", ""),
    "57014": ("a statement took too long", ""),
    "57P03": ("it is just starting or ending", ""),
}
"""PostgreSQL's SQLSTATEs (its documentation, appendix A) that an operator can do something about."""

_REFUSALS = (
    (re.compile("authentication failed"), "28P01"),
    (re.compile('no pg_hba.conf entry|role "[^"]*" does not exist'), "28000"),
    (re.compile('database "[^"]*" does not exist'), "3D000"),
    (re.compile("too many clients|connection slots are reserved"), "53300"),
    (re.compile("starting up|shutting down|in recovery mode"), "57P03"),
)
"""Of a connection that does not come about, libpq gives no SQLSTATE, but what the server says. Its language may be
another one: then that there is no connection has to do."""

_NO_CONNECTION = (
    "no connection to it comes about",
    "See host, port, user, password and name in the database's URL, and the server's log: it says why it refuses.",
)

_SQLITE_NAMES = {
    "SQLITE_BUSY": ("another writer holds it too long", ""),
    "SQLITE_CANTOPEN": ("its file cannot be opened", "See the file's permissions, and those of its folder."),
    "SQLITE_FULL": ("its disk is full", "Make room on the database's disk."),
    "SQLITE_IOERR": ("its disk fails or is full", "See the disk that it lies on."),
    "SQLITE_READONLY": (
        "it is read-only",
        "See the permissions of the file, of its folder, and of the -wal and -shm beside it.",
    ),
}
"""SQLite's primary result codes (its documentation, "Result and Error Codes") with the same."""


def failure(doing: str, error: DBAPIError) -> VtpmCaError:
    """The CA's error for one of the database's.

    Args:
        doing: what failed: ``read`` or ``written``.
        error: as SQLAlchemy raised it.

    Returns:
        `Taken` for a constraint, `Unavailable` for what may pass or can be repaired, and a plain `VtpmCaError` for a
        value that the database cannot hold, which is a fault of this program.
    """
    if isinstance(error, IntegrityError):
        name = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
        return Taken(f"a constraint of the database does not allow it: {name or error.orig}")
    if isinstance(error, DataError):
        return VtpmCaError("a value does not fit into the database; nothing was written", code="store")
    sqlstate = getattr(error.orig, "sqlstate", None)
    return _unavailable(doing, error, sqlstate)


def _unavailable(doing: str, error: DBAPIError, sqlstate: str | None) -> Unavailable:
    if sqlstate == _NO_TABLE or "no such table" in str(error.orig):
        return Unavailable(
            "the database has no schema, or an older one than this program needs",
            code="schema",
            remedy="Run `vtpm-ca db upgrade`.",
        )
    if error.statement is None and hasattr(error.orig, "sqlstate") and sqlstate is None:
        return _unreached(doing, error)
    why, remedy = _condition(sqlstate, getattr(error.orig, "sqlite_errorname", None))
    if why:
        return Unavailable(f"the database cannot be {doing} now: {why}", remedy=remedy)
    if isinstance(error, OperationalError) or sqlstate is not None or error.connection_invalidated:
        return Unavailable(f"the database cannot be {doing} now")
    return Unavailable("the database is damaged, or is none", remedy="Restore it from a backup.")


def _unreached(doing: str, error: DBAPIError) -> Unavailable:
    if not isinstance(error, OperationalError):
        return Unavailable(
            f"the database cannot be {doing}: its URL has an option that PostgreSQL's driver does not know",
            remedy="Correct what follows the question mark.",
        )
    said = str(error.orig)
    states = [state for pattern, state in _REFUSALS if pattern.search(said)]
    why, remedy = _SQLSTATES[states[0]] if states else _NO_CONNECTION
    return Unavailable(f"the database cannot be {doing} now: {why}", remedy=remedy)


def _condition(sqlstate: str | None, sqlite: str | None) -> tuple[str, str]:
    if sqlstate is not None:
        return _SQLSTATES.get(sqlstate, ("", ""))
    # Extended codes begin with their primary one.
    names = [name for name in _SQLITE_NAMES if (sqlite or "").startswith(name)]
    return _SQLITE_NAMES[names[0]] if names else ("", "")


def is_bad_value(error: Exception) -> bool:
    """Whether a row could be fetched, but holds what this program never wrote there.

    SQLite keeps any value in any column, so whoever edits a database by hand can make a row that cannot be read.
    """
    if isinstance(error, DBAPIError):
        return "decode to UTF-8" in str(error.orig)
    return isinstance(error, (ValueError, TypeError, AttributeError, LookupError, ArithmeticError))
