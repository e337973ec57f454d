"""`vtpm-ca db`: the CA's database."""

import os
import secrets
from dataclasses import asdict
from pathlib import Path

import click

from ca_service.cli.access import exclusive
from ca_service.cli.files import read_bytes
from ca_service.cli.options import PathName, with_directory
from ca_service.cli.output import echo, show_fields, show_json, show_rows, with_json
from ca_service.cli.place import find_database, now, open_public
from ca_service.judgment import Refused

_MAX_CRL = 64 * 1024 * 1024


@click.group(short_help="The CA's database.")
def db() -> None:
    """The database of what the CA has decided, issued and revoked."""


@db.command()
@with_directory
@with_json
def check(directory: Path, *, as_json: bool) -> None:
    """See whether the database can be read, has this program's schema, and keeps what it must.

    Each invariant that is broken is named, with the first of the rows that break it; the exit code is 1 then.
    """
    from ca_service import operations
    from ca_service.operations.kept import check_not_rolled_back
    from ca_service.store import check_invariants

    public = open_public(directory)
    store = operations.open_database(find_database(directory))
    try:
        check_not_rolled_back(public, store)
        with store.read() as tx:
            breaches = check_invariants(tx, now())
    finally:
        store.close()
    if breaches or as_json:
        rows = [asdict(breach) | {"examples": list(breach.examples)} for breach in breaches]
        show_rows(rows, ("id", "count", "examples", "detail"), as_json=as_json, empty="")
    else:
        echo("the database has this program's schema, and everything in it fits")
    if breaches:
        raise Refused(breaches[0].id, "the database breaks what it must keep")


@db.command()
@with_directory
def upgrade(directory: Path) -> None:
    """Bring database and directory of the CA to what this program needs; no server may run meanwhile."""
    from ca_service import operations
    from ca_service.keys import find_passphrase

    public = open_public(directory)
    with exclusive(directory):
        if public.log is None:
            for added in operations.upgrade_directory(
                directory, find_passphrase(os.environ), secrets.token_bytes
            ):
                echo(added)
        url = find_database(directory)
        operations.upgrade_database(public, url)
        operations.remember(directory, url)
    echo("the database has this program's schema")


@db.command()
@click.argument("dest", metavar="DEST", type=PathName(directory=False))
@with_directory
@with_json
def backup(dest: Path, directory: Path, *, as_json: bool) -> None:
    """Write a consistent copy of the database into the new file DEST; a server may go on working.

    The copy is a SQLite file, whatever the CA's database is. It holds every certificate and decision, and no key.
    """
    from ca_service import operations
    from ca_service.operations import backup as backups
    from ca_service.operations.kept import check_not_rolled_back

    public = open_public(directory)
    store = operations.open_database(find_database(directory))
    try:
        check_not_rolled_back(public, store)
        manifest = backups.make_backup(public, store, dest, now())
    finally:
        store.close()
    if as_json:
        show_json(asdict(manifest))
    else:
        echo(f"{sum(manifest.rows.values())} rows of epoch {manifest.epoch} are in {dest}")


@db.command()
@click.argument("file", metavar="FILE", type=PathName(directory=False))
@click.option(
    "--crl", "crls", multiple=True, type=PathName(directory=False), help="a published list; may be repeated"
)
@click.option("--yes", is_flag=True, help="do it; without, only say what would be lost")
@with_directory
@with_json
def restore(file: Path, crls: tuple[Path, ...], directory: Path, *, yes: bool, as_json: bool) -> None:
    """Put the backup FILE in the place of the database; no server may run meanwhile.

    What was revoked since the backup stays revoked, as far as the CA remembers it, the present database can be read, or
    --crl names a list on which it stands. All nonces of before are void. Each node must be stopped.
    """
    from ca_service.enrollment import Limits
    from ca_service.keys import find_passphrase, find_pin, load_authority
    from ca_service.operations import backup as backups

    public = open_public(directory)
    url, given = find_database(directory), {str(path): read_bytes(path, _MAX_CRL) for path in crls}
    with exclusive(directory):
        if yes:
            authority = load_authority(directory, find_passphrase(os.environ), find_pin(os.environ))
            losses = backups.restore(
                authority, url, file, given, at=now(), entropy=secrets.token_bytes, limits=Limits()
            )
        else:
            losses = backups.plan_restore(public, url, file, given)
    show_fields({**losses.to_json(), "done": yes}, as_json=as_json)
    if not as_json:
        echo("done" if yes else "dry run: nothing was changed; add --yes to do it")
