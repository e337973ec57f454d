"""`vtpm-ca policy`: the allow-list."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ca_service.cli.access import run
from ca_service.cli.files import read_text
from ca_service.cli.options import PathName, with_directory
from ca_service.cli.output import echo, show_fields, show_json, show_rows, with_json
from ca_service.cli.simulate import simulate_command
from ca_service.operations import MAX_POLICY
from ca_service.policy import load_complete


@click.group(short_help="The allow-list: whom and what this CA certifies.")
def policy() -> None:
    """The allow-list: which key brokers, SVSM measurements and keys this CA certifies."""


policy.add_command(simulate_command)

_VERSION = click.IntRange(1, 2**31 - 1)

with_base = click.option(
    "--base",
    type=click.IntRange(0, 2**31 - 1),
    metavar="N",
    help="only if version N is in force still; 0 if none is",
)


def _changes(result: Mapping[str, Any]) -> None:
    for change in result["changes"]:
        echo(f"  {change['effect']:<7}  {change['subject']}: {change['text']}")


def _in_force(result: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(result)
    elif result["changed"]:
        echo(f"policy version {result['version']} is in force (digest {result['digest'][:16]}...)")
        _changes(result)
    else:
        echo(f"policy version {result['version']} is in force already; nothing changed")


@policy.command()
@click.argument("file", type=PathName(directory=False))
@with_base
@with_directory
@with_json
def apply(file: Path, base: int | None, directory: Path, *, as_json: bool) -> None:
    """Put the policy document FILE in force, at once, for all that is judged from now on."""
    _in_force(run(directory, "policy-apply", text=read_text(file, MAX_POLICY), base=base), as_json=as_json)


@policy.command()
@click.argument("version", type=_VERSION)
@with_base
@with_directory
@with_json
def rollback(version: int, base: int | None, directory: Path, *, as_json: bool) -> None:
    """Put the document of an earlier VERSION in force again, as a new version."""
    _in_force(run(directory, "policy-rollback", version=version, base=base), as_json=as_json)


@policy.command()
@click.argument("file", type=PathName(directory=False), required=False)
@click.option("--from", "old", type=_VERSION, metavar="N", help="from this version, not the one in force")
@click.option("--to", "new", type=_VERSION, metavar="N", help="to this version, instead of FILE")
@with_directory
@with_json
def diff(file: Path | None, old: int | None, new: int | None, directory: Path, *, as_json: bool) -> None:
    """Say what the policy document FILE, or another version, changes, and whether it admits more than before.

    A change that cannot be shown to narrow the policy counts as widening it.
    """
    if (file is None) == (new is None):
        raise click.UsageError("give either FILE or --to, and not both")
    text = None if file is None else read_text(file, MAX_POLICY)
    result = run(directory, "policy-diff", old=old, new=new, text=text)
    if as_json:
        show_json(result)
        return
    later = file if new is None else f"version {new}"
    says = {"widens": "admits more than", "narrows": "admits less than", "neutral": "admits the same as"}
    echo(f"{later} {says[result['effect']]} version {result['old']}")
    _changes(result)


@policy.command()
@click.option("--version", type=_VERSION, metavar="N", help="this version instead of the one in force")
@with_directory
@with_json
def show(version: int | None, directory: Path, *, as_json: bool) -> None:
    """Print the policy in force, or another version."""
    result = run(directory, "policy-show", version=version)
    if as_json:
        show_json(result)
    else:
        echo(result["text"], nl=not result["text"].endswith("\n"))


@policy.command()
@with_directory
@with_json
def log(directory: Path, *, as_json: bool) -> None:
    """List all policy versions, oldest first."""
    columns = ("version", "digest", "applied_at", "applied_by")
    show_rows(run(directory, "policy-log"), columns, as_json=as_json, empty="no policy was ever applied")


@policy.command()
@click.argument("file", type=PathName(directory=False))
@with_json
def check(file: Path, *, as_json: bool) -> None:
    """Read the policy document FILE as `apply` would, and change nothing. Needs no CA."""
    document = load_complete(read_text(file, MAX_POLICY))
    content = {
        "kbs": sorted({entry.id for entry in document.kbs.values()}),
        "launch": [entry.name for entry in document.launches.entries()],
        "platform": sorted(document.platforms),
        "unsafe": sorted(document.unsafe),
        "warnings": document.warnings(),
    }
    if as_json:
        show_json({"digest": document.digest, **content})
    else:
        names = ("kbs", "launch", "platform", "unsafe")
        fields = {name: ", ".join(content[name]) or "none" for name in names}
        fields["digest"] = document.digest
        show_fields(fields, as_json=False)
        for warning in document.warnings():
            echo(f"warning: {warning}")
