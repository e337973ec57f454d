"""Clients that mean harm, against the serving CA: slow, silent, and with every kind of broken request.

They get an answer of 4xx or none, the workers' memory stays bounded, the log says nothing of each, and meanwhile
genuine clients enrol and operators are served.
"""

import contextlib
import gzip
import http.client
import itertools
import json
import resource
import socket
import ssl
import time

import pytest
from enrolment_load import Client, Habits, free_port, machines, tpms
from fault_site import Site
from small_service import Small, Spec, connect, resident_kib, rest_of, say, status_of
from tls_files import Authority

from ca_service.cli.channel import ask_server, operator_socket

MOST_BODY = 64 << 10
IDLE = 2000


@pytest.fixture(scope="module")
def served(founding, nursery):
    """A CA that serves on two listeners and the operator socket: site, node, port of the publication."""
    site = Site(founding, nursery, None)
    publish = free_port()
    node = site.start("--publish", f"127.0.0.1:{publish}")
    deadline = time.monotonic() + 30
    while status(publish, b"GET /readyz") != 200:
        assert time.monotonic() < deadline, node.log.read_text()
        time.sleep(0.05)
    yield site, node, publish
    assert "Traceback" not in node.log.read_text()
    assert node.stop() == 0
    site.close()


def status(port: int, line: bytes, *fields: bytes, body: bytes = b"") -> int:
    length = [b"Content-Length: %d" % len(body)] if body or line.startswith(b"POST") else []
    head = b"\r\n".join((line + b" HTTP/1.1", b"Host: ca", b"Connection: close", *length, *fields, b"", b""))
    with contextlib.suppress(ConnectionRefusedError):
        return status_of(say(port, head + body))
    return 0


def enrol(site: Site, node, name: int) -> int:
    """Let one machine enrol; returns how many certificates its owner has got."""
    client = Client(name, [node.base], site.record, Habits(again=0.0, replay=0.0))
    with contextlib.closing(client):
        client.enrol(next(machines(site.world, tpms(), f"hostile-{name}")))
    return client.figures.counts["certificates"]


class TestEachPathOnItsListener:
    @pytest.mark.parametrize(
        "host", [b"Host: operator", b"X-Forwarded-Host: operator", b"Forwarded: host=ca"]
    )
    def test_no_header_has_a_say_in_it(self, served, host):
        _, node, publish = served
        fields = (host,) if host.startswith((b"X", b"F")) else (b"X-Original-Host: operator",)
        expected = {
            b"POST /v1/nonces": (201, 404),
            b"GET /.well-known/vtpm-ca": (404, 200),
            b"GET /healthz": (200, 200),
            b"GET /readyz": (200, 200),
            b"GET /log/checkpoint": (404, 200),
            b"GET /v1/certificates/00": (404, 404),
            b"POST /operator/v1/cert-list": (404, 404),
        }
        found = {
            line: (status(node.port, line, *fields), status(publish, line, *fields)) for line in expected
        }
        assert found == expected

    def test_operators_have_theirs_alone(self, served):
        site, _, _ = served
        assert isinstance(ask_server(site.ca, "cert-list", {}), dict | list)
        # Nobody enrols there; what is public is there too, for health checks.
        for line, code in ((b"POST /v1/nonces", 404), (b"GET /healthz", 200), (b"GET /readyz", 200)):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(operator_socket(site.ca)))
                connection.sendall(line + b" HTTP/1.1\r\nHost: ca\r\nConnection: close\r\n\r\n")
                assert status_of(rest_of(connection)) == code


JSON = b"Content-Type: application/json"
ENROL = b"POST /v1/enrollments"
DEEP = b'{"evidence":' * 5000 + b"{}" + b"}" * 5000
CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("name", "expected", "fields", "body"),
    [
        ("oversized", 413, [JSON], b" " * (MOST_BODY + 1)),
        ("deep", 400, [JSON], DEEP[:MOST_BODY]),
        ("deep list", 400, [JSON], b"[" * MOST_BODY),
        ("deep and closed", 400, [JSON], b"[" * 30_000 + b"]" * 30_000),
        ("twice", 400, [JSON], b'{"evidence":{},"evidence":{}}'),
        ("a large number", 400, [JSON], b'{"evidence":' + b"9" * 60_000 + b"}"),
        ("a large exponent", 400, [JSON], b'{"evidence":1e999999}'),
        ("not a number", 400, [JSON], b'{"evidence":NaN}'),
        ("utf-16", 400, [JSON], '{"evidence":{}}'.encode("utf-16")),
        ("utf-16 named", 415, [JSON + b"; charset=utf-16"], '{"evidence":{}}'.encode("utf-16")),
        ("utf-32", 400, [JSON], '{"evidence":{}}'.encode("utf-32-le")),
        ("byte order mark", 400, [JSON], b'\xef\xbb\xbf{"evidence":{}}'),
        ("a lone surrogate", 400, [JSON], b'{"evidence":"\\ud800"}'),
        ("a surrogate in utf-8", 400, [JSON], b'{"evidence":"\xed\xa0\x80"}'),
        ("latin-1", 400, [JSON], b'{"evidence":"\xe9"}'),
        ("a zero byte", 400, [JSON], b'{"evidence":"\x00"}'),
        ("an escaped zero", 400, [JSON], b'{"evidence":"\\u0000"}'),
        ("nothing", 400, [JSON], b""),
        ("gzip", 415, [JSON, b"Content-Encoding: gzip"], gzip.compress(b'{"evidence":{}}', mtime=0)),
        ("a bomb", 415, [JSON, b"Content-Encoding: gzip"], gzip.compress(b" " * 10_000_000, mtime=0)),
        ("another type", 415, [b"Content-Type: text/xml"], b"<x/>"),
        ("a form", 415, [b"Content-Type: multipart/form-data; boundary=x"], b"--x\r\n\r\n\r\n--x--"),
        ("two types", 400, [JSON, b"Content-Type: text/plain"], b"{}"),
    ],
)  # fmt: skip
def test_contents(served, name, expected, fields, body):
    _, node, _ = served
    assert status(node.port, ENROL, *fields, body=body) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"5\r\nhello\r\n0\r\n\r\n", 411),
        (b"5;name=value;other\r\nhello\r\n0\r\nTrailer: x\r\n\r\n", 411),
        (b"-5\r\nhello\r\n0\r\n\r\n", 411),
        (b"FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", 411),
        (b"5" * 100_000, 411),
    ],
)
def test_contents_without_a_length(served, data, expected):
    _, node, _ = served
    head = b"POST /v1/enrollments HTTP/1.1\r\nHost: ca\r\n" + JSON + b"\r\n" + CHUNKED + b"\r\n\r\n"
    assert status_of(say(node.port, head + data)) == expected
    both = head.replace(CHUNKED, CHUNKED + b"\r\nContent-Length: 5")
    assert status_of(say(node.port, both + data)) == 400


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/enrollments/%00",
        b"/v1/enrollments/\x00",
        b"/%2e%2e/%2e%2e/etc/passwd",
        b"/v1/../../etc/passwd",
        b"//v1//nonces",
        b"/v1/enrollments/%ff%fe",
        b"/v1/enrollments/%ud800",
        b"http://other/v1/enrollments/00",
        b"http://[::1/",
        b"*",
        b"/" + b"a" * 10_000,
        b"/v1/enrollments/" + b"0" * 3000,
        b"/v1/enrollments/00?" + b"a=b&" * 900,
    ],
)
def test_targets(served, target):
    _, node, publish = served
    for port, method in itertools.product((node.port, publish), (b"GET ", b"POST ")):
        assert 400 <= status(port, method + target) < 500


PIPELINED = 20


@pytest.mark.parametrize(
    "garbage", [b"\x00" * 200, b"\x1b[31m\xff\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n"]
)
def test_pipelined_garbage(served, garbage):
    """What was asked before it is answered, then nothing more; the next client is none the worse for it."""
    _, node, _ = served
    asked = b"POST /v1/nonces HTTP/1.1\r\nHost: ca\r\nContent-Length: 0\r\n\r\n"
    answers = say(node.port, asked * PIPELINED + garbage + asked * PIPELINED)
    assert answers.count(b"HTTP/1.1 201 ") == PIPELINED
    rest = answers.rpartition(b"HTTP/1.1 201 ")[2].partition(b"HTTP/1.1 ")[2]
    assert rest == b"" or rest.startswith((b"4", b"505 "))
    assert status(node.port, b"POST /v1/nonces") == 201


def test_clients_that_never_read(served):
    """Each asks for more than its socket takes, and reads nothing: requests are left unread, and memory is bounded."""
    site, node, _ = served
    before = [resident_kib(worker) for worker in node.workers]
    asked = b"POST /v1/nonces HTTP/1.1\r\nHost: ca\r\nContent-Length: 0\r\n\r\n" * 900
    with contextlib.ExitStack() as stack:
        for number in range(60):
            one = stack.enter_context(connect(node.port, f"127.5.0.{1 + number}"))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.send(asked)
        assert enrol(site, node, 10) >= 3
        grown = [resident_kib(worker) - was for worker, was in zip(node.workers, before, strict=True)]
    assert max(grown) < 32 << 10, grown


def test_half_open_handshakes(tmp_path):
    """Hundreds that begin TLS and go no further; whoever means it is served, and memory is bounded."""
    ca = Authority(tmp_path, "server-ca")
    server = Small(tmp_path / "log", Spec(tls=(*ca.issue("server", dns=["localhost"]), None)))
    hello = hello_of(ca.file)
    begun = (b"", hello[:5], hello[:-1], hello, b"\x16\x03\x01\x40\x00")
    with contextlib.ExitStack() as stack:
        stack.callback(server.close)
        (worker,) = server.workers
        before = resident_kib(worker)
        for number in range(500):
            one = stack.enter_context(connect(server.port, f"127.7.{number // 250}.{1 + number % 250}"))
            one.sendall(begun[number % len(begun)])
        context = ssl.create_default_context(cafile=ca.file)
        connection = http.client.HTTPSConnection("localhost", server.port, timeout=20, context=context)
        with contextlib.closing(connection):
            connection.request("GET", "/who")
            assert connection.getresponse().status == 200
        grown = resident_kib(worker) - before
    assert grown < 64 << 10, grown


def hello_of(trusted) -> bytes:
    """How a client begins TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=trusted)
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def test_memory_stays_bounded(served):
    """Many clients at once, each with as much as it may send, and none of them ever finishes."""
    _, node, _ = served
    workers = node.workers
    before = [resident_kib(worker) for worker in workers]
    head = b"POST /v1/enrollments HTTP/1.1\r\nHost: ca\r\n" + JSON + b"\r\nContent-Length: 65536\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for number in range(600):
            one = stack.enter_context(connect(node.port, f"127.4.{number // 250}.{1 + number % 250}"))
            with contextlib.suppress(OSError):
                one.sendall(head + b"[" * 65_535)
        grown = [resident_kib(worker) - was for worker, was in zip(workers, before, strict=True)]
    # 600 times 64 KiB are 38 MiB; each of the two workers has some of them.
    assert max(grown) < 60 << 10, grown
    assert workers == node.workers


@pytest.mark.timeout(90)
def test_idle_and_trickling_clients_keep_nobody_waiting(served):
    """Two thousand of them, on both listeners; machines enrol meanwhile, lists are published, operators are served."""
    site, node, publish = served
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 3 * IDLE)), hard))
    with contextlib.ExitStack() as stack:
        idle = []
        for number in range(IDLE):
            port = (node.port, publish)[number % 2]
            idle.append(stack.enter_context(connect(port, f"127.3.{number // 250}.{1 + number % 250}")))
        for number, one in enumerate(idle):
            with contextlib.suppress(OSError):
                # A third says nothing, a third begins a head, a third a body.
                if number % 3 == 1:
                    one.sendall(b"POST /v1/enr")
                elif number % 3 == 2:
                    one.sendall(b"POST /v1/nonces HTTP/1.1\r\nHost: ca\r\nContent-Length: 9\r\n\r\n")
        for name in range(3):
            assert enrol(site, node, name) >= 3
            assert isinstance(ask_server(site.ca, "cert-list", {}), dict | list)
            assert status(publish, b"GET /log/checkpoint") == 200
        # One more byte each, as if they went on.
        for one in idle:
            with contextlib.suppress(OSError):
                one.sendall(b"x")
        assert enrol(site, node, 3) >= 3
        assert json.loads(say(publish, b"GET /healthz HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")[2])
    assert len(node.workers) == 2
