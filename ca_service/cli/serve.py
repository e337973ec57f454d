"""`vtpm-ca serve`: the CA as a service."""

import contextlib
import ipaddress
import json
import os
import pwd
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import structlog
from gunicorn.app.base import BaseApplication

from ca_service.api import Services, create_app
from ca_service.cli.access import exclusive, now, operator_socket, server_facts, with_directory
from ca_service.enrollment import Desk, Enroller, FileLiveness, Judge, Limits, publish_due
from ca_service.judgment import BadRequest, VtpmCaError
from ca_service.keys import Authority, find_passphrase, load_authority
from ca_service.operations import OperationContext, database_url, perform
from ca_service.store import Store, open_store

_THREADS = 16
_GRACE_S = 20
_CRL_ROUND_S = 600.0


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


def check_bind(bind: str, *, tls: bool) -> None:
    """Refuse an address that is not one, or that leaves the machine without TLS.

    Raises:
        BadRequest: with the remedy.
    """
    host, _, port = bind.rpartition(":")
    if not host or not port.isdecimal():
        raise BadRequest("--bind", f"{bind} must be ADDRESS:PORT, for example 127.0.0.1:8443")
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and not tls:
        raise BadRequest(
            "--bind", f"{host} is not loopback, so it needs TLS", remedy="Give --tls-cert and --tls-key."
        )


@click.command()
@click.option("--bind", default="127.0.0.1:8443", show_default=True, help="address and port")
@click.option("--tls-cert", type=click.Path(path_type=Path, dir_okay=False), help="certificate chain (PEM)")
@click.option("--tls-key", type=click.Path(path_type=Path, dir_okay=False), help="its key (PEM)")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="processes")
@click.option("--database", help="SQLAlchemy URL; by default the SQLite file in the CA's directory")
@with_directory
def serve(
    bind: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    workers: int,
    database: str | None,
    directory: Path,
) -> None:
    """Serve enrolment and publication on --bind, and operators on a Unix socket in the CA's directory."""
    if (tls_cert is None) != (tls_key is None):
        raise BadRequest("--tls-cert", "goes together with --tls-key")
    check_bind(bind, tls=tls_cert is not None)
    _log_json()
    authority = load_authority(directory, find_passphrase(os.environ))
    with exclusive(directory), _opened(database or database_url(directory)) as store:
        limits = Limits()
        judge = Judge.of(authority.ca_id, authority.mode, authority.nonce_key)
        liveness = FileLiveness(directory / "run")
        enroller = Enroller(Desk(authority, store, judge, liveness, now, secrets.token_bytes, limits))
        enroller.recover()
        services = Services(authority, store, enroller, _operations(authority, store, limits))
        facts = server_facts(directory)
        facts.write_text(json.dumps({"tls": tls_cert is not None}))
        settings = {
            "bind": [bind, f"unix:{operator_socket(directory)}"],
            "workers": workers,
            "worker_class": "gthread",
            "threads": _THREADS,
            "preload_app": True,
            "umask": 0o077,
            "graceful_timeout": _GRACE_S,
            "errorlog": "-",
            "loglevel": "warning",
            "proc_name": "vtpm-ca",
            "certfile": None if tls_cert is None else str(tls_cert),
            "keyfile": None if tls_key is None else str(tls_key),
            "when_ready": lambda _server: click.echo(
                f"{authority.mode} CA {authority.ca_id} serves on {bind}"
            ),
            # A worker that was killed may have left an intent open; its successor closes it.
            "post_worker_init": lambda _worker: _start_worker(enroller, store, authority, limits),
        }
        _Server(create_app(services), settings).run()


@contextlib.contextmanager
def _opened(url: str) -> Iterator[Store]:
    store = open_store(url)
    try:
        yield store
    finally:
        store.close()


def _operations(
    authority: Authority, store: Store, limits: Limits
) -> Callable[[str, int, Mapping[str, object]], object]:
    """What arrives on the operator socket: operation, the operator's user id, parameters."""

    def run(name: str, uid: int, parameters: Mapping[str, object]) -> object:
        context = OperationContext(authority, lambda: authority, store, now, _user(uid), limits)
        return perform(context, name, dict(parameters))

    return run


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _start_worker(enroller: Enroller, store: Store, authority: Authority, limits: Limits) -> None:
    enroller.recover()
    threading.Thread(
        target=_keep_crls_fresh, args=(store, authority, limits), name="crl", daemon=True
    ).start()


def _keep_crls_fresh(store: Store, authority: Authority, limits: Limits) -> None:
    pause = threading.Event()
    log = structlog.get_logger(__name__)
    while not pause.wait(_CRL_ROUND_S):
        try:
            publish_due(store, authority, now(), limits)
        except VtpmCaError as error:
            log.warning("crl-not-published", reason=error.detail)


def _log_json() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(file=click.get_text_stream("stderr")),
    )
