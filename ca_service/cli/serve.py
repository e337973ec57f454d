"""`vtpm-ca serve`: the CA as a service."""

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import click
import structlog

from ca_service.api import Operations, Services
from ca_service.api.journal import configure
from ca_service.api.tally import Tally
from ca_service.api.watching import Counted, count_kds
from ca_service.cli.access import (
    DATABASE_VARIABLE,
    PATIENCE_S,
    Busy,
    exclusive,
    find_database,
    now,
    open_public,
    with_directory,
)
from ca_service.cli.channel import MAX_SOCKET_PATH, operator_socket, someone_listens, write_facts
from ca_service.cli.collateral import bundle_of, bundle_option, kds_url_option, supply_of
from ca_service.cli.listeners import (
    Addresses,
    enrolment_address,
    listeners_of,
    operator_address,
    publication_address,
)
from ca_service.cli.options import PathName
from ca_service.cli.output import echo
from ca_service.cli.server_log import ServerLog
from ca_service.cli.settings import settings_option
from ca_service.cli.upkeep import remember_at_end, start_upkeep
from ca_service.enrollment import Desk, Enroller, Judge, Limits, liveness_for
from ca_service.evidence.snp import Collateral
from ca_service.judgment import BadRequest, Unavailable, VtpmCaError
from ca_service.keys import AuthoritySource, find_passphrase, find_pin, load_authority
from ca_service.operations import (
    OperationContext,
    check_not_rolled_back,
    database_url,
    ensure_issuers,
    keep_state,
    open_database,
    perform,
    root_list_warning,
    unanswered,
)
from ca_service.service import Server, Service, serve_until_told
from ca_service.store import Store

_PAUSE_S = 0.1


@click.command(short_help="Serve enrolment, publication and operators.")
@click.option(
    "--bind", default="127.0.0.1:8443", show_default=True, metavar="ADDRESS:PORT", help="where to enrol"
)
@click.option(
    "--tls-cert", type=PathName(directory=False), metavar="FILE", help="its certificate chain (PEM)"
)
@click.option("--tls-key", type=PathName(directory=False), metavar="FILE", help="the certificate's key (PEM)")
@click.option(
    "--publish",
    metavar="ADDRESS:PORT",
    help="where certificates and lists are published, by plain HTTP; else where to enrol",
)
@click.option(
    "--operator-bind", metavar="ADDRESS:PORT", help="where operators may come with client certificates, too"
)
@click.option(
    "--operator-cert", type=PathName(directory=False), metavar="FILE", help="its certificate chain (PEM)"
)
@click.option(
    "--operator-key", type=PathName(directory=False), metavar="FILE", help="the certificate's key (PEM)"
)
@click.option(
    "--operator-ca",
    type=PathName(directory=False),
    metavar="FILE",
    help="CA of the operators' certificates (PEM); each of them may do everything",
)
@click.option(
    "--operator-list",
    type=PathName(directory=False),
    metavar="FILE",
    help="only these of them: names, or sha256: and a certificate's digest, one a line",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="processes")
@click.option(
    "--database",
    metavar="URL",
    help=f"of SQLAlchemy, else {DATABASE_VARIABLE} (a URL with a password belongs there), "
    "else the SQLite file in the CA's directory",
)
@bundle_option
@click.option(
    "--kds", is_flag=True, help="get missing VCEKs from AMD's key distribution service into the bundle"
)
@kds_url_option
@settings_option
@with_directory
def serve(
    bind: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    publish: str | None,
    operator_bind: str | None,
    operator_cert: Path | None,
    operator_key: Path | None,
    operator_ca: Path | None,
    operator_list: Path | None,
    workers: int,
    database: str | None,
    bundle: Path | None,
    kds_url: str | None,
    directory: Path,
    *,
    kds: bool,
) -> None:
    """Serve enrolment on --bind, publication there or on --publish, operators on a Unix socket in the CA's directory.

    Without TLS files enrolment is plain HTTP, on loopback only. SIGTERM or Ctrl-C ends the server when the requests at
    work are answered, SIGQUIT at once; SIGHUP has it read its TLS files and the list of operators again.
    """
    addresses = Addresses(
        enrolment_address(bind, tls_cert, tls_key),
        publication_address(publish),
        operator_address(operator_bind, operator_cert, operator_key, operator_ca, operator_list),
    )
    open_public(directory)
    _check_socket(directory)
    budget, tally = configure(sys.stderr), Tally(workers)
    passphrase, pin = find_passphrase(os.environ), find_pin(os.environ)
    source = AuthoritySource(directory, lambda: load_authority(directory, passphrase, pin))
    authority = source.current()
    url = find_database(directory, database)
    with _alone(directory), _opened(url) as store:
        limits = Limits()
        folder = bundle_of(directory, bundle)
        folder.current()
        judge = Judge.of(authority.ca_id, authority.mode, folder.current)
        if kds or kds_url:
            judge = replace(judge, supply=supply_of(folder, judge.roots, kds_url, count_kds(tally)).provide)
        check_not_rolled_back(authority, store)
        liveness = liveness_for(url, directory / "run")
        enroller = Enroller(
            Desk(source, store, judge, liveness, now, secrets.token_bytes, limits, observe=Counted(tally))
        )
        ensure_issuers(store, authority, now())
        enroller.recover()
        keep_state(authority, store)
        log = structlog.get_logger(__name__)
        if question := unanswered(store):
            log.warning("enrolments are refused", reason=question)
        if warning := root_list_warning(authority, now()):
            log.warning("the root's list needs its holder", reason=warning)
        write_facts(directory, own_database=url == database_url(directory))
        operations = _operations(source, store, limits, folder.current)
        services = Services(store, enroller, operations, tally=tally, budget=budget)
        service = Service(
            listeners_of(addresses, directory, services),
            workers,
            on_ready=lambda: _announce(f"{authority.mode} CA {authority.ca_id} serves on {bind}"),
            on_worker=lambda: start_upkeep(enroller),
            on_end=lambda: remember_at_end(enroller),
            log=ServerLog,
        )
        # Workers are forked from here on, and must not inherit a connection to the database.
        store.close()
        serve_until_told(Server(service))


def _announce(text: str) -> None:
    with contextlib.suppress(VtpmCaError):
        echo(text)


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
        context = OperationContext(source.fresh(), source.fresh, store, now, by, limits, collateral)
        return perform(context, name, dict(parameters))

    return run
