"""`vtpm-ca policy`: the allow-list."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ca_service.cli.access import run
from ca_service.cli.files import read_text
from ca_service.cli.options import Moment, OrAbsent, PathName, with_directory
from ca_service.cli.output import echo, show_fields, show_json, show_rows, with_json
from ca_service.cli.policy_tests import evidence_beside, test, tests_of
from ca_service.cli.simulate import simulate_command
from ca_service.operations.bounds import MAX_POLICY
from vtpm.wire.message_fields import time_text


@click.group(short_help="The allow-list: whom and what this CA certifies.")
def policy() -> None:
    """The allow-list: which key brokers, SVSM measurements and keys this CA certifies."""


policy.add_command(test)
policy.add_command(simulate_command)

_VERSION = click.IntRange(1, 2**31 - 1)

with_base = click.option(
    "--base",
    type=click.IntRange(0, 2**31 - 1),
    metavar="N",
    help="only if version N is in force still; 0 if none is",
)

_at = click.option(
    "--at",
    "wanted",
    type=OrAbsent(Moment()),
    metavar="TIME",
    help="in force from this time on (ISO 8601), not at once",
)


def _changes(result: Mapping[str, Any]) -> None:
    for change in result.get("changes", ()):
        echo(f"  {change['effect']:<7}  {change['subject']}: {change['text']}")


def _state(result: Mapping[str, Any]) -> str:
    """What has become of a version, in words."""
    match result["state"]:
        case "in-force":
            return "is in force"
        case "scheduled":
            return f"comes in force at {result['in_force_from']}"
        case "waiting":
            then = result["in_force_from"]
            return "waits for approval" + (f" to come in force at {then}" if then else "")
        case state:
            return f"is {state}"


def _in_force(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Say what a change of the policy came to; what it ended follows it, and what is still to be done comes last."""
    if as_json:
        show_json(result)
        return
    if result.get("changed", True):
        echo(f"policy version {result['version']} {_state(result)} (digest {result['digest'][:16]}...)")
        _changes(result)
    else:
        echo(f"policy version {result['version']} {_state(result)} already; nothing changed")
    for note in result["notes"]:
        echo(note)


@policy.command()
@click.argument("file", type=PathName(directory=False))
@_at
@with_base
@with_directory
@with_json
def apply(file: Path, wanted: datetime | None, base: int | None, directory: Path, *, as_json: bool) -> None:
    """Put the policy document FILE in force for all that is judged from then on.

    The evidence that its tests name is read beside it and sent along; a document whose tests fail is refused. If it
    admits more than the one before it, and that one asks for two operators, it waits until another one has approved it.
    """
    text = read_text(file, MAX_POLICY)
    evidence = evidence_beside(file, tests_of(text))
    at = None if wanted is None else time_text(wanted)
    result = run(directory, "policy-apply", text=text, base=base, at=at, evidence=evidence)
    _in_force(result, as_json=as_json)


@policy.command()
@click.argument("version", type=_VERSION)
@with_directory
@with_json
def approve(version: int, directory: Path, *, as_json: bool) -> None:
    """Let VERSION, which waits for approval, come in force.

    Whoever applied it cannot approve it, and all users of the CA's host count as one operator. What it changes, `policy
    diff --to VERSION` shows.
    """
    _in_force(run(directory, "policy-approve", version=version), as_json=as_json)


@policy.command()
@click.argument("version", type=_VERSION)
@with_directory
@with_json
def withdraw(version: int, directory: Path, *, as_json: bool) -> None:
    """End VERSION before it comes in force, and the versions that were to follow it."""
    _in_force(run(directory, "policy-withdraw", version=version), as_json=as_json)


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


def _verdicts(row: Mapping[str, Any]) -> str | None:
    words = {"approve": "approved", "withdraw": "withdrawn", "drop": "dropped"}
    return ", ".join(f"{words[each['verdict']]} by {each['by']}" for each in row["verdicts"]) or None


@policy.command()
@with_directory
@with_json
def log(directory: Path, *, as_json: bool) -> None:
    """List all policy versions, oldest first: what has become of each, who applied it and who approved it."""
    found = run(directory, "policy-log")
    if as_json:
        show_json(found)
        return
    rows = [{**row, "state": _state(row).removeprefix("is "), "verdicts": _verdicts(row)} for row in found]
    columns = ("version", "state", "in_force_from", "applied_at", "applied_by", "verdicts", "digest")
    show_rows(rows, columns, as_json=False, empty="no policy was ever applied")


@policy.command()
@click.argument("file", type=PathName(directory=False))
@with_json
def check(file: Path, *, as_json: bool) -> None:
    """Read the policy document FILE as `apply` would, and change nothing. Needs no CA.

    Its tests are read, too; `test` runs them.
    """
    from ca_service.policy import in_words, load_complete, summary

    document, now = load_complete(read_text(file, MAX_POLICY)), datetime.now(UTC)
    if document.tests:
        # All that judges is loaded to know its rules.
        from ca_service.enrollment.expectations import check_rules

        check_rules(document)
    if as_json:
        show_json(summary(document, now))
    else:
        show_fields(in_words(document), as_json=False)
        for warning in document.warnings(now):
            echo(f"warning: {warning}")
