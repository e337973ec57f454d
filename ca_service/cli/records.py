"""`vtpm-ca instance|cert|alarm`: what the CA keeps."""

from pathlib import Path
from typing import Any

import click

from ca_service.cli.access import run
from ca_service.cli.options import with_directory
from ca_service.cli.output import echo, show_fields, show_json, show_rows, with_json
from ca_service.cli.revoking import with_reason

_CERT_COLUMNS = ("serial", "profile", "template", "state", "issued_at")
_LIMIT = click.IntRange(1, 100_000)
_TPM_COLUMNS = ("live", "counter", "first_at", "last_at", "freed_at")


def _revoked(result: Any, *, as_json: bool) -> None:
    if as_json:
        show_json(result)
        return
    show_rows(result["revoked"], _CERT_COLUMNS, as_json=False, empty="no live certificate to revoke")
    if result["done"]:
        echo("done; what is revoked stands on the published CRL")
    else:
        echo("dry run: nothing was changed; add --yes to do it")


@click.group(short_help="Which TPM lives under which (KBS, resource).")
def instance() -> None:
    """Instances: which TPM lives under which (KBS, resource)."""


@instance.command("list")
@click.option("--tenant", metavar="NAME", help="only those of the key brokers of this tenant")
@with_directory
@with_json
def list_instances(tenant: str | None, directory: Path, *, as_json: bool) -> None:
    """List all instances, oldest first. The policy in force says whose their key brokers are."""
    columns = ("kbs", "tenant", "resource", "salt", "occupied", "created_at", "last_at")
    result = run(directory, "instance-list", tenant=tenant)
    show_rows(result, columns, as_json=as_json, empty="no instance yet")


@instance.command("show")
@click.argument("kbs", metavar="KBS")
@click.argument("resource", metavar="RESOURCE")
@click.option("--salt", help="volume salt, for resources that the policy marks as shared")
@with_directory
@with_json
def show_instance(kbs: str, resource: str, salt: str | None, directory: Path, *, as_json: bool) -> None:
    """Show the instance of RESOURCE at the key broker KBS: its TPMs, keys and certificates.

    KBS is the entry's id in the policy. --salt tells instances apart whose resource the policy marks as shared.
    """
    result = run(directory, "instance-show", kbs=kbs, resource=resource, salt=salt)
    show_fields(result, as_json=as_json)
    if not as_json:
        echo("\nTPMs that live or lived here")
        show_rows(result["tpms"], _TPM_COLUMNS, as_json=False, empty="none")
        echo("\nkeys")
        show_rows(result["keys"], ("role", "template", "name"), as_json=False, empty="none")
        echo("\ncertificates of the live TPM")
        show_rows(result["certificates"], _CERT_COLUMNS, as_json=False, empty="none")


@instance.command("reset")
@click.argument("kbs", metavar="KBS")
@click.argument("resource", metavar="RESOURCE")
@click.option("--salt", help="volume salt, for resources that the policy marks as shared")
@click.option("--cause", help="why, for the record")
@click.option("--yes", is_flag=True, help="do it; without this it is a dry run")
@with_directory
@with_json
def reset_instance(
    kbs: str, resource: str, salt: str | None, cause: str | None, directory: Path, *, yes: bool, as_json: bool
) -> None:
    """End the life of the TPM in an instance: revoke its certificates and free the instance for another.

    A dry run, which lists what would be revoked, unless --yes is given.
    """
    arguments = {"kbs": kbs, "resource": resource, "salt": salt, "cause": cause, "yes": yes}
    _revoked(run(directory, "instance-reset", **arguments), as_json=as_json)


@click.group()
def cert() -> None:
    """Certificates that this CA issued."""


@cert.command("list")
@click.option("--all", "everything", is_flag=True, help="revoked and abandoned ones too")
@click.option("--limit", type=_LIMIT, default=200, show_default=True, help="how many at most")
@with_directory
@with_json
def list_certs(limit: int, directory: Path, *, everything: bool, as_json: bool) -> None:
    """List the newest certificates first."""
    rows = run(directory, "cert-list", all=everything, limit=limit)
    show_rows(rows, _CERT_COLUMNS, as_json=as_json, empty="no certificate yet")


@cert.command("show")
@click.argument("serial")
@with_directory
@with_json
def show_cert(serial: str, directory: Path, *, as_json: bool) -> None:
    """Show the certificate with this SERIAL (hex), as PEM too."""
    result = run(directory, "cert-show", serial=serial)
    if as_json:
        show_json(result)
        return
    show_fields({name: value for name, value in result.items() if name != "pem"}, as_json=False)
    echo(result["pem"], nl=False)


@cert.command("revoke")
@click.argument("serial")
@with_reason()
@click.option("--yes", is_flag=True, help="do it; without this it is a dry run")
@with_directory
@with_json
def revoke_cert(
    serial: str, reason: str, cause: str | None, directory: Path, *, yes: bool, as_json: bool
) -> None:
    """Revoke the certificate with this SERIAL (hex) and publish the CRL.

    A dry run unless --yes is given.
    """
    result = run(directory, "cert-revoke", serial=serial, reason=reason, cause=cause, yes=yes)
    _revoked(result, as_json=as_json)


@click.group()
def alarm() -> None:
    """Alarms: what an operator must look at."""


@alarm.command("list")
@click.option("--kind", metavar="KIND", help="only alarms of this kind: clone, rollback, renewed")
@click.option("--limit", type=_LIMIT, default=200, show_default=True, help="how many at most")
@with_directory
@with_json
def list_alarms(kind: str | None, limit: int, directory: Path, *, as_json: bool) -> None:
    """List the newest alarms first."""
    columns = ("id", "at", "kind", "decision_id", "detail")
    result = run(directory, "alarm-list", limit=limit, kind=kind)
    show_rows(result, columns, as_json=as_json, empty="no alarm")
