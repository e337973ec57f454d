"""`vtpm-ca serve`: the CA as a service."""

import contextlib
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import click
import structlog

from ca_service.api import Operations, Services, Surface, create_app
from ca_service.cli.access import (
    DATABASE_VARIABLE,
    PATIENCE_S,
    Busy,
    exclusive,
    find_database,
    now,
    open_public,
    user_name,
    with_directory,
)
from ca_service.cli.channel import MAX_SOCKET_PATH, operator_socket, someone_listens, write_facts
from ca_service.cli.collateral import bundle_of, bundle_option, kds_url_option, supply_of
from ca_service.cli.options import PathName
from ca_service.cli.output import echo
from ca_service.cli.upkeep import remember_at_end, start_upkeep
from ca_service.enrollment import Desk, Enroller, Judge, Limits, liveness_for
from ca_service.judgment import BadRequest, Unavailable, VtpmCaError
from ca_service.keys import AuthoritySource, find_passphrase, find_pin, load_authority
from ca_service.operations import (
    MAX_REQUEST,
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
from ca_service.service import (
    Bounds,
    Listener,
    Server,
    Service,
    Tls,
    TlsFiles,
    certified_operator,
    check_bind,
    parse_address,
    serve_until_told,
    unix_operator,
)
from ca_service.store import Store
from vtpm.wire.enrollment import MAX_BODY

_PAUSE_S = 0.1

_OPERATORS = Bounds(threads=4, connections=64, per_client=16, body=MAX_REQUEST, buffered=64 << 20)
_PUBLIC = Bounds(threads=8, body=MAX_BODY)
_ENROLMENT = Bounds(threads=16, body=MAX_BODY)


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
    workers: int,
    database: str | None,
    bundle: Path | None,
    kds_url: str | None,
    directory: Path,
    *,
    kds: bool,
) -> None:
    """Serve enrolment on --bind, publication there or on --publish, operators on a Unix socket in the CA's directory.

    Without TLS files enrolment is plain HTTP, on loopback only. SIGTERM ends the server when the requests at work are
    answered; SIGHUP has it read its TLS files again.
    """
    addresses = _Addresses(
        _enrolment_address(bind, tls_cert, tls_key),
        _publication_address(publish, bind),
        _operator_address(operator_bind, operator_cert, operator_key, operator_ca),
    )
    open_public(directory)
    _check_socket(directory)
    _log_json()
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
            judge = replace(judge, supply=supply_of(folder, judge.roots, kds_url).provide)
        check_not_rolled_back(authority, store)
        liveness = liveness_for(url, directory / "run")
        enroller = Enroller(Desk(source, store, judge, liveness, now, secrets.token_bytes, limits))
        ensure_issuers(store, authority, now())
        enroller.recover()
        keep_state(authority, store)
        log = structlog.get_logger(__name__)
        if question := unanswered(store):
            log.warning("enrolments are refused", reason=question)
        if warning := root_list_warning(authority, now()):
            log.warning("the root's list needs its holder", reason=warning)
        write_facts(directory, own_database=url == database_url(directory))
        services = Services(store, enroller, _operations(source, store, limits))
        service = Service(
            _listeners(addresses, directory, services),
            workers,
            on_ready=lambda: _announce(f"{authority.mode} CA {authority.ca_id} serves on {bind}"),
            on_worker=lambda: start_upkeep(enroller),
            on_end=lambda: remember_at_end(enroller),
        )
        # Workers are forked from here on, and must not inherit a connection to the database.
        store.close()
        serve_until_told(Server(service))


@dataclass(frozen=True)
class _Address:
    """Where to listen, and with which certificate."""

    address: str
    tls: Tls | None = None


@dataclass(frozen=True)
class _Addresses:
    enrolment: _Address
    publication: _Address | None
    operation: _Address | None


def _enrolment_address(bind: str, certificate: Path | None, key: Path | None) -> _Address:
    if (certificate is None) != (key is None):
        raise BadRequest("--tls-cert", "goes together with --tls-key")
    address = check_bind(bind, tls=certificate is not None)
    if certificate is None or key is None:
        return _Address(address)
    return _Address(address, Tls(TlsFiles(certificate, key)))


def _publication_address(publish: str | None, bind: str) -> _Address | None:
    if not publish:
        return None
    # What is published is signed and for everybody, so it may leave the machine as it is.
    address, _ = parse_address("--publish", publish)
    if address == parse_address("--bind", bind)[0]:
        raise BadRequest(
            "--publish", "is the same address as --bind", remedy="Leave it out to publish there."
        )
    return _Address(address)


def _operator_address(
    bind: str | None, certificate: Path | None, key: Path | None, authorities: Path | None
) -> _Address | None:
    if not bind and certificate is None and key is None and authorities is None:
        return None
    if not bind or certificate is None or key is None or authorities is None:
        raise BadRequest(
            "--operator-bind", "goes together with --operator-cert, --operator-key and --operator-ca"
        )
    address, _ = parse_address("--operator-bind", bind)
    return _Address(address, Tls(TlsFiles(certificate, key, authorities, "--operator")))


def _listeners(addresses: _Addresses, directory: Path, services: Services) -> tuple[Listener, ...]:
    """Each surface where it belongs. Operators' paths are on no listener that others can reach."""
    publication, operation = addresses.publication, addresses.operation
    public = {Surface.ENROLMENT} if publication else {Surface.ENROLMENT, Surface.PUBLICATION}
    operators = create_app(services, {Surface.OPERATION})
    enrolment = addresses.enrolment
    found = [
        Listener("enrolment", enrolment.address, create_app(services, public), _ENROLMENT, tls=enrolment.tls),
        Listener(
            "operator socket",
            f"unix:{operator_socket(directory)}",
            operators,
            _OPERATORS,
            operator=_unix_name,
        ),
    ]
    if publication:
        public_app = create_app(services, {Surface.PUBLICATION})
        found.append(Listener("publication", publication.address, public_app, _PUBLIC))
    if operation:
        found.append(
            Listener(
                "operators",
                operation.address,
                operators,
                _OPERATORS,
                tls=operation.tls,
                operator=certified_operator,
            )
        )
    return tuple(found)


def _unix_name(connection: socket.socket) -> str | None:
    uid = unix_operator(connection)
    return None if uid is None else user_name(uid)


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


def _operations(source: AuthoritySource, store: Store, limits: Limits) -> Operations:
    """What arrives from operators: operation, the operator's name, parameters."""

    def run(name: str, by: str, parameters: Mapping[str, object]) -> object:
        context = OperationContext(source.fresh(), source.fresh, store, now, by, limits)
        return perform(context, name, dict(parameters))

    return run


def _log_json() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
