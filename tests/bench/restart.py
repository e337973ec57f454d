"""What a restart costs: from SIGTERM to an idle server until the next one answers, and what any such start costs."""

import http.client
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import enrollment_world as w
import enrolment_load as load
from service import temporary_site

STARTS = 5
_LIMIT_S = 60
_PAUSE_S = 0.005
_SERVE = "from ca_service.cli import main; main()"
_FLOOR = "import flask, sqlalchemy, cryptography.x509"


def measure() -> dict[str, float]:
    """Wall seconds, medians: ``start`` to the first answer, ``restart`` with the stop before it, and ``floor``.

    The floor is Python with the three libraries that nothing here can do without, started in the same rounds.
    """
    starts, restarts, floors = [], [], []
    with temporary_site() as site:
        for _ in range(STARTS):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", _FLOOR], check=True)
            floors.append(time.perf_counter() - begun)
            first, _ = _started(site.folder)
            begun = time.perf_counter()
            first.send_signal(signal.SIGTERM)
            if first.wait(_LIMIT_S):
                raise SystemExit("the server did not end well")
            stopped = time.perf_counter() - begun
            second, spent = _started(site.folder)
            starts.append(spent)
            restarts.append(stopped + spent)
            second.send_signal(signal.SIGTERM)
            second.wait(_LIMIT_S)
    return {
        "start": statistics.median(starts),
        "restart": statistics.median(restarts),
        "floor": statistics.median(floors),
    }


def _started(folder: Path) -> tuple[subprocess.Popen[bytes], float]:
    """A server that has answered, and how long that took."""
    port, begun = load.free_port(), time.perf_counter()
    with (folder / "restart.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, "serve", "--dir", folder / "ca", "--bind", f"127.0.0.1:{port}"],
            stderr=log,
            stdout=log,
            env={**os.environ, "VTPM_CA_PASSPHRASE": w.PASSPHRASE.decode()},
        )
    while not _answers(port):
        if process.poll() is not None or time.perf_counter() - begun > _LIMIT_S:
            process.kill()
            raise SystemExit((folder / "restart.log").read_text())
        time.sleep(_PAUSE_S)
    return process, time.perf_counter() - begun


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_LIMIT_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == load.OK
    except OSError:
        return False
    finally:
        connection.close()
