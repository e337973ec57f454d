"""Migrations of the schema, by Alembic."""

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError as UnknownSchema

__all__ = ["UnknownSchema", "knows", "upgrade"]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "ca_service.store:migrations")
    return config


def knows(revision: str) -> bool:
    """Whether a migration leads to this schema."""
    scripts = ScriptDirectory.from_config(_config())
    return revision in {script.revision for script in scripts.walk_revisions()}


def upgrade(connection: sa.Connection) -> None:
    """Bring a database to the newest schema, in the transaction that the caller commits.

    Raises:
        UnknownSchema: it has one that no migration leads on from.
        DBAPIError: the database does not take a statement.
    """
    # Alembic commits by itself unless it finds a transaction under way.
    connection.begin()
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
