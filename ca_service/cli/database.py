"""`vtpm-ca db`: the CA's database."""

from pathlib import Path

import click

from ca_service import operations
from ca_service.cli.access import exclusive, find_database, open_public, with_directory
from ca_service.cli.output import echo


@click.group(short_help="The CA's database.")
def db() -> None:
    """The database of what the CA has decided, issued and revoked."""


@db.command()
@with_directory
def check(directory: Path) -> None:
    """See whether the database is there, can be read, and has this program's schema."""
    open_public(directory)
    operations.open_database(find_database(directory)).close()
    echo("the database has this program's schema")


@db.command()
@with_directory
def upgrade(directory: Path) -> None:
    """Bring the database to this program's schema; no server may run meanwhile."""
    open_public(directory)
    with exclusive(directory):
        operations.upgrade_database(find_database(directory))
    echo("the database has this program's schema")
