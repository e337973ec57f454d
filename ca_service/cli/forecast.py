"""`vtpm-ca tcb`: the firmware of the processors that TPMs run on."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click

from ca_service.cli.files import read_text
from ca_service.cli.options import Moment, PathName, with_directory
from ca_service.cli.output import echo, show_json, show_rows, with_json
from ca_service.cli.place import now, open_public
from ca_service.cli.simulate import number, watched
from ca_service.operations.bounds import MAX_POLICY, SIMULATED_LISTED

_COLUMNS: Final = ("tpm", "kbs", "resource", "chip", "rule", "component", "has", "needs")
_ENDINGS: Final = ("kbs", "ends", "tpms")
_CHIP_DIGITS: Final = 16


@click.group(short_help="Processors' firmware, and who will be below a floor.")
def tcb() -> None:
    """Levels of processors' firmware, and the floors that the policy sets them."""


@tcb.command()
@click.option(
    "--policy",
    "draft",
    type=PathName(directory=False),
    metavar="DRAFT",
    help="by the floors of this document, not by those in force",
)
@click.option("--at", type=Moment(), metavar="TIME", help="as of then, in ISO 8601; else now")
@click.option(
    "--limit",
    type=click.IntRange(0, 100_000),
    default=SIMULATED_LISTED,
    show_default=True,
    help="how many are listed of each day, platform and product; all are counted",
)
@with_directory
@with_json
def forecast(draft: Path | None, at: datetime | None, limit: int, directory: Path, *, as_json: bool) -> None:
    """List the TPMs that are below a floor of the policy, or will be by one of its dates.

    Each TPM with certificates is taken by the report in its newest accepted evidence: update the firmware of its host
    and let it enrol again, and it is judged by the new one. Those that are below already keep their certificates and
    could not enrol again. Nothing is changed.
    """
    from ca_service.cli.direct import working_database
    from ca_service.operations.forecast import basis
    from ca_service.operations.forecast import forecast as look_ahead

    text, moment = None if draft is None else read_text(draft, MAX_POLICY), at or now()
    mode = open_public(directory).mode
    with working_database(directory) as store:
        about = basis(store, mode, moment, text)
        result = look_ahead(store, about, mode, moment, listed=limit, watch=watched).to_json()
    if as_json:
        show_json(result)
    else:
        _show(result)


def _show(result: Mapping[str, Any]) -> None:
    from ca_service.operations.forecast import ENDING_DAYS

    counts = result["counts"]
    name = (
        f"draft {result['policy'][:16]}..." if result["version"] is None else f"version {result['version']}"
    )
    echo(
        f"{number(counts['tpms'], 'TPM')} with certificates, by the floors of {name}, as of {result['at']}: "
        f"{counts['below']} below, {counts['falling']} will be, {counts['safe']} will not"
    )
    if counts["unlisted"]:
        launched = number(counts["unlisted"], "TPM")
        echo(f"{launched} of a launch that the policy does not list, so no floor is meant for it")
    if counts["unknown"]:
        echo(f"Of {number(counts['unknown'], 'TPM')} nobody can tell: there is no evidence that can be read")
    for group in result["groups"]:
        begins = "Below already" if group["from"] is None else f"Below from {group['from']} on"
        where = f"{group['product']} on the platform {group['platform']}"
        echo(f"\n{begins}: {number(group['count'], 'TPM')}, {where}")
        show_rows(_rows(group["tpms"]), _COLUMNS, as_json=False, empty="")
        if group["omitted"]:
            echo(f"and {group['omitted']} more; --limit lists them")
    if result["endings"]:
        echo(f"\nKey brokers whose entries end within {ENDING_DAYS} days")
        show_rows(result["endings"], _ENDINGS, as_json=False, empty="")


def _rows(tpms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each thing in which a TPM is short; a whole chip id is left to --json."""
    return [
        {**tpm, **short, "chip": tpm["chip"] and f"{tpm['chip'][:_CHIP_DIGITS]}..."}
        for tpm in tpms
        for short in tpm["short"]
    ]
