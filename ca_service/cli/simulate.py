"""`vtpm-ca policy simulate`: what a draft would change, before it does."""

import shlex
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from ca_service.cli.access import run
from ca_service.cli.files import read_text
from ca_service.cli.options import Moment, PathName, with_directory
from ca_service.cli.output import echo, show_json, show_rows, with_json
from ca_service.cli.place import now, open_public
from ca_service.operations.bounds import MAX_POLICY, REASONS, SIMULATED_DAYS, SIMULATED_LAST, SIMULATED_LISTED

_MOST_LAST: Final = 10_000_000
_MOST_LISTED: Final = 100_000
_WATCHED: Final = 1_000
"""After how many of what it looks at the command says how far it is."""

_GROUPS: Final = ("becomes", "rule", "entry", "kbs", "tenant", "decisions")
_FLIPS: Final = ("decision", "at", "becomes", "rule", "entry", "resource")
_NOT_COMPARABLE: Final = ("decision", "policy_version", "why")
_REFUSED_GROUPS: Final = ("rule", "entry", "kbs", "tenant", "tpms")
_REFUSED: Final = (
    "tpm",
    "resource",
    "certificates",
    "rule",
    "entry",
    "by_date",
    "refused_in_force",
    "decision",
)
_UNKNOWN: Final = ("tpm", "kbs", "resource", "certificates", "why")


def watched(what: str, count: int) -> None:
    """Say on standard error how far a long look has come."""
    if count % _WATCHED == 0:
        echo(f"{count} {what} looked at", err=True)


@click.command("simulate")
@click.argument("draft", type=PathName(directory=False))
@click.option(
    "--since", type=Moment(), metavar="TIME", help=f"decisions from then on; else of {SIMULATED_DAYS} days"
)
@click.option(
    "--last",
    type=click.IntRange(0, _MOST_LAST),
    default=SIMULATED_LAST,
    show_default=True,
    metavar="N",
    help="of them so many, the newest",
)
@click.option(
    "--all-versions",
    is_flag=True,
    help="compare each decision with the version that made it, not with the one in force",
)
@click.option(
    "--limit",
    type=click.IntRange(0, _MOST_LISTED),
    default=SIMULATED_LISTED,
    show_default=True,
    help="how many are listed at most; all are counted",
)
@click.option("--revoke", is_flag=True, help="of the TPMs that would get no certificate today, see --yes")
@click.option(
    "--reason",
    type=click.Choice(REASONS),
    default=REASONS[0],
    show_default=True,
    help="with --revoke, as RFC 5280 names it",
)
@click.option("--yes", is_flag=True, help="with --revoke: do it; without this it is a dry run")
@with_directory
@with_json
def simulate_command(
    draft: Path,
    since: datetime | None,
    last: int,
    limit: int,
    reason: str,
    directory: Path,
    *,
    all_versions: bool,
    revoke: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Run the policy document DRAFT over past decisions and over the TPMs that have certificates.

    Past decisions are judged anew, at their own time: which would be refused, which admitted? TPMs with certificates
    are judged by their newest accepted evidence as if it came today: floors and key brokers count as on this day, while
    the ages of grants and revocation lists are those of the evidence. Nothing is changed, and a running server goes on.

    With --revoke --yes, all certificates of the TPMs that the draft would give none today are revoked; the server
    judges each of these TPMs again at that moment.
    """
    from ca_service.cli.direct import working_database
    from ca_service.operations.simulation import Request, read_draft, simulate

    if yes and not revoke:
        raise click.UsageError("--yes goes with --revoke")
    text, at = read_text(draft, MAX_POLICY), now()
    request = Request(
        read_draft(text, open_public(directory).mode),
        at,
        at - timedelta(days=SIMULATED_DAYS) if since is None else since,
        last,
        all_versions,
        limit,
    )
    with working_database(directory) as store:
        found = simulate(store, request, watched)
    result = found.to_json()
    result["revocation"] = None
    if yes:
        result["revocation"] = _revoke(directory, text, found.certified.refused, reason)
    if as_json:
        show_json(result)
    else:
        _show(result, draft, revoke=revoke)


def _revoke(directory: Path, text: str, tpm_ids: list[int], reason: str) -> dict[str, Any]:
    """Step by step; what a step says is revoked stays so, whatever becomes of the next."""
    from ca_service.operations.draft_revocation import MOST_TPMS

    whole: dict[str, Any] = {
        "counts": {"tpms": 0, "certificates": 0, "being_issued": 0},
        "certificates": [],
        "spared": [],
        "advice": [],
    }
    for first in range(0, len(tpm_ids), MOST_TPMS):
        some = tpm_ids[first : first + MOST_TPMS]
        step = run(directory, "policy-revoke", text=text, tpms=some, reason=reason, yes=True)
        for name, count in step["counts"].items():
            whole["counts"][name] += count
        whole["certificates"] += step["certificates"]
        whole["spared"] += step["spared"]
        whole["advice"] += [line for line in step["advice"] if line not in whole["advice"]]
        if len(tpm_ids) > MOST_TPMS:
            echo(f"{number(whole['counts']['certificates'], 'certificate')} revoked and published", err=True)
    return whole


def _show(result: Mapping[str, Any], draft: Path, *, revoke: bool) -> None:
    _show_past(result)
    echo("")
    _show_certified(result)
    _show_revocation(result, draft, revoke=revoke)


def _show_past(result: Mapping[str, Any]) -> None:
    from ca_service.operations.simulation import THEN

    counts = result["decisions"]
    base = "no policy" if result["in_force"] is None else f"version {result['in_force']}"
    if result["compared_with"] == THEN:
        base = "the versions that decided"
    echo(f"Draft {result['draft'][:16]}... against {base}, decisions since {result['since']}")
    parts = [
        f"{counts['same']} stay as they are",
        f"{counts['refused']} would be refused",
        f"{counts['admitted']} would be admitted",
    ]
    if counts["outside"]:
        parts.append(f"{counts['outside']} are no matter of the policy")
    if counts["not_comparable"]:
        parts.append(f"{counts['not_comparable']} are not comparable")
    echo(f"{number(counts['judged'], 'decision')} judged anew: {', '.join(parts)}")
    if counts["left_out"]:
        echo(f"{number(counts['left_out'], 'older one')} left out; --last N looks at more")
    _table(result["groups"], _GROUPS)
    _table(result["flips"], _FLIPS, result["flips_omitted"])
    _table(result["not_comparable"], _NOT_COMPARABLE, result["not_comparable_omitted"])


def _show_certified(result: Mapping[str, Any]) -> None:
    counts = result["certified"]
    refused = f"{number(counts['refused_tpms'], 'TPM')} with {counts['refused_certificates']} of them"
    echo(
        f"{number(counts['certificates'], 'certificate')} of {number(counts['tpms'], 'TPM')}; "
        f"today the draft would give none to {refused}"
    )
    _table(result["refused_groups"], _REFUSED_GROUPS)
    _table(result["refused"], _REFUSED, result["refused_omitted"])
    if counts["unknown_tpms"]:
        echo(
            f"\nOf {number(counts['unknown_tpms'], 'TPM')} nobody can tell; none of their certificates is meant"
        )
        _table(result["unknown"], _UNKNOWN, result["unknown_omitted"])


def _show_revocation(result: Mapping[str, Any], draft: Path, *, revoke: bool) -> None:
    done = result["revocation"]
    if done is not None:
        counts = done["counts"]
        given_up = f", and {counts['being_issued']} that were being issued" if counts["being_issued"] else ""
        hit = f"{number(counts['certificates'], 'certificate')} of {number(counts['tpms'], 'TPM')}"
        echo(f"\nRevoked: {hit}{given_up}. They stand on the published CRLs.")
        _table(done["spared"], ("tpm", "why"))
        for line in done["advice"]:
            echo(f"- {line}")
    elif result["certified"]["refused_tpms"]:
        dry = "Dry run: nothing was changed. " if revoke else ""
        echo(
            f"\n{dry}To revoke what these TPMs have: vtpm-ca policy simulate {shlex.quote(str(draft))} --revoke --yes"
        )


def number(count: int, word: str) -> str:
    """So many of something, in words."""
    return f"{count} {word}" + ("" if count == 1 else "s")


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...], omitted: int = 0) -> None:
    if rows:
        echo("")
        show_rows(rows, columns, as_json=False, empty="")
    if omitted:
        echo(f"and {omitted} more; --limit lists them")
