"""`vtpm-ca export ek-check-config`: what a host of keylime's tenant needs to judge EK certificates."""

from pathlib import Path

import click

from ca_service.cli.access import run
from ca_service.cli.options import PathName, with_directory
from ca_service.cli.output import echo, show_json, with_json
from ca_service.cli.place import open_public


@click.command("ek-check-config")
@click.argument("dest", type=PathName(directory=True))
@with_directory
@with_json
def ek_check_config(dest: Path, directory: Path, *, as_json: bool) -> None:
    """Write root, EK CAs and a configuration for vtpm-ca-ek-check into DEST.

    In a folder where that was done before, issuing CAs are brought up to date, and the configuration stays as it is.
    """
    from ca_service.export import trusted_issuers
    from ca_service.export.ek_check.writing import CONFIGURATION_FILE, export_ek_check

    public = open_public(directory)
    issuers = trusted_issuers(public, run(directory, "issuer-certificates")["trusted"])
    report = export_ek_check(dest, public.root, issuers)
    if as_json:
        show_json(report.to_json())
        return
    for name in report.written:
        echo(f"wrote {name}")
    for name in report.removed:
        echo(f"removed {name}")
    if report.kept:
        echo(f"kept {CONFIGURATION_FILE}")
    echo(f"SHA-256 of the root: {report.root_sha256}")
    echo(
        f"Next: set VTPM_CA_EK_CHECK_CONFIG={dest / CONFIGURATION_FILE} for keylime's tenant, or put the folder's"
    )
    echo("content to /etc/keylime; then `vtpm-ca-ek-check --check-config` there.")
