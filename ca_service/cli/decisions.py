"""`vtpm-ca decision`: what was decided and why, and making it anew."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ca_service.cli.access import run
from ca_service.cli.explaining import show_decision
from ca_service.cli.options import PathName, directory_option, find_directory, with_directory
from ca_service.cli.output import echo, show_json, show_rows, with_json
from ca_service.enrollment.replay import Outcome
from ca_service.judgment import BadRequest, Conflict, Unavailable

if TYPE_CHECKING:
    from ca_service.operations.replay import Replayed

_LIMIT = click.IntRange(1, 100_000)


@click.group()
def decision() -> None:
    """Decisions about evidence, with the trace of every check."""


@decision.command("list")
@click.option("--limit", type=_LIMIT, default=200, show_default=True, help="how many at most")
@with_directory
@with_json
def list_decisions(limit: int, directory: Path, *, as_json: bool) -> None:
    """List the newest decisions first."""
    columns = ("id", "mode", "at", "stage", "verdict", "rule", "kbs", "resource")
    show_rows(run(directory, "decision-list", limit=limit), columns, as_json=as_json, empty="no decision yet")


@decision.command("show")
@click.argument("decision_id")
@click.option("--all", "everything", is_flag=True, help="list the checks that passed too")
@with_directory
@with_json
def show_one(decision_id: str, directory: Path, *, everything: bool, as_json: bool) -> None:
    """Show the decision with this id: what each check wanted and saw, and why it came out so.

    Of a refusal it shows the smallest change of the policy that would have admitted it, as TOML to paste, tried by
    judging the decision anew; of an admission what it rests on. Nothing is changed.
    """
    result = run(directory, "decision-show", id=decision_id)
    if as_json:
        show_json(result)
    else:
        show_decision(result, everything=everything)


@decision.command()
@click.argument("decision_id")
@click.option(
    "--output", type=PathName(directory=False), help="into this new file instead of standard output"
)
@with_directory
def record(decision_id: str, output: Path | None, directory: Path) -> None:
    """Write the decision with this id, and all that it rests on, as one JSON file.

    A policy's tests are made of such files: see `vtpm-ca policy test`. They hold evidence, and nothing secret.
    """
    text = json.dumps(run(directory, "decision-record", id=decision_id), indent=1, sort_keys=True) + "\n"
    if output is None:
        echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="ascii") as file:
            file.write(text)
    except FileExistsError:
        raise BadRequest(str(output), "is there already; name another file", code="exists") from None
    except OSError as error:
        raise Unavailable(f"{output} cannot be written: {error.strerror}", code="storage") from None


_ALL = "all"
_MOST_SHOWN = 100
"""Decisions that are listed; the others are counted."""

_GOOD = frozenset({Outcome.AGREES, Outcome.REPHRASED, Outcome.BEYOND, Outcome.UNRECORDED})
_MEANINGS = {
    Outcome.AGREES: "agree in every finding",
    Outcome.REPHRASED: "agree in verdict and rule; another release has other words",
    Outcome.BEYOND: "were refused by what rests on a secret of the CA, or by the lint of a draft",
    Outcome.UNRECORDED: "were made by releases before 0.5, which kept no inputs",
    Outcome.DIFFERS: "DIFFER",
    Outcome.UNREADABLE: "cannot be made anew: something is missing or damaged",
}


@decision.command()
@click.argument("decision_id", metavar="ID|all")
@click.option(
    "--export", "folder", type=PathName(directory=True), help="from this auditor's export; needs no CA"
)
@click.option("--key", metavar="VKEY", help="verifier key of the exported log")
@directory_option()
@with_json
@click.pass_context
def replay(
    context: click.Context,
    decision_id: str,
    folder: Path | None,
    key: str | None,
    directory: str | None,
    *,
    as_json: bool,
) -> None:
    """Make the decision ID, or all of them, anew from the stored evidence, policy and time, and compare.

    Exit 1 if one differs or cannot be made anew. An export is verified first, which needs --key.
    """
    from ca_service.cli.direct import working_database
    from ca_service.operations.audit import audit_export, parse_key
    from ca_service.operations.replay import replay_database, replay_export

    if (folder is None) != (key is None):
        raise click.UsageError("--export and --key go together", context)
    wanted = None if decision_id == _ALL else decision_id
    if folder is not None and key is not None:
        report = audit_export(folder, parse_key(key))
        if not report.clean:
            raise Conflict(
                "the export is not as it was logged, so it proves nothing",
                code="audit",
                remedy="`vtpm-ca audit verify` says what is wrong with it.",
            )
        _compared(replay_export(folder, wanted), as_json=as_json)
        return
    with working_database(find_directory(context, directory)) as store:
        _compared(replay_database(store, wanted), as_json=as_json)


def _compared(found: "Iterable[Replayed]", *, as_json: bool) -> None:
    counts, bad = Counter[Outcome](), list[dict[str, object]]()
    for one in found:
        counts[one.outcome] += 1
        if one.outcome not in _GOOD and len(bad) < _MOST_SHOWN:
            bad.append(one.to_json())
    if as_json:
        show_json(
            {"decisions": counts.total(), "outcomes": {str(o): counts[o] for o in Outcome}, "wrong": bad}
        )
    else:
        for outcome, count in counts.items():
            echo(f"{count} {_MEANINGS[outcome]}")
        if not counts:
            echo("no decision yet")
        if bad:
            show_rows(
                bad, ("id", "at", "outcome", "rule", "release", "rules", "detail"), as_json=False, empty=""
            )
    wrong = sum(count for outcome, count in counts.items() if outcome not in _GOOD)
    if wrong:
        raise Conflict(
            f"{wrong} of {counts.total()} decisions do not come out as they are stored", code="replay"
        )
