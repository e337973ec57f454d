"""`vtpm-ca init|crl|export`: the CA itself, its lists, and what consumers take from it."""

import os
import secrets
from pathlib import Path

import click

from ca_service import operations
from ca_service.cli.access import now, open_public, run, with_directory
from ca_service.cli.files import read_text
from ca_service.cli.options import PathName
from ca_service.cli.output import echo, show_json, show_rows, with_json
from ca_service.export import ExportRole, export_keylime
from ca_service.judgment import Conflict
from ca_service.keys import CeremonyConfig, find_passphrase

_MAX_CONFIG = 64 * 1024


@click.command(short_help="Make a CA: keys, certificates, first CRLs, database.")
@click.argument("directory", type=PathName(directory=True))
@click.option(
    "--config",
    type=PathName(directory=False),
    required=True,
    help="the ceremony's configuration (TOML); policies/ has examples",
)
@with_json
def init(directory: Path, config: Path, *, as_json: bool) -> None:
    """Make a CA in DIRECTORY: root, issuing CAs, first revocation lists, database."""
    ceremony = CeremonyConfig.from_toml(read_text(config, _MAX_CONFIG))
    transcript = operations.init(
        directory, ceremony, find_passphrase(os.environ), clock=now, entropy=secrets.token_bytes
    )
    if as_json:
        show_json(transcript.to_json())
        return
    echo(f"{transcript.mode} CA {transcript.ca_id} in {directory}")
    for entry in transcript.certificates:
        echo(f"  {entry.role:<10} {entry.subject}")
    echo(f"Move {directory}/offline to a medium in a safe: the running CA does not need the root's key.")


@click.group()
def crl() -> None:
    """Certificate revocation lists."""


@crl.command()
@with_directory
@with_json
def publish(directory: Path, *, as_json: bool) -> None:
    """Make and publish the next CRL of every issuing CA."""
    columns = ("issuer", "number", "this_update", "next_update")
    show_rows(run(directory, "crl-publish"), columns, as_json=as_json, empty="no issuing CA")


@click.group()
def export() -> None:
    """What consumers of the certificates need."""


@export.command()
@click.argument("dest", type=PathName(directory=True))
@click.option("--role", type=click.Choice(["ek", "devid"]), help="for a host that checks only these")
@click.option("--check", is_flag=True, help="change nothing; exit 1 if the folder is not as it should be")
@with_directory
@with_json
def keylime(dest: Path, role: ExportRole | None, directory: Path, *, check: bool, as_json: bool) -> None:
    """Make DEST a keylime tpm_cert_store that trusts this CA's issuing CAs.

    Files of other issuers in DEST stay as they are.
    """
    report = export_keylime(dest, open_public(directory).issuers, role, check=check)
    if as_json:
        show_json(report.to_json())
    else:
        word = "would write" if check else "wrote"
        for name in report.written:
            echo(f"{word} {name}")
        for name in report.removed:
            echo(f"{'would remove' if check else 'removed'} {name}")
        for name in report.hazards:
            echo(f"HAZARD {name}: keylime cannot read it, which disables the whole store", err=True)
        if report.in_order:
            echo(f"{dest} is as it should be")
    if not report.in_order:
        raise Conflict(
            f"{dest} is not as it should be",
            code="export",
            remedy="Take unreadable files away." if report.hazards else "Run this again without --check.",
        )
