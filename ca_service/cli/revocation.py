"""`vtpm-ca revoke`: revoking by cause."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ca_service.cli.access import run
from ca_service.cli.options import Moment, with_directory
from ca_service.cli.output import echo, show_json, show_rows, with_json
from ca_service.cli.revoking import with_limit, with_reason
from vtpm.wire.message_fields import time_text

_BESIDE = ("tpm", "kbs", "resource", "salt")
_COLUMNS = ("serial", "profile", "state", "kbs", "resource", "tpm", "decision", "decided_at", "why")


@click.command(short_help="Revoke all certificates that rest on a cause.")
@click.option("--serial", help="this certificate alone (hex)")
@click.option("--instance", nargs=2, metavar="KBS RESOURCE", help="TPMs that live or lived in this instance")
@click.option("--salt", help="volume salt of the instance; without it, all instances of the resource")
@click.option("--measurement", metavar="HEX", help="launched with this measurement")
@click.option("--chip", metavar="HEX", help="ran on the processor with this CHIP_ID")
@click.option(
    "--tcb-below",
    multiple=True,
    metavar="FLOOR",
    help="a component of REPORTED_TCB was below, as Milan:snp=20,microcode=210; may be repeated, once a product",
)
@click.option("--kbs-key", metavar="THUMBPRINT", help="the grant was signed with this key (RFC 7638)")
@click.option("--kbs", metavar="ID", help="the grant came from the KBS with this id in the policy")
@click.option(
    "--compromised-since",
    type=Moment(),
    metavar="TIME",
    help="with --kbs-key or --kbs: decided from then on, by the CA's clock (ISO 8601; UTC if it names no zone)",
)
@click.option(
    "--all", "every", is_flag=True, help="with --kbs-key or --kbs: whenever it was; for leaked secrets"
)
@click.option("--policy-version", type=click.IntRange(1), metavar="N", help="admitted under this policy")
@with_reason()
@with_limit
@click.option("--yes", is_flag=True, help="do it; without this it is a dry run")
@with_directory
@with_json
def revoke(
    serial: str | None,
    instance: tuple[str, str] | None,
    salt: str | None,
    measurement: str | None,
    chip: str | None,
    tcb_below: tuple[str, ...],
    kbs_key: str | None,
    kbs: str | None,
    compromised_since: datetime | None,
    policy_version: int | None,
    reason: str,
    cause: str | None,
    limit: int,
    directory: Path,
    *,
    every: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Revoke all certificates that rest on a cause, and publish the CRLs.

    Each option narrows what the others choose. If one accepted decision about a TPM, at enrolment, re-enrolment or
    renewal, fits all that is asked about evidence, all certificates of the TPM are hit. Times are those of the CA's own
    decisions.

    The TPMs stay in their instances: a live one is refused until `vtpm-ca instance reset`, which frees the instance for
    another one too. Change the policy first, or what it admits gets certificates again.

    A dry run, which lists what would be revoked and why, unless --yes is given. Many are revoked in several
    transactions, each with its CRLs; the command can be repeated at any time and goes on with the rest.
    """
    if salt is not None and instance is None:
        raise click.UsageError("--salt goes with --instance")
    arguments: dict[str, object] = {
        "serial": serial,
        "instance": None if instance is None else _instance(*instance, salt),
        "measurement": measurement,
        "chip": chip,
        "tcb_below": list(tcb_below) or None,
        "kbs_key": kbs_key,
        "kbs": kbs,
        "compromised_since": None if compromised_since is None else whole_seconds(compromised_since),
        "all": every or None,
        "policy_version": policy_version,
    }
    if not any(value is not None for value in arguments.values()):
        raise click.UsageError("choose what to revoke: see --help")
    arguments |= {"reason": reason, "cause": cause, "limit": limit}
    result = revoke_all(directory, arguments, limit) if yes else run(directory, "revoke", **arguments)
    if as_json:
        show_json(result)
    else:
        show_revocation(result)


def _instance(kbs: str, resource: str, salt: str | None) -> dict[str, str]:
    return {"kbs": kbs, "resource": resource, **({} if salt is None else {"salt": salt})}


def whole_seconds(moment: datetime) -> str:
    """A moment in whole seconds, as the CA's own times are; never later than it was meant."""
    return time_text(moment.astimezone(UTC).replace(microsecond=0))


def revoke_all(directory: Path, arguments: dict[str, object], limit: int) -> dict[str, Any]:
    """Revoke step by step until nothing is left; what a step says is revoked stays so, whatever becomes of the next.

    Args:
        directory: of the CA.
        arguments: of the operation ``revoke``, without `yes`.
        limit: how many certificates the answer lists.

    Raises:
        VtpmCaError: as the operation says; how many are revoked by then stands on standard error.
    """
    whole: dict[str, Any] = run(directory, "revoke", **arguments, yes=True)
    while whole["more"]:
        echo(f"{whole['counts']['certificates']} revoked and published, going on", err=True)
        rest = {**arguments, "limit": max(0, limit - len(whole["certificates"]))}
        step = run(directory, "revoke", **rest, yes=True)
        for name, number in step["counts"].items():
            whole["counts"][name] += number
        whole["certificates"] += step["certificates"]
        whole["omitted"] += step["omitted"]
        whole["beside"], whole["more"] = step["beside"], step["more"]
        whole["advice"] += [line for line in step["advice"] if line not in whole["advice"]]
    return whole


def _number(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def show_revocation(result: dict[str, Any]) -> None:
    """Print what `revoke` has answered, for people."""
    counts = result["counts"]
    show_rows(
        result["certificates"],
        _COLUMNS,
        as_json=False,
        empty="" if result["omitted"] else "nothing to revoke",
    )
    if result["omitted"]:
        echo(f"and {result['omitted']} more; --limit lists them")
    echo("")
    if "decisions" in counts:
        echo(f"accepted decisions that fit: {counts['decisions']}")
    if counts.get("unknown"):
        echo(
            f"accepted decisions whose evidence does not say: {counts['unknown']}; choose those TPMs by --instance"
        )
    hit = f"{_number(counts['certificates'], 'certificate')} of {_number(counts['tpms'], 'TPM')}"
    given_up = f", and {counts['being_issued']} that were being issued" if counts["being_issued"] else ""
    if result["done"]:
        echo(f"Revoked: {hit}{given_up}. They stand on the published CRLs.")
    else:
        echo(f"Dry run: --yes would revoke {hit}{given_up}. Nothing was changed.")
    if result["beside"]:
        echo("")
        show_rows(result["beside"], _BESIDE, as_json=False, empty="")
    if counts.get("beside"):
        echo(f"{_number(counts['beside'], 'other TPM')} beside, left alone")
    for line in result["advice"]:
        echo(f"- {line}")
