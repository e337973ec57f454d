"""Whose a database is, whatever release wrote it: its schema need not be this program's."""

import sqlalchemy as sa

from ca_service.store.database import Store

_NAMED_IN = (("issuers", "skid"), ("crls", "issuer"), ("certificates", "issuer"))
"""Where databases name the issuing CAs that they belong to. The first schema has but the last two, and each since then
has all of them."""


def named_issuers(store: Store) -> frozenset[str]:
    """Subject key ids (hex) of all issuing CAs that a database names; none if it holds nothing of a CA.

    Raises:
        Unavailable: it cannot be read, for example because it is damaged.
    """
    found = set[str]()
    with store.read() as tx:
        inspector = sa.inspect(tx.connection)
        for table, column in _NAMED_IN:
            if inspector.has_table(table) and column in {
                each["name"] for each in inspector.get_columns(table)
            }:
                named = sa.column(column, sa.String)
                query = sa.select(named).select_from(sa.table(table)).distinct()
                found.update(tx.connection.execute(query).scalars())
    return frozenset(found)
