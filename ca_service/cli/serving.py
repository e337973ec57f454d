"""The CA as a service: what `vtpm-ca serve` puts together, and in which order."""

import contextlib
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from ca_service.api import Operations, Services
from ca_service.api.journal import configure
from ca_service.api.tally import Tally
from ca_service.api.watching import Counted, count_kds
from ca_service.cli.access import PATIENCE_S, Busy, exclusive
from ca_service.cli.channel import MAX_SOCKET_PATH, operator_socket, someone_listens, write_facts
from ca_service.cli.collateral import bundle_of, supply_of
from ca_service.cli.listeners import Addresses, listeners_of
from ca_service.cli.output import echo
from ca_service.cli.place import find_database, now, open_public
from ca_service.cli.server_log import ServerLog
from ca_service.cli.upkeep import remember_at_end, start_upkeep
from ca_service.enrollment import Desk, Enroller, Judge, Limits, liveness_for
from ca_service.evidence.snp import Collateral
from ca_service.judgment import BadRequest, Unavailable, VtpmCaError
from ca_service.keys import Authority, AuthoritySource
from ca_service.operations import (
    OperationContext,
    check_not_rolled_back,
    database_url,
    ensure_issuers,
    keep_state,
    load_all,
    open_database,
    perform,
    root_list_warning,
    unanswered,
)
from ca_service.policy.document.tables import make_ready
from ca_service.service import Server, Service, serve_until_told
from ca_service.store import Store

_PAUSE_S = 0.1


@dataclass(frozen=True)
class Supply:
    """Where AMD's certificates come from.

    Attributes:
        bundle: their folder; None for the one in the CA's directory.
        kds_url: a mirror of AMD's service, which is asked then.
        kds: whether AMD's own is asked.
    """

    bundle: Path | None
    kds_url: str | None
    kds: bool


def check_place(directory: Path) -> None:
    """Raise `BadRequest` or `NotFound` if there is no CA, or none that can have its operator socket there."""
    open_public(directory)
    _check_socket(directory)


def run(
    source: AuthoritySource,
    directory: Path,
    addresses: Addresses,
    workers: int,
    database: str | None,
    supply: Supply,
) -> None:
    """Serve until told to stop.

    Args:
        source: gives the CA with its keys.
        directory: the CA's.
        addresses: where clients come.
        workers: how many processes.
        database: its URL; None for the environment's, or the file in the directory.
        supply: where AMD's certificates come from.

    Raises:
        VtpmCaError: something is not as it must be; nothing was served.
    """
    budget, tally = configure(sys.stderr), Tally(workers)
    authority = source.current()
    url = find_database(directory, database)
    with _alone(directory), _opened(url) as store:
        limits = Limits()
        folder = bundle_of(directory, supply.bundle)
        folder.current()
        judge = Judge.of(authority.ca_id, authority.mode, folder.current)
        if supply.kds or supply.kds_url:
            asks = supply_of(folder, judge.roots, supply.kds_url, count_kds(tally))
            judge = replace(judge, supply=asks.provide)
        check_not_rolled_back(authority, store)
        liveness = liveness_for(url, directory / "run")
        enroller = Enroller(
            Desk(source, store, judge, liveness, now, secrets.token_bytes, limits, observe=Counted(tally))
        )
        ensure_issuers(store, authority, now())
        enroller.recover()
        keep_state(authority, store)
        log = structlog.get_logger(__name__)
        if question := unanswered(store, now()):
            log.warning("enrolments are refused", reason=question)
        if warning := root_list_warning(authority, now()):
            log.warning("the root's list needs its holder", reason=warning)
        write_facts(directory, own_database=url == database_url(directory))
        operations = _operations(source, store, limits, folder.current)
        services = Services(store, enroller, operations, tally=tally, budget=budget)
        service = Service(
            listeners_of(addresses, directory, services),
            workers,
            on_ready=lambda: _announce(authority, addresses),
            on_worker=lambda: start_upkeep(enroller),
            on_end=lambda: remember_at_end(enroller),
            log=ServerLog,
        )
        load_everything()
        # Workers are forked from here on, and must not inherit a connection to the database.
        store.close()
        serve_until_told(Server(service))


def load_everything() -> None:
    """Load what a request would have to wait for otherwise. Workers that are forked afterwards share it."""
    load_all()
    make_ready()


def _announce(authority: Authority, addresses: Addresses) -> None:
    with contextlib.suppress(VtpmCaError):
        echo(f"{authority.mode} CA {authority.ca_id} serves on {addresses.enrolment.address}")


def _check_socket(directory: Path) -> None:
    path = operator_socket(directory)
    if len(bytes(path)) > MAX_SOCKET_PATH:
        raise BadRequest(
            str(path),
            f"is too long for a Unix socket, which may have {MAX_SOCKET_PATH} bytes",
            remedy="Name the CA's directory by a shorter path, for example a relative one.",
        )
    if path.exists() and not path.is_socket():
        raise BadRequest(str(path), "is in the way of the operator socket", remedy="Take it away.")


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the CA's lock; waits a little for a command, or for what is left of a killed server."""
    deadline = time.monotonic() + PATIENCE_S
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(exclusive(directory))
                break
            except Busy:
                if time.monotonic() >= deadline:
                    if someone_listens(directory):
                        raise Unavailable(
                            f"a server works on {directory} already",
                            remedy="One directory has one server; give it more --workers.",
                        ) from None
                    raise
                time.sleep(_PAUSE_S)
        yield


@contextlib.contextmanager
def _opened(url: str) -> Iterator[Store]:
    store = open_database(url)
    try:
        yield store
    finally:
        store.close()


def _operations(
    source: AuthoritySource, store: Store, limits: Limits, collateral: Callable[[], Collateral]
) -> Operations:
    """What arrives from operators: operation, the operator's name, parameters."""

    def run(name: str, by: str, parameters: Mapping[str, object]) -> object:
        context = OperationContext(
            source.fresh(), source.fresh, store, now, by, limits, collateral, served=True
        )
        return perform(context, name, dict(parameters))

    return run
