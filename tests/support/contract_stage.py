"""A CA that has worked and serves each surface on its own listener, and schemathesis to hold it to its contract."""

import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import enrollment_world as w
import operations_stage
from enrolment_load import free_port
from serving import Nursery, until

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
DOCUMENT = ROOT / "ca_service" / "api" / "openapi.json"
CHECK = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"


class Through:
    """A port of the loopback behind which a Unix socket answers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
            server.connect(str(self._path))
            other = {client: server, server: client}
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for one in ready:
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    other[one].sendall(data)

    def close(self) -> None:
        # Only this wakes the thread that waits for clients.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextlib.contextmanager
def served(directory: Path) -> Iterator[tuple[Path, dict[str, int]]]:
    """Serve a new CA in a directory with a short name: the CA's own, and the port of each surface."""
    config = operations_stage.CONFIG.replace("shards = 1", "shards = 2").replace(
        "ocsp = false", "ocsp = true"
    )
    operations_stage.fill(operations_stage.new(directory, config))
    log, publish = directory / "log", free_port()
    with contextlib.ExitStack() as stack:
        nursery = Nursery(w.PASSPHRASE)
        stack.callback(nursery.close)
        node = nursery.start(directory / "ca", log, "--publish", f"127.0.0.1:{publish}")
        operator = directory / "ca" / "run" / "operator.sock"
        until(lambda: operator.exists() and _answers(publish), 60, log.read_text)
        through = Through(operator)
        stack.callback(through.close)
        yield directory / "ca", {"enrolment": node.port, "publication": publish, "operation": through.port}
        assert "request failed" not in log.read_text()
        assert "Traceback" not in log.read_text()
        assert node.stop() == 0


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def hold(port: int, here: Path, *options: str, seconds: float = 350) -> subprocess.CompletedProcess:
    """Let schemathesis ask the server at this port for what the contract says of the calls that the options select."""
    words = [
        "--config-file", str(SUPPORT / "schemathesis.toml"), "run", str(DOCUMENT),
        "--url", f"http://127.0.0.1:{port}", "--continue-on-failure", "--warnings", "off",
        *options,
    ]  # fmt: skip
    environment = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(SUPPORT),
        "HOME": str(here),
    }
    return subprocess.run(
        [sys.executable, "-c", CHECK, *words],
        env=environment,
        cwd=here,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
