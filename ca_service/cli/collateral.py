"""`vtpm-ca collateral`: the certificates and revocation lists that the CA keeps to judge reports with."""

import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ca_service.cli.files import read_bytes
from ca_service.cli.options import (
    DIRECTORY_VARIABLE,
    Moment,
    OrAbsent,
    PathName,
    ProductName,
    bundle_option,
    directory_option,
    kds_url_option,
)
from ca_service.cli.output import echo, show_json, show_rows, with_json
from ca_service.cli.place import now, open_public
from ca_service.judgment import BadRequest, Refused, Unavailable
from vtpm.wire.report import Product

if TYPE_CHECKING:
    from ca_service.collateral import CollateralFolder
    from ca_service.collateral.kds import Fetched, KdsSupply
    from ca_service.evidence.snp import Root

F = TypeVar("F", bound=Callable[..., Any])

_MAX_FILE = 1024 * 1024
_SHOWN = 16
_COLUMNS = ("kind", "product", "whose", "tcb", "serial", "valid", "state")


def bundle_of(directory: Path, bundle: Path | None) -> "CollateralFolder":
    """The bundle of a CA: the one that was named, else the one in its directory.

    Raises:
        BadRequest: the one that was named is not there. A slip of the pen must not look like an empty bundle.
    """
    from ca_service.collateral import FOLDER, CollateralFolder

    return CollateralFolder(directory / FOLDER) if bundle is None else _existing(CollateralFolder(bundle))


def supply_of(
    folder: "CollateralFolder",
    roots: "tuple[Root, ...]",
    kds_url: str | None,
    told: Callable[[bool], None] = lambda _came: None,
) -> "KdsSupply":
    """What fills a bundle from AMD's service, or from a mirror of it."""
    from ca_service.collateral.kds import AMD_KDS, KdsClient, KdsSupply
    from ca_service.collateral.kds.http import HttpFetcher

    return KdsSupply(folder, KdsClient(kds_url or AMD_KDS, HttpFetcher()), roots, told=told)


def _with_bundle(command: F) -> F:
    """Give a command --dir, --bundle and --simulated."""
    simulated = click.option(
        "--simulated", is_flag=True, help="with --bundle: trust the roots of simulated processors too"
    )
    return directory_option(_known_directory)(bundle_option(simulated(command)))


def _known_directory(context: click.Context, _parameter: click.Parameter, value: str | None) -> Path | None:
    found = value or context.find_root().obj or os.environ.get(DIRECTORY_VARIABLE)
    return Path(found) if found else None


def _open(
    directory: Path | None, bundle: Path | None, *, simulated: bool, new: bool = False
) -> "tuple[CollateralFolder, tuple[Root, ...]]":
    """The bundle to work on, and the roots that count for it: those of the CA, unless a bundle is named.

    With `new`, one that is named need not be there yet.
    """
    from ca_service.collateral import CollateralFolder, trusted_roots

    if bundle is not None:
        folder = CollateralFolder(bundle)
        return folder if new else _existing(folder), trusted_roots(simulated=simulated)
    if simulated:
        raise click.UsageError(
            "--simulated goes together with --bundle; a CA's own mode decides for its bundle"
        )
    if directory is None:
        raise click.UsageError(
            f"name the CA's directory with --dir or {DIRECTORY_VARIABLE}, or a bundle with --bundle"
        )
    public = open_public(directory)
    return bundle_of(directory, None), trusted_roots(simulated=public.mode == "simulation")


def _existing(folder: "CollateralFolder") -> "CollateralFolder":
    if not folder.path.is_dir():
        raise BadRequest(str(folder.path), "is no directory")
    return folder


_at_option = click.option(
    "--at", type=OrAbsent(Moment()), metavar="TIME", help="judge at this time (ISO 8601), not now"
)


@click.group(short_help="Certificates and revocation lists for judging reports.")
def collateral() -> None:
    """AMD's certificates and revocation lists that the CA keeps, for reports that come without them."""


@collateral.command("add")
@click.argument("files", nargs=-1, required=True, type=PathName(directory=False), metavar="FILE...")
@_with_bundle
@with_json
def add_files(
    files: tuple[Path, ...], directory: Path | None, bundle: Path | None, *, simulated: bool, as_json: bool
) -> None:
    """Add VCEKs, VLEKs, ASKs, ASVKs and revocation lists.

    Each FILE is DER, PEM (several certificates too), or a certificate table as a host hands it out. All must lead to
    a root that the CA trusts, else nothing is added. A running server uses them at once.
    """
    from ca_service.collateral import Offer, add

    folder, roots = _open(directory, bundle, simulated=simulated, new=True)
    outcomes = add(folder, [Offer(str(path), read_bytes(path, _MAX_FILE)) for path in files], roots)
    if as_json:
        show_json([outcome.to_json() for outcome in outcomes])
        return
    for outcome in outcomes:
        note = f" ({outcome.note})" if outcome.note else ""
        echo(f"{'added' if outcome.new else 'already there:'} {outcome.item.name}{note}")


@collateral.command("list")
@_with_bundle
@_at_option
@with_json
def list_collateral(
    at: datetime | None, directory: Path | None, bundle: Path | None, *, simulated: bool, as_json: bool
) -> None:
    """List what the bundle holds, and in which state it is."""
    from ca_service.collateral import items_of, survey

    folder, roots = _open(directory, bundle, simulated=simulated)
    rows = [entry.to_json() for entry in survey(items_of(folder.readable()), roots, at or now())]
    if as_json:
        show_json(rows)
    else:
        show_rows([_shown(row) for row in rows], _COLUMNS, as_json=False, empty="the bundle is empty")


def _shown(row: dict[str, Any]) -> dict[str, object]:
    """A row as people read it: what names a thing in one column, and its dates in another."""
    if row["kind"] == "crl":
        until = row["next_update"] or "-"
        listed = ", ".join(row["revoked"]) or "none"
        return row | {
            "whose": f"{row['issuer']} number {row['number']}, revokes {listed}",
            "valid": f"{row['this_update']} to {until}",
        }
    chip = row["chip_id"]
    owner = row["csp_id"] or (f"chip {chip[:_SHOWN]}..." if chip else row["subject"])
    return row | {"whose": owner, "valid": f"{row['not_before']} to {row['not_after']}"}


@collateral.command("verify")
@click.option(
    "--require-lists",
    is_flag=True,
    help="count it as a problem if the bundle is empty, or lacks the list for a product that it has leaves of",
)
@_with_bundle
@_at_option
@with_json
def verify_collateral(
    at: datetime | None,
    directory: Path | None,
    bundle: Path | None,
    *,
    require_lists: bool,
    simulated: bool,
    as_json: bool,
) -> None:
    """Check every file of the bundle again; exit 1 if something is wrong.

    Looked at are names, contents, chains up to the roots, dates, revocation, and the age of revocation lists.
    """
    from ca_service.collateral import examine, gaps

    folder, roots = _open(directory, bundle, simulated=simulated)
    stored, strangers = folder.files()
    problems = examine(stored, strangers, roots, at or now())
    notes = gaps(stored, roots)
    count = len(problems) + (len(notes) if require_lists else 0)
    if as_json:
        show_json(
            {
                "well": not count,
                "files": len(stored),
                "problems": [problem.to_json() for problem in problems],
                "notes": notes,
            }
        )
    else:
        for problem in problems:
            echo(f"{problem.file} {problem.text}")
        for note in notes:
            echo(f"note: {note}")
        if stored and not count:
            echo(f"all is well with {len(stored)} file{'' if len(stored) == 1 else 's'}")
    if count:
        raise Refused("collateral.well", f"{count} problem{'' if count == 1 else 's'} in {folder.path}")


@collateral.command("fetch")
@click.option(
    "--product",
    "products",
    multiple=True,
    type=OrAbsent(ProductName()),
    metavar="P",
    help="only for Milan, Genoa or Turin; may be repeated",
)
@kds_url_option
@_with_bundle
@with_json
def fetch_collateral(
    products: tuple[str | None, ...],
    kds_url: str | None,
    directory: Path | None,
    bundle: Path | None,
    *,
    simulated: bool,
    as_json: bool,
) -> None:
    """Get AMD's intermediate certificates and revocation lists into the bundle, for example once a day.

    After a failure the pause that the service wants is waited out, at most a minute before each thing.

    Exit 3 if the service did not give all that it has, or has nothing; what it gave is kept. Proxies come from the
    environment.
    """
    from ca_service.collateral.kds import AMD_KDS

    folder, roots = _open(directory, bundle, simulated=simulated, new=True)
    chosen = dict.fromkeys(Product(product) for product in products if product is not None)
    fetched = supply_of(folder, roots, kds_url).refresh(chosen or Product, _wait)
    if as_json:
        show_json([result.to_json() for result in fetched])
    else:
        for result in fetched:
            files = [*(f"added {name}" for name in result.added)]
            files += [f"already there: {name}" for name in result.present]
            echo(f"{result.path}: {', '.join(files) or result.problem}")
    bare = _products_without_anything(fetched)
    if len(bare) == len({result.product for result in fetched}):
        raise Unavailable(
            f"{kds_url or AMD_KDS} has nothing of what was asked for",
            code="kds",
            remedy="Check the URL with --kds-url: what follows it is vcek/v1/Milan/cert_chain, for example.",
        )
    for product in bare:
        echo(f"the service has neither certificates nor lists for {product}", err=True)
    failures = sum(result.failed for result in fetched)
    if failures:
        raise Unavailable(f"{failures} of {len(fetched)} could not be fetched", code="kds")


def _wait(seconds: float) -> None:
    echo(f"the service is left alone for {seconds:.0f} seconds", err=True)
    time.sleep(seconds)


def _products_without_anything(fetched: "Sequence[Fetched]") -> list[Product]:
    there = {result.product for result in fetched if result.added or result.present or result.failed}
    return [
        product for product in dict.fromkeys(result.product for result in fetched) if product not in there
    ]
