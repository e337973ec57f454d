"""`vtpm-ca audit`: does what the CA did stand in its log, and the log in what it signed?"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ca_service.cli.files import read_bytes
from ca_service.cli.options import (
    PathName,
    directory_option,
    find_directory,
    with_directory,
)
from ca_service.cli.output import echo, show_json, show_rows, with_json
from ca_service.cli.place import open_public
from ca_service.judgment import Conflict
from vtpm.wire.note import MAX_NOTE

if TYPE_CHECKING:
    from ca_service.audit import AuditReport

_COLUMNS = ("code", "subject", "detail")


@click.group(short_help="The log of decisions and certificates.")
def audit() -> None:
    """The append-only log of every decision and certificate."""


@audit.command()
@click.argument("dest", type=PathName(directory=True), required=False)
@click.option("--key", metavar="VKEY", help="verifier key of the log whose export lies in DEST")
@click.option(
    "--since",
    type=PathName(directory=False),
    help="a checkpoint kept from before: the log must only have grown",
)
@directory_option()
@with_json
@click.pass_context
def verify(
    context: click.Context,
    dest: Path | None,
    key: str | None,
    since: Path | None,
    directory: str | None,
    *,
    as_json: bool,
) -> None:
    """Recompute the log, and hold against it what the CA keeps.

    Without DEST, the CA's database: tree, signature, and every decision, certificate, evidence and policy. With DEST,
    an exported folder: that needs --key and nothing of the CA. Exit 1 if anything is not as it was logged.
    """
    from ca_service.cli.direct import working_database
    from ca_service.operations.audit import audit_export, parse_key
    from ca_service.operations.verification import verify_ca

    older = None if since is None else read_bytes(since, MAX_NOTE)
    if dest is not None:
        if key is None:
            raise click.UsageError(
                "an export is verified with --key, which its CA's operator publishes", context
            )
        report = audit_export(dest, parse_key(key), older)
    else:
        if key is not None:
            raise click.UsageError("--key is for an export in DEST; a CA's directory holds its own", context)
        place = find_directory(context, directory)
        with working_database(place) as store:
            report = verify_ca(open_public(place), store, older)
    _show(report, as_json=as_json)
    if not report.clean:
        count = sum(report.counts.values())
        things = "1 thing is" if count == 1 else f"{count} things are"
        raise Conflict(f"{things} not as it was logged", code="audit")


@audit.command()
@click.argument("dest", type=PathName(directory=True))
@with_directory
@with_json
def export(dest: Path, directory: Path, *, as_json: bool) -> None:
    """Fill the folder DEST for an auditor: log, certificates, evidence, policies.

    Into the folder of an earlier export goes what is new. If the log has another history than that export, nothing is
    written.
    """
    from ca_service.cli.direct import working_database
    from ca_service.operations.audit import export_ca

    with working_database(directory) as store:
        report = export_ca(open_public(directory), store, dest)
    if as_json:
        show_json(report.to_json())
        return
    echo(f"{dest} holds {report.size} leaves, {report.size - report.old_size} of them new")
    echo(f"An auditor runs: vtpm-ca audit verify {shlex.quote(str(dest))} --key {report.key}")


def _show(report: "AuditReport", *, as_json: bool) -> None:
    values: dict[str, Any] = report.to_json()
    if as_json:
        show_json(values)
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.leaves.items()))
    echo(f"{values['verdict']}  {report.origin}: {report.size} leaves ({kinds or 'none'})")
    echo(f"root {values['root']}")
    show_rows(values["findings"], _COLUMNS, as_json=False, empty="")
    hidden = sum(report.counts.values()) - len(report.findings)
    if hidden:
        echo(f"and {hidden} more: " + ", ".join(f"{code} {n}" for code, n in sorted(report.counts.items())))
