"""`vtpm-ca serve`: the CA as a service."""

import contextlib
import ipaddress
import os
import re
import secrets
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import structlog
from gunicorn.app.base import BaseApplication

from ca_service.api import Services, create_app
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
    user_name,
    with_directory,
)
from ca_service.cli.channel import MAX_SOCKET_PATH, operator_socket, someone_listens, write_facts
from ca_service.cli.collateral import bundle_of, bundle_option, kds_url_option, supply_of
from ca_service.cli.options import PathName
from ca_service.cli.output import echo
from ca_service.cli.server_log import ServerLog
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
from ca_service.store import Store

_THREADS = 16
_GRACE_S = 20
_PAUSE_S = 0.1
_MAX_PORT = 65535
_PORT = re.compile(r"[1-9][0-9]{0,4}\Z")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?\Z")

_FOREIGN_LISTENERS = ("LISTEN_PID", "LISTEN_FDS", "GUNICORN_PID", "GUNICORN_FD")
"""Variables by which gunicorn would take sockets that --bind does not name and nobody has checked."""


class _Server(BaseApplication):  # type: ignore[misc] # gunicorn has no type information
    """gunicorn with our application and settings instead of its own command line."""

    def __init__(self, application: Callable[..., Any], settings: Mapping[str, object]) -> None:
        self._application = application
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Take our settings."""
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> Callable[..., Any]:
        """The application, made before the workers are forked."""
        return self._application


def check_bind(bind: str, *, tls: bool) -> str:
    """The address to listen on, as gunicorn writes it; refuses one that leaves the machine without TLS.

    Raises:
        BadRequest: with the remedy.
    """
    host, _, port = bind.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not (_PORT.match(port) and int(port) <= _MAX_PORT):
        raise BadRequest("--bind", f"{bind} must be ADDRESS:PORT, for example 127.0.0.1:8443")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        if not _HOST_NAME.match(host):
            raise BadRequest("--bind", f"{bind} must be ADDRESS:PORT, for example [::1]:8443") from None
        loopback, shown = host == "localhost", host
    else:
        loopback, shown = address.is_loopback, f"[{bare}]" if address.version == 6 else bare  # noqa: PLR2004 - IPv6
    if not loopback and not tls:
        raise BadRequest(
            "--bind", f"{host} is not loopback, so it needs TLS", remedy="Give --tls-cert and --tls-key."
        )
    return f"{shown}:{port}"


def check_tls(certificate: Path, key: Path) -> None:
    """Refuse TLS files that the server could not use.

    Raises:
        BadRequest: they cannot be read, do not belong together, or the key has a passphrase.
    """

    def no_passphrase() -> str:
        raise BadRequest("--tls-key", "must not have a passphrase: nobody is there to type it")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, no_passphrase)
    except ssl.SSLError as error:
        detail = f"are no certificate with its key in PEM ({error.reason or 'unreadable'})"
        raise BadRequest("--tls-cert and --tls-key", detail) from None
    except OSError as error:
        raise BadRequest("--tls-cert and --tls-key", f"cannot be read: {error.strerror}") from None


@click.command(short_help="Serve enrolment, publication and operators.")
@click.option(
    "--bind", default="127.0.0.1:8443", show_default=True, metavar="ADDRESS:PORT", help="where to listen"
)
@click.option("--tls-cert", type=PathName(directory=False), metavar="FILE", help="certificate chain (PEM)")
@click.option("--tls-key", type=PathName(directory=False), metavar="FILE", help="its key (PEM)")
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
    workers: int,
    database: str | None,
    bundle: Path | None,
    kds_url: str | None,
    directory: Path,
    *,
    kds: bool,
) -> None:
    """Serve enrolment and publication on --bind, and operators on a Unix socket in the CA's directory.

    Without TLS files it speaks plain HTTP, on loopback only. SIGTERM ends it when the requests at work are answered.
    """
    if (tls_cert is None) != (tls_key is None):
        raise BadRequest("--tls-cert", "goes together with --tls-key")
    tls = tls_cert is not None and tls_key is not None
    address = check_bind(bind, tls=tls)
    if tls_cert is not None and tls_key is not None:
        check_tls(tls_cert, tls_key)
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
        write_facts(directory, tls=tls, own_database=url == database_url(directory))
        settings = {
            "bind": [address, f"unix:{operator_socket(directory)}"],
            "workers": workers,
            "worker_class": "gthread",
            "threads": _THREADS,
            "preload_app": True,
            "umask": 0o077,
            "graceful_timeout": _GRACE_S,
            "errorlog": "-",
            "loglevel": "warning",
            "logger_class": ServerLog,
            "proc_name": "vtpm-ca",
            "certfile": None if tls_cert is None else str(tls_cert),
            "keyfile": None if tls_key is None else str(tls_key),
            # gunicorn's own way to be steered, in the home directory, is none of ours.
            "control_socket_disable": True,
            "when_ready": lambda _server: _announce(
                f"{authority.mode} CA {authority.ca_id} serves on {bind}"
            ),
            "post_worker_init": lambda _worker: start_upkeep(enroller),
            "on_exit": lambda _server: remember_at_end(enroller),
        }
        application = create_app(
            Services(
                store,
                enroller,
                _operations(source, store, limits, folder.current),
                tally=tally,
                budget=budget,
            )
        )
        # Workers are forked from here on, and must not inherit a connection to the database.
        store.close()
        _run(_Server(application, settings))


def _run(server: _Server) -> None:
    """Serve until told to stop. gunicorn always ends by SystemExit, here and in the workers that it forks here."""
    for name in _FOREIGN_LISTENERS:
        os.environ.pop(name, None)
    parent = os.getpid()
    try:
        server.run()
    except SystemExit as end:
        if end.code and os.getpid() == parent:
            raise Unavailable("the server cannot serve; the lines above say why") from None
        raise


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
) -> Callable[[str, int, Mapping[str, object]], object]:
    """What arrives on the operator socket: operation, the operator's user id, parameters."""

    def run(name: str, uid: int, parameters: Mapping[str, object]) -> object:
        context = OperationContext(
            source.fresh(), source.fresh, store, now, user_name(uid), limits, collateral
        )
        return perform(context, name, dict(parameters))

    return run
