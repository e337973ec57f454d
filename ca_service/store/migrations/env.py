"""Where Alembic gets its connection from: `ca_service.store.database` hands one in."""

import sqlalchemy as sa
from alembic import context

from ca_service.store import schema


def _run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=schema.metadata,
        # SQLite can alter tables only by copying them; PostgreSQL ignores this.
        render_as_batch=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


_run(context.config.attributes["connection"])
