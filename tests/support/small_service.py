"""A server of `ca_service.service` with a small application, as a process of its own: listeners without a CA.

Paths: ``/who`` (what the application knows of the client), ``/big`` (2 MiB), ``/hold`` (answers when a file exists),
``/broken`` (raises), ``/half`` (raises in the middle of its response), else an echo of the content.
"""

import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIG = 2 << 20
_KNOWN = ("REMOTE_ADDR", "wsgi.url_scheme", "SCRIPT_NAME", "PATH_INFO", "SERVER_NAME", "vtpm_ca.operator")


def app(environ, start_response):
    path = environ["PATH_INFO"]
    body = environ["wsgi.input"].read()
    if path == "/who":
        known = {name: environ.get(name) for name in _KNOWN}
        body = json.dumps({**known, "pid": os.getpid(), "names": sorted(environ)}).encode()
    elif path == "/big":
        body = b"x" * BIG
    elif path == "/hold":
        while not Path(environ["QUERY_STRING"]).exists():
            time.sleep(0.005)
    elif path == "/broken":
        raise RuntimeError("the secret is 1234")
    start_response("200 OK", [("Content-Length", str(len(body))), ("Content-Type", "text/plain")])
    if path == "/half":
        return _half(body)
    return [body]


def _half(body):
    yield body[:1]
    raise RuntimeError("the secret is 1234")


def main(settings: dict) -> None:
    """Serve; `settings` are those of `Small`."""
    import structlog  # noqa: PLC0415

    from ca_service.service import (  # noqa: PLC0415 - tests that only use the client side need no server
        Bounds,
        Listener,
        OperatorList,
        Patience,
        Server,
        Service,
        Tls,
        TlsFiles,
        certified_operator,
        serve_until_told,
        unix_operator,
    )

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(file=sys.stderr))

    def made(given: dict) -> Listener:
        files = given.get("tls")
        tls = None if files is None else Tls(TlsFiles(*(None if f is None else Path(f) for f in files)))
        operator = None
        if given["address"].startswith("unix:"):
            operator = lambda connection: f"uid {unix_operator(connection)}"  # noqa: E731
        elif files and files[2]:
            listed = given["listed"]
            operator = OperatorList(Path(listed), "listed") if listed else certified_operator
        return Listener(
            given["name"], given["address"], app, Bounds(**given.get("bounds", {})),
            Patience(**given.get("patience", {})), tls, operator,
        )  # fmt: skip

    def ready() -> None:
        os.write(1, b"ready\n")

    def worker() -> None:
        os.write(1, b"worker\n")

    listeners = tuple(made(given) for given in settings["listeners"])
    serve_until_told(Server(Service(listeners, settings["workers"], on_ready=ready, on_worker=worker)))


@dataclasses.dataclass(frozen=True)
class Spec:
    """One listener: bounds and patience as `ca_service.service` names them; `tls`: certificate, key, clients' CA;
    `listed`: the file that lists operators."""

    bounds: dict = dataclasses.field(default_factory=dict)
    patience: dict = dataclasses.field(default_factory=dict)
    tls: tuple | None = None
    unix: Path | None = None
    listed: Path | None = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Small:
    """A running server with one listener for each `Spec`."""

    def __init__(self, log: Path, *specs: Spec, workers: int = 1) -> None:
        self.log = log
        self.ports = [free_port() for _ in specs]
        listeners = [
            {
                "name": f"listener-{number}",
                "address": f"unix:{spec.unix}" if spec.unix else f"127.0.0.1:{port}",
                "bounds": spec.bounds,
                "patience": spec.patience,
                "listed": str(spec.listed or ""),
                "tls": None
                if spec.tls is None
                else [None if file is None else str(file) for file in spec.tls],
            }
            for number, (spec, port) in enumerate(zip(specs, self.ports, strict=True))
        ]
        settings = json.dumps({"listeners": listeners, "workers": workers})
        code = "import json, sys, small_service; small_service.main(json.loads(sys.argv[1]))"
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent))),
            # Names that must have no meaning.
            "SCRIPT_NAME": "/elsewhere",
            "FORWARDED_ALLOW_IPS": "*",
        }
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, settings],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
            )
        self.told("ready")
        for _ in range(workers):
            self.told("worker")

    def told(self, what: str) -> None:
        """Wait until the server says that it is ready, or that a worker begins."""
        ready, _, _ = select.select([self.process.stdout], [], [], 60)
        assert ready
        assert self.process.stdout.readline() == what.encode() + b"\n", self.log.read_text()

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def workers(self) -> list[int]:
        pid = self.process.pid
        with contextlib.suppress(OSError):
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(40)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(40)
        self.process.stdout.close()


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connect(port: int, source: str | None = None, timeout: float = 20.0) -> socket.socket:
    """A connection, from an address of its own if one is named."""
    return socket.create_connection(("127.0.0.1", port), timeout, None if source is None else (source, 0))


def rest_of(connection: socket.socket) -> bytes:
    """All that comes until the server closes; a reset ends it too."""
    parts = []
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def say(port: int, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes, and return all that comes back until the server closes the connection."""
    with connect(port) as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        return rest_of(connection)


def status_of(answer: bytes) -> int:
    """The status of a response; 0 if there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


def resident_kib(pid: int) -> int:
    """Memory of a process, as the kernel counts it."""
    (line,) = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")
    ]
    return int(line.split()[1])
