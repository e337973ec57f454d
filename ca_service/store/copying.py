"""All rows of one database into another, in batches: what backup and restore are made of."""

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.transaction import Transaction

BATCH = 500
"""Rows that are held in memory at once."""

_ORDER = tuple(schema.metadata.sorted_tables)
"""Tables such that no row comes before one that it refers to."""


def copy_rows(source: Transaction, target: Transaction) -> dict[str, int]:
    """Copy every table; the target's must be empty. Both databases have this program's schema.

    Returns:
        The number of rows by table.
    """
    counts = {}
    for table in _ORDER:
        query = sa.select(table).order_by(*table.primary_key.columns)
        rows = source.connection.execution_options(yield_per=BATCH).execute(query)
        counts[table.name] = 0
        for batch in rows.mappings().partitions():
            target.connection.execute(table.insert(), [dict(row) for row in batch])
            counts[table.name] += len(batch)
    _count_on(target.connection)
    return counts


def clear_rows(target: Transaction) -> None:
    """Remove every row of every table, within the transaction; on PostgreSQL nobody may read meanwhile."""
    connection = target.connection
    if connection.dialect.name == "postgresql":
        # To delete rows would look up, without an index, what refers to each of them.
        quote = connection.dialect.identifier_preparer.format_table
        connection.exec_driver_sql("TRUNCATE " + ", ".join(quote(table) for table in _ORDER))
        return
    for table in reversed(_ORDER):
        target.connection.execute(table.delete())


def take_time(target: Transaction) -> None:
    """Let a statement of this transaction take as long as it needs: nobody waits for a whole database's rows."""
    if target.connection.dialect.name == "postgresql":
        target.connection.exec_driver_sql("SET LOCAL statement_timeout = 0")


def _count_on(connection: sa.Connection) -> None:
    """Have the numbers that PostgreSQL gives go on above those that were copied; SQLite does so by itself."""
    if connection.dialect.name != "postgresql":
        return
    for table in _ORDER:
        column = table.autoincrement_column
        if column is None:
            continue
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        highest = sa.select(sa.func.max(column)).scalar_subquery()
        setval = sa.func.setval(sequence, sa.func.coalesce(highest, 1), highest.is_not(None))
        connection.execute(sa.select(setval))
