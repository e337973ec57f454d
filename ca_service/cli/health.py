"""`vtpm-ca health-check`: is all well with the CA?"""

import os
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ca_service.cli.channel import (
    NOT_FOR_YOU,
    NoServer,
    RemoteFailure,
    ask_server,
    get_from_server,
    read_facts,
)
from ca_service.cli.options import DATABASE_VARIABLE, directory_option, find_directory
from ca_service.cli.output import echo, show_json, show_rows, with_json
from ca_service.cli.place import find_database, now, open_public
from ca_service.judgment import Unavailable, VtpmCaError
from ca_service.operations.health_model import Status
from vtpm.wire.errors import WireError
from vtpm.wire.problem import Problem

if TYPE_CHECKING:
    from ca_service.keys import PublicAuthority
    from ca_service.operations.health_model import HealthCheck, HealthContext, Result
    from ca_service.store import Store

_CODES = {
    Status.OK: 0,
    Status.UNKNOWN: 3,
    Status.NOTICE: 4,
    Status.WARNING: 5,
    Status.CRITICAL: 6,
}
_COLUMNS = ("status", "check", "detail")
_PATIENCE_S = 60.0
"""How long this process looks at everything; what has a limit of its own takes less."""


@click.command("health-check", short_help="Is all well with the CA?")
@click.option(
    "--list", "listing", is_flag=True, help="only say which checks there are, with their thresholds"
)
@click.option("--only", multiple=True, metavar="NAME", help="make this check; may be repeated")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=WARNING[,CRITICAL]",
    help="another threshold, such as crl=2d,12h or disk=5GiB,1GiB; may be repeated",
)
@directory_option()
@with_json
def health_check(
    only: tuple[str, ...], settings: tuple[str, ...], directory: str | None, *, listing: bool, as_json: bool
) -> int:
    """Look at the server, the database, the log, the certificates and keys, the lists, the policy and the clock.

    With a running server the checks are made by it, over its operator socket; without one, here.

    Exit codes: 0 all is well, 4 there is a notice, 5 a warning, 6 something is critical, 3 nothing is critical but
    something could not be looked at; 2 usage, as for all commands.
    """
    from ca_service.operations.health import choose, worst

    checks = choose(only, settings)
    if listing:
        _show_list(checks, as_json=as_json)
        return 0
    place = find_directory(click.get_current_context(), directory)
    found = _look(place, checks, list(only), list(settings))
    status = worst(Status(row["status"]) for row in found)
    if as_json:
        show_json({"status": status.value, "checks": found})
    else:
        _show(found)
    return _CODES[status]


def _show_list(checks: "list[HealthCheck]", *, as_json: bool) -> None:
    rows = [
        {
            "check": check.id,
            "looks_at": check.looks_at,
            "threshold": "" if check.threshold is None else str(check.threshold),
            "remedy": check.remedy,
        }
        for check in checks
    ]
    show_rows(rows, ("check", "threshold", "looks_at"), as_json=as_json, empty="")


def _show(found: list[dict[str, Any]]) -> None:
    show_rows(found, _COLUMNS, as_json=False, empty="")
    wanting = [row for row in found if row["remedy"]]
    if not wanting:
        echo("\nall is well")
        return
    echo("\nwhat to do")
    for row in wanting:
        echo(f"  {row['check']}: {row['remedy']}")


def _look(
    directory: Path, checks: "list[HealthCheck]", only: list[str], settings: list[str]
) -> list[dict[str, Any]]:
    """What all checks found, by the server if it can, else by this process."""
    from ca_service.operations.health import SERVER

    public = open_public(directory)
    others = [check for check in checks if check.id != SERVER]
    answers, server = _ask(directory, only, settings, wanted=bool(others))
    if answers is None:
        answers = [result.to_json() for result in _look_here(public, others)]
    return [server.to_json(), *answers] if len(others) < len(checks) else answers


def _ask(
    directory: Path, only: list[str], settings: list[str], *, wanted: bool
) -> "tuple[list[dict[str, Any]] | None, Result]":
    """What the server found, None if it could not look; and how it is itself."""
    from ca_service.operations.health import SERVER_CHECK
    from ca_service.operations.health_model import Result

    try:
        status, body = get_from_server(directory, "/readyz")
        answers = ask_server(directory, "health", {"only": only, "settings": settings}) if wanted else []
    except NoServer:
        return None, Result(SERVER_CHECK, Status.CRITICAL, "no server runs on this directory")
    except RemoteFailure as error:
        detail = f"it does not know what is asked, so it may be of another release: {error.detail}"
        return None, Result(SERVER_CHECK, Status.WARNING, detail, "Restart it.")
    except VtpmCaError as error:
        # Whoever may not ask does not know.
        how = Status.UNKNOWN if error.code == NOT_FOR_YOU else Status.CRITICAL
        return None, Result(SERVER_CHECK, how, error.detail, error.remedy)
    if status == HTTPStatus.OK:
        return answers, Result(SERVER_CHECK, Status.OK, "it answers, and is ready")
    return answers, Result(SERVER_CHECK, Status.CRITICAL, f"it answers, and is not ready: {_reason(body)}")


def _reason(body: bytes) -> str:
    try:
        problem = Problem.parse(body)
    except WireError:
        return "it does not say why"
    return f"{problem.code}, {problem.detail}"


def _look_here(public: "PublicAuthority", checks: "list[HealthCheck]") -> "list[Result]":
    from ca_service.collateral import FOLDER, CollateralFolder
    from ca_service.keys import Authority, find_passphrase, find_pin, load_authority
    from ca_service.operations.health_model import HealthContext

    directory = public.directory
    database = _Database(directory)

    def unlock() -> Authority:
        return load_authority(directory, find_passphrase(os.environ), find_pin(os.environ))

    bundle = CollateralFolder(directory / FOLDER)
    url = find_database(directory)
    context = HealthContext(public, unlock, database, now(), bundle.readable, url)
    return _within(_PATIENCE_S, context, checks, database.close)


def _within(
    seconds: float, context: "HealthContext", checks: "list[HealthCheck]", close: Callable[[], None]
) -> "list[Result]":
    """What the checks find, and that those have found nothing that a database or a disk lets wait for longer."""
    from ca_service.operations.health import examine
    from ca_service.operations.health_model import Result

    found, failed = list[Result](), list[BaseException]()

    def look() -> None:
        try:
            for check in checks:
                found.extend(examine(context, [check]))
        except BaseException as error:  # noqa: BLE001 - raised where the others wait
            failed.append(error)
        finally:
            close()

    # No end of this program waits for it: what hangs in the kernel may do so for good.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(seconds)
    results = list(found)
    if failed:
        raise failed[0]
    detail = f"nothing was found out within {seconds:.0f} seconds"
    return results + [Result(check, Status.UNKNOWN, detail) for check in checks[len(results) :]]


class _Database:
    """The CA's database, opened when somebody first looks; what keeps it from being opened is found out once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store: Store | None = None
        self._failure: VtpmCaError | None = None

    def __call__(self) -> "Store":
        if self._failure is not None:
            raise self._failure
        if self._store is None:
            try:
                self._store = self._open()
            except VtpmCaError as error:
                self._failure = error.with_traceback(None)
                raise
        return self._store

    def _open(self) -> "Store":
        from ca_service.operations import open_database

        if read_facts(self._directory).get("own_database") is False and not os.environ.get(DATABASE_VARIABLE):
            raise Unavailable(
                "this CA's server works on another database than the one in the directory",
                remedy=f"Start the server, or name its database in {DATABASE_VARIABLE}.",
            )
        return open_database(find_database(self._directory))

    def close(self) -> None:
        """Let go of it."""
        if self._store is not None:
            self._store.close()
