"""A new connection to a database compiles each statement anew. The words are the same for each SQLite: kept here.

A store compiles for itself alone; what it compiles depends on the tables and the dialect, and on nothing of a test.
"""

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache

from ca_service.store import Store
from ca_service.store.statements import Prepared, Statement

_connect = Store._connect
_compiled: LRUCache = LRUCache(2000)
_prepared: dict[Statement, Prepared] = {}


class _Alike(SQLiteDialect_pysqlite):
    """Compiled statements are looked up by their dialect; all of these count as one."""

    # SQLAlchemy looks into the class itself.
    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Alike)

    def __hash__(self) -> int:
        return hash(_Alike)


def _remembering(store: Store) -> None:
    _connect(store)
    if store._engine.dialect.name == "sqlite":
        store._engine.dialect.__class__ = _Alike
        store._engine._compiled_cache = _compiled
        store._sessions._prepared = _prepared


def remember_statements() -> None:
    """Let this process compile no statement twice for SQLite."""
    Store._connect = _remembering
