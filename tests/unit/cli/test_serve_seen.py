"""What a real server with several processes counts and logs, through kills and floods."""

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ca_service.api.journal import (
    KIND_AT_ONCE,
    KIND_PER_SECOND,
    LINES_AT_ONCE,
    LINES_PER_SECOND,
    MAX_LINE,
)
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


def lines(server) -> list[dict[str, object]]:
    return [json.loads(line) for line in server.log.read_text().splitlines()]


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


def junk(server, rounds: int) -> None:
    """Requests that prove nothing, of every kind that gets an answer; some are no HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    kinds = (
        ("POST", "/v1/enrollments", b"{"),
        ("POST", "/v1/enrollments", b'{"a":1,"a":2}'),
        ("POST", "/v1/enrollments/00/activation", b'{"secrets":["AAAA"]}'),
        ("GET", "/v1/enrollments/00", None),
        ("GET", "/nowhere", None),
        ("DELETE", "/v1/nonces", None),
        ("GET", "/operator/v1/policy-show", None),
        ("POST", "/operator/v1/policy-show", b"{}"),
        ("GET", "/metrics", None),
    )
    with contextlib.closing(connection):
        for number in range(rounds):
            method, path, body = kinds[number % len(kinds)]
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert 400 <= answer.status < 500 or answer.status == 503


def garbage(server, rounds: int) -> None:
    """Bytes that are no request at all."""
    for number in range(rounds):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(b"\x1b[31m\xff GARBAGE %d \r\n\r\n" % number)
            with contextlib.suppress(OSError):
                connection.recv(4096)


def flood(server, rounds: int) -> None:
    """Junk with a genuine request now and then; the log stays within its bound and is JSON throughout."""
    begun, before = time.monotonic(), len(lines(server))
    for _ in range(rounds // 500):
        junk(server, 480)
        garbage(server, 20)
        assert ask(server, "POST", "/v1/nonces") == 201
    if rounds >= 1000:
        # What was left out is said with a later request, once that may be said.
        until(
            lambda: ask(server, "POST", "/v1/nonces") == 201 and any("suppressed" in x for x in lines(server))
        )
    seconds, found = time.monotonic() - begun, lines(server)[before:]
    processes = len(server.workers)
    requests = [line for line in found if line["event"] == "request"]
    assert len(requests) <= processes * (LINES_AT_ONCE + seconds * LINES_PER_SECOND) + 10
    # What gunicorn says of garbage are warnings, which have an allowance of their own, by the place in its code.
    places = {line["logger"] for line in found if "logger" in line}
    assert places <= {"gunicorn.error"}
    assert len(found) - len(requests) <= 2 * processes * (KIND_AT_ONCE + seconds * KIND_PER_SECOND) + 10
    assert sum(int(str(line.get("suppressed", 0))) for line in found) > 0 or rounds < 1000
    for line in server.log.read_bytes().splitlines():
        assert len(line) <= MAX_LINE
        assert b"\x1b" not in line
        assert b"Traceback" not in line


def test_a_flood_of_junk(ca, serve):
    size = (ca / "ca.sqlite3").stat().st_size
    server = serve(ca, "--workers", "2")
    flood(server, 1000)
    assert (ca / "ca.sqlite3").stat().st_size == size


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_flood_of_a_hundred_thousand(ca, serve):
    server = serve(ca, "--workers", "2")
    flood(server, 100_000)


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
