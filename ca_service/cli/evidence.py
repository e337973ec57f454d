"""`vtpm-ca evidence`: judge and show attestation reports from files. Needs no CA, no database and no network."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from ca_service.cli.files import read_start
from ca_service.cli.options import Moment, OrAbsent, PathName, ProductName, given
from ca_service.cli.output import echo, show_json, show_trace, with_json
from vtpm.wire.report import CPUID_SINCE, Product

_FILE = OrAbsent(PathName(directory=False))
_MAX_DAYS = 36500
_INVALID = 1


@click.group(short_help="Judge and show attestation reports.")
def evidence() -> None:
    """Judge and show SEV-SNP attestation reports, from files alone: no CA, no database, no network."""


@evidence.command()
@click.option(
    "--report",
    type=_FILE,
    callback=given,
    metavar="FILE",
    help="the attestation report, 1,184 bytes  [required]",
)
@click.option(
    "--cert",
    "certs",
    type=_FILE,
    multiple=True,
    metavar="FILE",
    help="VCEK, VLEK, ASK or ASVK: DER, PEM, or a host's certificate table; may be repeated",
)
@click.option(
    "--crl",
    "crls",
    type=_FILE,
    multiple=True,
    metavar="FILE",
    help="revocation list, DER or PEM; may be repeated",
)
@click.option("--product", type=OrAbsent(ProductName()), metavar="P", help="demand Milan, Genoa or Turin")
@click.option(
    "--at", type=OrAbsent(Moment()), metavar="TIME", help="verify as at this time, ISO 8601; else now"
)
@click.option(
    "--unsafe-root",
    type=_FILE,
    metavar="FILE",
    help="trust this ARK instead of AMD's, which proves no processor",
)
@click.option(
    "--crl-max-age",
    type=OrAbsent(click.IntRange(0, _MAX_DAYS)),
    metavar="DAYS",
    help="demand a revocation list issued at most DAYS ago",
)
@click.option("--policy", type=_FILE, metavar="FILE", help="judge by this allow-list too, as a CA would")
@with_json
def verify(
    report: Path,
    certs: Sequence[Path | None],
    crls: Sequence[Path | None],
    product: str | None,
    at: datetime | None,
    unsafe_root: Path | None,
    crl_max_age: int | None,
    policy: Path | None,
    *,
    as_json: bool,
) -> int:
    """Judge whether an AMD processor made a report; with --policy also whether a CA would allow it.

    A listed certificate is revoked however old the list is. How old the newest list may be, --crl-max-age says.

    Exit codes: 0 VALID, 1 INVALID, 2 usage or a file that cannot be opened.
    """
    from ca_service.cli.verdict import Question, answer

    question = Question(
        report=report,
        certs=tuple(path for path in certs if path is not None),
        crls=tuple(path for path in crls if path is not None),
        product=None if product is None else Product(product),
        at=at or datetime.now(UTC),
        unsafe_root=unsafe_root,
        crl_max_age=None if crl_max_age is None else timedelta(days=crl_max_age),
        policy=policy,
    )
    result = answer(question)
    if as_json:
        show_json(result)
    else:
        _show_verdict(result)
    return 0 if result["verdict"] == "VALID" else _INVALID


def _show_verdict(result: dict[str, Any]) -> None:
    valid = result["verdict"] == "VALID"
    echo(
        f"{result['verdict']}  {result['reason']}: {result['detail']}", bold=True, fg=None if valid else "red"
    )
    if result["unsafe_root"] is not None:
        echo(f"UNSAFE: {result['unsafe_root']} was trusted instead of AMD's roots", fg="yellow", bold=True)
    certificates = [(name, value) for name, value in result["certificates"].items() if value is not None]
    for name, value in certificates:
        echo(f"{name:<10} {value['subject']}, {value['not_before'][:10]} to {value['not_after'][:10]}")
    for crl in result["crls"]:
        revoked = ", ".join(crl["revoked"]) or "nothing"
        echo(
            f"{'list':<10} {crl['issuer']} number {crl['number']} of {crl['this_update'][:10]}: revokes {revoked}"
        )
    for crl in result["crls_unused"]:
        echo(f"{'unused':<10} {crl['issuer']} number {crl['number']}: not a list of this root", fg="yellow")
    if result["checks"]:
        echo("")
        show_trace(result["checks"])
    if result["report"] is not None:
        echo("")
        _show_report(result["report"], result["tcb"], result["product"])


@evidence.command()
@click.argument("file", type=PathName(directory=False))
@with_json
def show(file: Path, *, as_json: bool) -> int:
    """Print what the attestation report FILE says. Nothing of it is verified.

    Exit codes: 0 printed, 1 the file is no report, 2 it cannot be opened.
    """
    from ca_service.cli.verdict import MAX_FILE, Unreadable, read_report
    from ca_service.evidence.snp import description as describe

    try:
        report = read_report(read_start(file, MAX_FILE))
    except Unreadable as error:
        echo(f"vtpm-ca: {file}: {error.detail}", err=True)
        return _INVALID
    product = describe.stated_product(report)
    # Before version 3 a report tells the layout of its TCBs only, not whether it is Milan's or Genoa's.
    named = product if report.version >= CPUID_SINCE else None
    content, tcbs = describe.describe_report(report), describe.describe_tcbs(report, product)
    if as_json:
        show_json({"product": named, "report": content, "tcb": tcbs})
    else:
        echo("NOT VERIFIED; `vtpm-ca evidence verify` judges a report\n", bold=True)
        _show_report(content, tcbs, named)
    return 0


def _show_report(report: dict[str, Any], tcbs: dict[str, dict[str, Any]], product: str | None) -> None:
    """Print a report for people: a line per field, flags as the names of the bits that are set."""
    lines: dict[str, object] = {"product": product or "not told by the report alone"}
    for name, value in report.items():
        if name in ("guest_policy", "platform_info"):
            on = [bit for bit, is_set in value.items() if is_set is True]
            abi = f", ABI {value['abi']}" if "abi" in value else ""
            lines[name] = f"{value['raw']} ({', '.join(on) or 'no bit set'}{abi})"
        elif name == "cpuid" and value is not None:
            lines[name] = "family {family:02x}h, model {model:02x}h, stepping {stepping:x}h".format(**value)
        elif isinstance(value, bool):
            lines[name] = "yes" if value else "no"
        else:
            lines[name] = "-" if value is None else _short(value)
    for name, tcb in tcbs.items():
        numbers = ", ".join(f"{part} {level}" for part, level in tcb.items() if part != "raw")
        lines[f"{name}_tcb"] = f"{tcb['raw']} ({numbers})" if numbers else tcb["raw"]
    width = max(map(len, lines))
    for name, text in lines.items():
        echo(f"{name.replace('_', ' ').ljust(width)}  {text}")


def _short(value: object) -> object:
    """A value as it is, but a field of zeros or ones as what it means."""
    if isinstance(value, str) and len(value) > 2:  # noqa: PLR2004 - one byte
        if not value.strip("0"):
            return f"zero ({len(value) // 2} bytes)"
        if not value.strip("f"):
            return f"all ones ({len(value) // 2} bytes)"
    return value
