"""`vtpm-ca init|crl|export`: the CA itself, its lists, and what consumers take from it."""

import hashlib
import os
import secrets
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ca_service.cli.access import run
from ca_service.cli.ek_check import ek_check_config
from ca_service.cli.files import read_text
from ca_service.cli.options import PathName, with_directory
from ca_service.cli.output import echo, show_json, show_rows, with_json
from ca_service.cli.place import now, open_public, user_name
from ca_service.judgment import BadRequest, Conflict
from ca_service.status import REASONS

if TYPE_CHECKING:
    from ca_service.export import ExportReport, ExportRole, Setting

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
    """Make a CA in DIRECTORY: root, issuing CAs, first revocation lists, database, log key.

    What it did stands in DIRECTORY/transcript.txt, and for programs in transcript.json. The root's key is sealed under
    VTPM_CA_ROOT_PASSPHRASE_FILE or VTPM_CA_ROOT_PASSPHRASE if one is set, else under the passphrase of the other keys.
    The PIN of a PKCS#11 token comes from VTPM_CA_PKCS11_PIN_FILE, VTPM_CA_PKCS11_PIN or the systemd credential
    vtpm-ca-pkcs11-pin, that of the root's token, if it has another one, from VTPM_CA_ROOT_PKCS11_PIN_FILE and so on.
    """
    from ca_service import operations
    from ca_service.keys import (
        CeremonyConfig,
        Occasion,
        find_passphrase,
        find_pin,
        find_root_passphrase,
        find_root_pin,
    )

    text = read_text(config, _MAX_CONFIG)
    ceremony = CeremonyConfig.from_toml(text)
    transcript = operations.init(
        directory,
        ceremony,
        find_passphrase(os.environ),
        clock=now,
        entropy=secrets.token_bytes,
        root_passphrase=find_root_passphrase(os.environ),
        pin=find_pin(os.environ),
        root_pin=find_root_pin(os.environ),
        occasion=Occasion(
            by=user_name(os.getuid()),
            tool=f"vtpm-ca {version('vtpm-ca')}",
            config_sha256=hashlib.sha256(text.encode()).hexdigest(),
        ),
    )
    if as_json:
        show_json(transcript.to_json())
        return
    echo(f"{transcript.mode} CA {transcript.ca_id} in {directory}")
    for entry in transcript.certificates:
        echo(f"  {entry.role:<10} {entry.subject}")
    echo(f"The transcript is {directory}/transcript.txt. What to do next:")
    for number, step in enumerate(transcript.next_steps, 1):
        echo(f"  {number}. {step}")


@click.group()
def crl() -> None:
    """Certificate revocation lists."""


@crl.command()
@click.option("--root", is_flag=True, help="the root's list instead; takes the root's key")
@click.option(
    "--root-key",
    type=PathName(directory=False),
    metavar="FILE",
    help="with --root: the root's sealed key, if it was taken away",
)
@click.option(
    "--revoke",
    "skids",
    multiple=True,
    metavar="SKID",
    help="with --root: an issuing CA that does not count any more",
)
@click.option(
    "--reason",
    type=click.Choice(REASONS),
    metavar="REASON",
    default="unspecified",
    show_default=True,
    help="with --revoke: as RFC 5280 names it, for example cACompromise",
)
@click.option("--yes", is_flag=True, help="with --revoke: do it; without this it is a dry run")
@with_directory
@with_json
def publish(
    root_key: Path | None,
    skids: tuple[str, ...],
    reason: str,
    directory: Path,
    *,
    root: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Make and publish the next of all CRLs of every issuing CA, or with --root the root's.

    The root's list names the issuing CAs that are revoked; it holds for a year at most. A running server publishes the
    new one at once.
    """
    columns = ("issuer", "shard", "number", "this_update", "next_update")
    if root:
        rows = _publish_root(directory, root_key, skids, reason, yes=yes)
        if not rows:
            return
    elif root_key is not None or skids:
        raise BadRequest("--root-key and --revoke", "go together with --root")
    else:
        rows = run(directory, "crl-publish")
    show_rows(rows, columns, as_json=as_json, empty="no issuing CA")


def _publish_root(
    directory: Path, root_key: Path | None, skids: tuple[str, ...], reason: str, *, yes: bool
) -> list[dict[str, object]]:
    from ca_service import operations
    from ca_service.keys import find_root_passphrase, find_root_pin, load_root

    public = open_public(directory)
    named = [public.issuer_of(skid) for skid in skids]
    if named:
        states = {row["skid"]: row["state"] for row in run(directory, "issuer-list")}
        for ca in named:
            _check_given_up(ca.skid, states.get(ca.skid))
        if not yes:
            for ca in named:
                echo(f"would revoke {ca.certificate.subject.rfc4514_string()} ({ca.skid})")
            echo("Dry run: --yes would do it. Nobody can undo it, and all its certificates fall with it.")
            return []
    opened = load_root(directory, find_root_passphrase(os.environ), root_key, find_root_pin(os.environ))
    made = operations.publish_root_list(directory, opened, now(), revoke=skids, reason=reason)
    values = made.to_json()
    members = ("shard", "number", "this_update", "next_update")
    return [{"issuer": values["skid"], **{member: values[member] for member in members}}]


def _check_given_up(skid: str, state: str | None) -> None:
    """What could still sign, or what a TPM that enrols again would keep, is not revoked behind the CA's back."""
    remedies = {
        "active": "Let another one sign first: `vtpm-ca ca prepare`, `vtpm-ca ca taint --active`.",
        "old": "Taint it first, so that TPMs which enrol again get other certificates: `vtpm-ca ca taint`.",
        "prepared": "Retire it first: `vtpm-ca ca retire --generation N --yes`.",
    }
    if state in remedies:
        word = "signs" if state == "active" else f"is {state}"
        raise Conflict(f"the issuing CA {skid} {word}", code="rollover", remedy=remedies[state])


@click.group()
def export() -> None:
    """What consumers of the certificates need."""


export.add_command(ek_check_config)


@export.command()
@click.argument("dest", type=PathName(directory=True))
@click.option("--role", type=click.Choice(["ek", "devid"]), help="for a host that checks only these")
@click.option("--check", is_flag=True, help="change nothing; exit 1 if the folder is not as it should be")
@click.option("--dry-run", is_flag=True, help="change nothing; say what would be done")
@with_directory
@with_json
def keylime(
    dest: Path, role: "ExportRole | None", directory: Path, *, check: bool, dry_run: bool, as_json: bool
) -> None:
    """Make DEST a keylime tpm_cert_store that trusts this CA's issuing CAs of all generations, but for retired ones.

    Files of other issuers in DEST stay as they are. Then it says what keylime's own configuration must hold, and warns
    if keylime on this machine looks into another folder.
    """
    from ca_service.export import export_keylime, keylime_settings, store_warning, trusted_issuers

    if check and dry_run:
        raise click.UsageError("--check and --dry-run are two things: take one of them")
    issuers = trusted_issuers(open_public(directory), run(directory, "issuer-certificates")["trusted"])
    report = export_keylime(dest, issuers, role, check=check or dry_run)
    settings, warning = keylime_settings(dest, role), store_warning(dest)
    if as_json:
        told = {
            "settings": [setting.to_json() for setting in settings],
            "warnings": [warning] if warning else [],
        }
        show_json({**report.to_json(), **told})
    else:
        _tell_export(report, settings)
        if warning:
            echo(f"WARNING {warning}", err=True)
    if report.hazards or (check and not report.in_order):
        raise Conflict(
            f"{dest} is not as it should be",
            code="export",
            remedy="Take unreadable files away." if report.hazards else "Run this again without --check.",
        )


def _tell_export(report: "ExportReport", settings: "Sequence[Setting]") -> None:
    from ca_service.export import AGENT_NOTE

    for name in report.written:
        echo(f"{'would write' if report.checked_only else 'wrote'} {name}")
    for name in report.removed:
        echo(f"{'would remove' if report.checked_only else 'removed'} {name}")
    for name in report.hazards:
        echo(f"HAZARD {name}: keylime cannot read it, which disables the whole store", err=True)
    if report.in_order:
        echo(f"{report.directory} is as it should be")
    echo("What keylime must be told:")
    place = ""
    for setting in settings:
        here = f"{setting.host}: {setting.file} [{setting.section}]"
        if here != place:
            echo(f"  {here}")
        place = here
        echo(f"    {setting.option} = {setting.value}")
    echo(AGENT_NOTE)
