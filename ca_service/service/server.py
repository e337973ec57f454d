"""gunicorn with our listeners, worker and settings instead of its own command line."""

import gc
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from ca_service.judgment import BadRequest, Unavailable
from ca_service.service.arbiter import ServiceArbiter
from ca_service.service.board import MOST_LISTENERS, Board
from ca_service.service.listeners import Listener
from ca_service.service.worker import ServiceWorker

GRACE_S = 20
"""How long a stopping server waits for what is at work, in seconds."""

_MEMORY = "/dev/shm"  # noqa: S108 - its files have no name after they are made

_OTHER_FILES = 256
"""Files that a worker has open beside its connections, at most."""

_FOREIGN = ("LISTEN_PID", "LISTEN_FDS", "GUNICORN_PID", "GUNICORN_FD", "SCRIPT_NAME")
"""Variables by which gunicorn would take sockets that nobody has checked, or answer under other paths."""

_log = structlog.get_logger(__name__)


def _nothing() -> None:
    """Do nothing."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Service:
    """What a server serves.

    Attributes:
        listeners: where, and what.
        workers: processes.
        on_ready: called when the sockets listen.
        on_worker: called in each worker before it serves.
        on_end: called when all workers have ended.
        log: the class for gunicorn's own messages.
        now: the present time, with a time zone.
    """

    listeners: tuple[Listener, ...]
    workers: int = 1
    on_ready: Callable[[], None] = field(default=_nothing, repr=False)
    on_worker: Callable[[], None] = field(default=_nothing, repr=False)
    on_end: Callable[[], None] = field(default=_nothing, repr=False)
    log: type[Any] = Logger
    now: Callable[[], datetime] = field(default=_now, repr=False)


class Server(BaseApplication):  # type: ignore[misc] # gunicorn has no type information
    """gunicorn for a `Service`."""

    def __init__(self, service: Service) -> None:
        if len(service.listeners) > MOST_LISTENERS:
            raise ValueError(f"there are at most {MOST_LISTENERS} listeners")
        self.service = service
        self._board = Board()
        super().__init__()

    def load_config(self) -> None:
        """Take our settings."""
        for name, value in self._settings().items():
            self.cfg.set(name, value)

    def load(self) -> Callable[..., Any]:
        """An application, which gunicorn wants to have; our worker asks each listener for its own."""
        return self.service.listeners[0].application

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            SystemExit: at the end, in each process.
            Unavailable: it could not begin.
        """
        try:
            ServiceArbiter(self).run()
        except RuntimeError as error:
            raise Unavailable(f"the server cannot serve: {error}") from None

    def _settings(self) -> dict[str, object]:
        service = self.service
        return {
            "bind": [listener.address for listener in service.listeners],
            "workers": service.workers,
            "worker_class": ServiceWorker,
            "preload_app": True,
            "umask": 0o077,
            "graceful_timeout": GRACE_S,
            "errorlog": "-",
            "loglevel": "warning",
            "logger_class": service.log,
            "proc_name": "vtpm-ca",
            # gunicorn's own way to be steered, in the home directory, is none of ours.
            "control_socket_disable": True,
            # A sign of life must not wait for a disk that is busy with the database.
            "worker_tmp_dir": _MEMORY if os.access(_MEMORY, os.W_OK) else None,
            "pre_fork": self._place,
            "child_exit": self._leave,
            "on_reload": self._renew,
            "when_ready": lambda _server: service.on_ready(),
            "post_worker_init": lambda _worker: service.on_worker(),
            "on_exit": lambda _server: service.on_end(),
        }

    def _place(self, server: Any, worker: ServiceWorker) -> None:
        worker.board = self._board
        worker.place = self._board.take(other.place for other in server.WORKERS.values())

    def _leave(self, _server: Any, worker: ServiceWorker) -> None:
        self._board.leave(worker.place)

    def _renew(self, _server: Any) -> None:
        """On SIGHUP, before new workers start: files that cannot be used leave in force what there was before."""
        for listener in self.service.listeners:
            for each in listener.files:
                try:
                    each.renew()
                except BadRequest as error:
                    _log.error(
                        "files are not taken", listener=listener.name, file=error.path, reason=error.detail
                    )
        self.voice_concerns()

    def voice_concerns(self) -> None:
        """Say in the log what is doubtful about the listeners' files."""
        for listener in self.service.listeners:
            for each in listener.files:
                for concern in each.concerns(self.service.now()):
                    _log.warning("look after a listener's files", listener=listener.name, reason=concern)


def serve_until_told(server: Server) -> None:
    """Serve until a signal says stop. gunicorn always ends by SystemExit, here and in the workers that it forks here.

    Raises:
        Unavailable: an address is in use, or the processes may not have as many files open as they need.
    """
    for name in _FOREIGN:
        os.environ.pop(name, None)
    _allow_files(server.service)
    server.voice_concerns()
    parent = os.getpid()
    # What is there now stays to the end: neither workers nor the end of a process need to go through it.
    gc.collect()
    gc.freeze()
    try:
        server.run()
    except SystemExit as end:
        if end.code and os.getpid() == parent:
            raise Unavailable("the server cannot serve; the lines above say why") from None
        raise


def _allow_files(service: Service) -> None:
    """A connection is an open file: the bounds on connections must be what ends first."""
    needed = sum(listener.bounds.connections for listener in service.listeners) + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Unavailable(
            f"this process may open {hard} files and needs {needed}",
            remedy="Raise its limit: LimitNOFILE= of systemd, or ulimit -n.",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
