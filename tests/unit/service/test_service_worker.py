"""The worker process with real clients: who waits for whom, who is cut off, and who is served all the same."""

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import ssl
import threading
import time
from collections import deque
from types import SimpleNamespace
from unittest import mock

import pytest
from small_service import (
    BIG,
    Small,
    Spec,
    connect,
    resident_kib,
    rest_of,
    say,
    status_of,
    until,
)

from ca_service.service.board import Board
from ca_service.service.worker import ServiceWorker

GET = b"GET /who HTTP/1.1\r\nHost: ca\r\n\r\n"
LAST = b"GET /who HTTP/1.1\r\nHost: ca\r\nConnection: close\r\n\r\n"
QUICK = {"first": 0.5, "request": 1.0, "answer": 1.0, "idle": 0.5, "linger": 0.5, "spared": 0.05}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A server for tests that leave nothing behind."""
    server = Small(tmp_path_factory.mktemp("plain") / "log", Spec())
    yield server
    server.close()


def who(port: int, source: str | None = None) -> dict:
    with connect(port, source) as connection:
        connection.sendall(LAST)
        head, _, body = rest_of(connection).partition(b"\r\n\r\n")
    assert status_of(head) == 200
    return json.loads(body)


def post(path: str, body: bytes, *fields: str) -> bytes:
    head = "\r\n".join((f"POST {path} HTTP/1.1", "Host: ca", f"Content-Length: {len(body)}", *fields, "", ""))
    return head.encode() + body


class TestOneClient:
    def test_kept_alive_and_pipelined(self, plain):
        server = plain
        answers = say(server.port, post("/a", b"one") + post("/b", b"two") + LAST)
        bodies = [part.partition(b"\r\n\r\n")[2] for part in answers.split(b"HTTP/1.1 200 OK\r\n")[1:]]
        assert bodies[:2] == [b"one", b"two"]
        assert json.loads(bodies[2])["PATH_INFO"] == "/who"

    def test_a_request_in_single_bytes(self, plain):
        server = plain
        with connect(server.port) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in post("/a", b"content", "Connection: close"):
                connection.sendall(bytes([byte]))
            assert rest_of(connection).endswith(b"\r\n\r\ncontent")

    def test_a_client_that_has_closed_its_side_gets_the_answer(self, plain):
        assert status_of(say(plain.port, GET, half_close=True)) == 200

    def test_head_of_a_large_answer(self, plain):
        answer = say(plain.port, b"HEAD /big HTTP/1.1\r\nHost: ca\r\nConnection: close\r\n\r\n")
        assert f"Content-Length: {BIG}".encode() in answer
        assert answer.endswith(b"\r\n\r\n")

    def test_a_large_answer_is_whole(self, plain):
        server = plain
        with connect(server.port) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            connection.sendall(b"GET /big HTTP/1.1\r\nHost: ca\r\n\r\n" + LAST)
            answers = rest_of(connection)
        assert answers.count(b"x" * BIG) == 1
        assert answers.count(b"HTTP/1.1 200 OK") == 2

    def test_http_1_0(self, plain):
        answer = say(plain.port, b"POST /a HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc")
        assert answer.startswith(b"HTTP/1.0 200 OK")
        assert answer.endswith(b"abc")

    def test_one_hundred_continue(self, plain):
        server = plain
        with connect(server.port) as connection:
            connection.sendall(
                b"POST /a HTTP/1.1\r\nHost: ca\r\nExpect: 100-continue\r\nContent-Length: 3\r\n"
                b"Connection: close\r\n\r\n"
            )
            assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(b"abc")
            assert status_of(rest_of(connection)) == 200
        too_large = (
            b"POST /a HTTP/1.1\r\nHost: ca\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
        )
        assert status_of(say(server.port, too_large)) == 413

    def test_too_large_a_content_is_answered_while_it_still_comes(self, plain):
        server = plain
        assert status_of(say(server.port, post("/a", b"x" * 500_000))) == 413

    def test_errors_of_the_application(self, plain):
        server = plain
        for path in (b"/broken", b"/half"):
            answer = say(server.port, GET.replace(b"/who", path))
            assert status_of(answer) == 500
            assert b"1234" not in answer
        assert who(server.port)["PATH_INFO"] == "/who"

    def test_a_connection_has_so_many_requests(self, plain):
        answers = say(plain.port, GET * 1001)
        assert answers.count(b"HTTP/1.1 200 OK") == 1000
        assert answers.count(b"Connection: close") == 1


class TestWhoAsks:
    def test_no_header_has_a_say_in_it(self, plain):
        server = plain
        fields = (
            b"X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1;proto=https\r\nX-Real-Ip: 192.0.2.1\r\n"
            b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: on\r\nX-Forwarded-Host: evil\r\nSCRIPT_NAME: /x\r\n"
            b"vtpm_ca.operator: root\r\nREMOTE_ADDR: 192.0.2.1\r\nREMOTE-ADDR: 192.0.2.1\r\n"
        )
        answer = say(server.port, LAST[:-2] + fields + b"\r\n")
        known = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert known["REMOTE_ADDR"] == "127.0.0.1"
        assert known["wsgi.url_scheme"] == "http"
        assert (known["SCRIPT_NAME"], known["PATH_INFO"], known["SERVER_NAME"]) == ("", "/who", "localhost")
        assert known["vtpm_ca.operator"] is None
        assert "gunicorn.socket" not in known["names"]

    def test_nothing_is_upgraded(self, plain):
        server = plain
        for field in (
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
            b"Upgrade: websocket\r\n",
        ):
            answer = say(server.port, LAST[:-2] + field + b"\r\n")
            assert status_of(answer) == 200
        for greeting in (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + GET,
        ):
            assert status_of(say(server.port, greeting)) == 400

    def test_a_unix_socket_says_who_it_is(self, serve, tmp_path_factory):
        path = tmp_path_factory.mktemp("u") / "s"
        serve(Spec(), Spec(unix=path))
        assert path.stat().st_mode & 0o077 == 0
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(LAST)
            known = json.loads(rest_of(connection).partition(b"\r\n\r\n")[2])
        assert known["vtpm_ca.operator"] == f"uid {os.getuid()}"


class TestTimeLimits:
    def test_silence_and_trickles_end(self, serve):
        server = serve(Spec(patience=QUICK))
        begun = time.monotonic()
        with contextlib.ExitStack() as stack:
            silent, head, body, kept = (stack.enter_context(connect(server.port)) for _ in range(4))
            kept.sendall(GET)
            body.sendall(b"POST /a HTTP/1.1\r\nHost: ca\r\nContent-Length: 1000\r\n\r\n")
            for connection in (head, body):
                connection.settimeout(0.05)
            answers = {head: b"", body: b""}
            over: set = set()
            while len(over) < 2:
                assert time.monotonic() - begun < 10
                for connection in answers.keys() - over:
                    try:
                        connection.sendall(b"G")
                        part = connection.recv(1 << 16)
                    except TimeoutError:
                        continue
                    except OSError:
                        part = b""
                    answers[connection] += part
                    if not part or b"408" in answers[connection]:
                        over.add(connection)
            assert {status_of(answer) for answer in answers.values()} == {408}
            assert rest_of(silent) == b""
            assert rest_of(kept).count(b"HTTP/1.1 200 OK") == 1
        assert who(server.port)

    def test_a_slow_reader_is_cut_off_and_holds_no_thread(self, serve):
        server = serve(Spec(bounds={"threads": 1}, patience=QUICK))
        with connect(server.port) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.sendall(GET.replace(b"/who", b"/big"))
            slow.recv(100)
            assert who(server.port), "the only thread is free"
            time.sleep(2.0)  # longer than it may take, which is the point
            assert len(rest_of(slow)) < BIG

    def test_a_stalled_handshake(self, serve, authority):
        ca = authority("server-ca")
        server = serve(Spec(patience=QUICK, tls=(*ca.issue("server", dns=["localhost"]), None)))
        with connect(server.port) as silent, connect(server.port) as half:
            half.sendall(b"\x16\x03\x01\x02\x00\x01")
            assert rest_of(silent) == rest_of(half) == b""

    def test_a_handshake_in_pieces(self, serve, authority):
        """The time limit is for the whole of it, however many pieces there are."""
        ca = authority("server-ca")
        server = serve(Spec(patience=QUICK, tls=(*ca.issue("server", dns=["localhost"]), None)))
        outgoing = ssl.MemoryBIO()
        client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        hello = outgoing.read()
        with connect(server.port) as trickling:
            trickling.settimeout(0.05)
            for number, byte in enumerate(hello):
                assert number < len(hello) // 2, "half of it takes many times as long as all may"
                try:
                    trickling.sendall(bytes([byte]))
                    assert trickling.recv(1) == b""
                except TimeoutError:
                    continue
                except ConnectionError:
                    pass
                break


class TestNobodyStarves:
    def test_listeners_have_threads_of_their_own(self, serve, tmp_path):
        """All threads of one listener are at work; the other answers."""
        server = serve(Spec(bounds={"threads": 2}), Spec(bounds={"threads": 1}))
        gate = tmp_path / "gate"
        held = [connect(server.ports[0]) for _ in range(6)]
        for connection in held:
            connection.sendall(LAST.replace(b"/who", f"/hold?{gate}".encode()))
        for _ in range(5):
            assert who(server.ports[1])
        gate.touch()
        for connection in held:
            assert status_of(rest_of(connection)) == 200
            connection.close()

    def test_idle_connections_give_way(self, serve):
        """More idle connections than there may be: genuine clients come through, and others are not touched."""
        server = serve(
            Spec(bounds={"connections": 50, "per_client": 50}, patience={"spared": 0.0}),
            Spec(bounds={"connections": 4}),
        )
        idle = [connect(server.ports[0], f"127.0.1.{1 + n // 2}") for n in range(120)]
        with connect(server.ports[1]) as other:
            for number in range(10):
                assert who(server.ports[0], f"127.0.2.{1 + number}")
            other.sendall(LAST)
            assert status_of(rest_of(other)) == 200
        for connection in idle:
            connection.close()

    def test_trickling_connections_give_way(self, serve):
        server = serve(Spec(bounds={"connections": 20}, patience={"spared": 0.2}))
        slow = [connect(server.port, f"127.0.1.{1 + n}") for n in range(20)]
        for connection in slow:
            connection.sendall(b"GET /")
        until(lambda: _answered(server.port, "127.0.2.1"), 5)
        for connection in slow:
            connection.close()

    def test_one_address_has_so_many(self, serve, tmp_path):
        server = serve(Spec(bounds={"connections": 100, "per_client": 3, "threads": 4}))
        gate = tmp_path / "gate"
        busy = [connect(server.port, "127.0.1.1") for _ in range(3)]
        for connection in busy:
            connection.sendall(LAST.replace(b"/who", f"/hold?{gate}".encode()))
        until(lambda: _status(server.port, "127.0.1.1") == 429)
        assert who(server.port, "127.0.1.2")
        gate.touch()
        for connection in busy:
            assert status_of(rest_of(connection)) == 200
            connection.close()

    def test_what_they_hold_together_is_bounded(self, serve):
        """Each sends nearly all of a content that may be large; together they may not have so much."""
        bounds = {"connections": 200, "per_client": 200, "body": 1 << 20, "buffered": 8 << 20}
        server = serve(Spec(bounds=bounds))
        (worker,) = server.workers
        before = resident_kib(worker)
        part, held = post("/a", b"x" * (1 << 20))[:-1], []
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                connection = stack.enter_context(connect(server.port))
                held.append(connection)
                with contextlib.suppress(OSError):
                    connection.sendall(part)
            # Eight of them fit, and one that comes; the memory is looked at when nothing more is under way.
            until(lambda: sum(map(_is_closed, held)) >= 50)
            assert resident_kib(worker) - before < 40 << 10
            # Those who take longest give way to one who does not.
            whole = post("/a", b"y" * (1 << 19), "Connection: close")
            assert say(server.port, whole).endswith(b"y" * (1 << 19))

    @pytest.mark.slow
    def test_slow_readers_hold_a_bounded_amount(self, serve):
        bounds = {"connections": 200, "per_client": 200, "buffered": 16 << 20}
        server = serve(Spec(bounds=bounds))
        (worker,) = server.workers
        before = resident_kib(worker)
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                connection = stack.enter_context(connect(server.port))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.sendall(GET.replace(b"/who", b"/big"))
            assert who(server.port, "127.0.1.1")
            assert resident_kib(worker) - before < 64 << 10


def _is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed it; nothing else comes over it."""
    with contextlib.suppress(ConnectionError):
        return bool(select.select([connection], [], [], 0)[0]) and connection.recv(1) == b""
    return True


def _status(port: int, source: str | None) -> int:
    with connect(port, source) as connection:
        connection.sendall(LAST)
        return status_of(rest_of(connection))


def _answered(port: int, source: str | None) -> bool:
    with contextlib.suppress(OSError):
        return _status(port, source) == 200
    return False


class TestSpreading:
    def pids(self, connections) -> list[int]:
        found = []
        for connection in connections:
            connection.request("GET", "/who")
            found.append(json.loads(connection.getresponse().read())["pid"])
        return found

    def open(self, server, count: int) -> list[http.client.HTTPConnection]:
        made = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=20) for _ in range(count)]
        self.pids(made)
        return made

    def test_whoever_has_fewer_gets_the_new_ones(self, serve):
        """One worker could take none for a while; then it gets nearly all, until it has as many."""
        server = serve(workers=2)
        late = server.workers[0]
        for _ in range(6):
            os.kill(late, signal.SIGSTOP)
            first = self.open(server, 12)
            os.kill(late, signal.SIGCONT)
            second = self.open(server, 12)
            share = self.pids(second).count(late)
            for connection in (*first, *second):
                connection.close()
            # A busy machine may wake it too late, now and then.
            if share >= 10:
                return
        pytest.fail("the worker with fewer connections is not preferred")

    def test_a_killed_worker_is_missed_by_nobody(self, serve):
        server = serve(workers=2)
        both = set(server.workers)
        before = self.open(server, 8)
        killed = server.workers[0]
        os.kill(killed, signal.SIGKILL)
        begun = time.monotonic()
        for number in range(10):
            assert who(server.port, f"127.0.1.{1 + number}")["pid"] != killed
        assert time.monotonic() - begun < 5
        server.told("worker")
        (new,) = set(server.workers) - both
        until(lambda: who(server.port)["pid"] == new)
        for connection in before:
            connection.close()

    @pytest.mark.slow
    def test_a_stopped_worker_costs_the_others_little(self, serve):
        """It hangs, with fewer connections than the other one."""
        server = serve(workers=2)
        held = self.open(server, 6)
        hanging = server.workers[0]
        os.kill(hanging, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            for number in range(20):
                assert who(server.port, f"127.0.1.{1 + number}")["pid"] != hanging
            assert time.monotonic() - begun < 5
        finally:
            os.kill(hanging, signal.SIGCONT)
        for connection in held:
            connection.close()


class TestTheEnd:
    def test_what_is_at_work_is_finished(self, serve, tmp_path):
        server = serve()
        gate = tmp_path / "gate"
        with connect(server.port) as busy, connect(server.port) as kept, connect(server.port) as half:
            kept.sendall(GET)
            assert status_of(kept.recv(1 << 16)) == 200
            busy.sendall(GET.replace(b"/who", f"/hold?{gate}".encode()))
            half.sendall(GET[:10])
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            until(lambda: not _connects(server.port))
            # Said before the end, on a connection that was to be kept.
            half.sendall(GET[10:])
            gate.touch()
            for connection in (busy, half):
                answer = rest_of(connection)
                assert status_of(answer) == 200
                assert b"Connection: close" in answer
            assert rest_of(kept) == b""
        assert server.process.wait(20) == 0

    @pytest.mark.slow
    def test_silent_clients_do_not_hold_it_up(self, serve):
        server = serve()
        idle = [connect(server.port) for _ in range(20)]
        idle[0].sendall(b"GET /")
        idle[1].sendall(GET.replace(b"/who", b"/big"))
        idle[2].sendall(GET)
        time.sleep(0.2)
        begun = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - begun < 15
        for connection in idle:
            connection.close()

    def test_a_flood_of_new_clients_does_not_keep_it_from_its_end(self):
        """Other processes listen on, so the flood goes on; and while it accepts, nothing else gets its turn."""
        accepted = []

        class Flooded(ServiceWorker):
            def __init__(self) -> None:
                self.cfg = SimpleNamespace(graceful_timeout=20)
                self.board, self.poller, self.answered = Board(), mock.Mock(), deque()
                self._gates = [mock.Mock(again_at=0.0, connections=[])]

            def _accept(self, gate, _listening=None):
                accepted.append(gate)
                return True

        begun = time.monotonic()
        worker = Flooded()
        worker._stop()
        assert time.monotonic() - begun < 5
        assert len(accepted) > 1
        worker._gates[0].socket.close.assert_called_once_with()

    def test_hanging_up_starts_new_workers(self, serve, authority):
        """And they have the TLS certificate of now, unless it cannot be used."""
        ca = authority("server-ca")
        files = ca.issue("server", dns=["localhost"])
        server = serve(Spec(tls=(*files, None)), Spec(), workers=2)
        first = _serial(server.port)
        for expected in (True, False):
            if expected:
                ca.issue("server", dns=["localhost"])
            else:
                files[0].write_text("no certificate")
            before = set(server.workers)
            server.process.send_signal(signal.SIGHUP)
            until(lambda before=before: len(server.workers) == 2 and not before & set(server.workers), 30)
            now = _serial(server.port)
            assert (now != first) == expected
            first = now
            assert who(server.ports[1])
        assert "files are not taken" in server.log.read_text()


def _serial(port: int) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with connect(port) as plain, context.wrap_socket(plain) as secure:
        return secure.getpeercert(binary_form=True)


def _connects(port: int) -> bool:
    with contextlib.suppress(OSError), connect(port, timeout=2):
        return True
    return False


def test_the_log_says_who_was_turned_away_once_a_minute(serve):
    server = serve()
    for _ in range(50):
        say(server.port, b"nonsense\r\n\r\n")
    until(lambda: "clients were turned away" in server.log.read_text())
    assert server.log.read_text().count("\n") < 5
    assert "Traceback" not in server.log.read_text()


def test_requests_that_are_not_waited_with_over_tls(serve, authority):
    """What has been decrypted with the request before no longer makes the socket readable."""
    ca = authority("server-ca")
    server = serve(Spec(tls=(*ca.issue("server", dns=["localhost"]), None)))
    context = ssl.create_default_context(cafile=ca.file)
    data = GET * 2 + post("/a", b"x" * 20_000) + LAST
    for cut in (len(data), 10, len(GET), len(GET) + 10, 16384):
        with connect(server.port) as plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(data[:cut])
            secure.sendall(data[cut:])
            answers = rest_of(secure)
        assert answers.count(b"HTTP/1.1 200 OK") == 4, cut
        assert b"\r\n\r\n" + b"x" * 20_000 + b"HTTP/1.1" in answers, cut


def test_many_at_once_over_tls(serve, authority):
    ca = authority("server-ca")
    server = serve(Spec(tls=(*ca.issue("server", dns=["localhost"]), None)), workers=2)
    context = ssl.create_default_context(cafile=ca.file)
    failures: list[object] = []

    def run(number: int) -> None:
        try:
            connection = http.client.HTTPSConnection("localhost", server.port, timeout=30, context=context)
            for size in (0, 10, 60_000, 17):
                connection.request("POST", "/echo", bytes([number]) * size)
                assert connection.getresponse().read() == bytes([number]) * size
            connection.request("GET", "/big")
            assert len(connection.getresponse().read()) == BIG
            connection.request("GET", "/who")
            assert json.loads(connection.getresponse().read())["wsgi.url_scheme"] == "https"
            connection.close()
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert status_of(say(server.port, GET)) == 0, "plain HTTP is no TLS"


@pytest.mark.parametrize("field", ["Host: a\r\nHost: b", "Host: a"])
def test_a_host_is_a_name_and_no_choice(plain, field):
    answer = say(plain.port, f"GET /who HTTP/1.1\r\n{field}\r\nConnection: close\r\n\r\n".encode())
    assert status_of(answer) == (200 if field == "Host: a" else 400)
