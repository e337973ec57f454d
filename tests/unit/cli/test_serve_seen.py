"""What a real server with several processes counts and logs, through kills."""

import contextlib
import http.client
import json
import os
import resource
import signal
import time

from prometheus_client.parser import text_string_to_metric_families

from ca_service.cli.channel import get_from_server

NONCES = {"route": "/v1/nonces", "method": "POST", "status": "201"}


def until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ask(server, method: str, path: str, body: bytes | None = None) -> int:
    """The status of an answer on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status


def counted(ca, name: str, labels: dict[str, str]) -> float:
    status, body = get_from_server(ca, "/metrics")
    assert status == 200
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            if (sample.name, sample.labels) == (f"vtpm_ca_{name}", labels):
                return sample.value
    return 0.0


def test_counts_of_all_processes_outlive_each(ca, serve):
    server = serve(ca, "--workers", "2")
    done = 0
    for _ in range(3):
        for _ in range(30):
            done += ask(server, "POST", "/v1/nonces") == 201
        before = server.workers
        os.kill(before[0], signal.SIGKILL)
        until(lambda known=before: len(server.workers) == 2 and known[0] not in server.workers)
        # One that was killed between answer and count would be one less; here all had counted.
        assert counted(ca, "http_requests_total", NONCES) == done
    assert counted(ca, "metrics_lost_total", {}) == 0
    assert ask(server, "GET", "/metrics") == 404


def test_a_disk_that_is_full_shows(ca, serve, here):
    """No file of the worker may grow: the check that really writes notices, and /healthz and /metrics still answer."""
    server = serve(ca)
    until(lambda: ask(server, "GET", "/readyz") == 200)
    (worker,) = server.workers
    hard = resource.prlimit(worker, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, hard))
    until(lambda: ask(server, "GET", "/readyz") == 503)
    status, body = get_from_server(ca, "/readyz")
    assert (status, json.loads(body)["code"]) == (503, "database")
    assert str(ca) not in body.decode()
    assert ask(server, "GET", "/healthz") == 200
    assert counted(ca, "database_up", {}) == 1
    done = here("health-check", "--only", "server", "--only", "database", "--json", "--dir", ca)
    assert done.code == 6
    assert [row["status"] for row in json.loads(done.out)["checks"]] == ["critical", "critical"]
    assert "it answers, and is not ready: database" in json.loads(done.out)["checks"][0]["detail"]
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (hard, hard))
    until(lambda: ask(server, "GET", "/readyz") == 200)
