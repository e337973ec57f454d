"""The parent of the workers: what it hears, how it ends, and what is left then."""

import os
import queue
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from small_service import Spec, connect, rest_of, status_of, until

from ca_service.service.arbiter import TOLD, UNHEARD, ServiceArbiter

GET = b"GET /who HTTP/1.1\r\nHost: ca\r\n\r\n"


class Ending(ServiceArbiter):
    """A parent of two workers that end when they have been told by `obeys`; it does not start any."""

    def __init__(self, *obeys: int, patience: float = 0.3) -> None:
        self.LISTENERS = []
        self.WORKERS = {1: object(), 2: object()}
        self.SIG_QUEUE = queue.SimpleQueue()
        self.cfg = SimpleNamespace(graceful_timeout=patience)
        self.obeys = obeys
        self.said: list[int] = []

    def kill_workers(self, sig: int) -> None:
        if self.WORKERS:
            self.said.append(sig)

    def reap_workers(self) -> None:
        if self.said[-1] in (*self.obeys, signal.SIGKILL):
            self.WORKERS = {}


class TestStop:
    def test_workers_that_finish_are_not_killed(self):
        arbiter = Ending(signal.SIGTERM)
        arbiter.stop()
        assert arbiter.said == [signal.SIGTERM]

    def test_workers_that_hang_are(self):
        arbiter = Ending()
        begun = time.monotonic()
        arbiter.stop()
        assert arbiter.said == [signal.SIGTERM, signal.SIGKILL]
        assert 0.3 <= time.monotonic() - begun < 5

    def test_a_clock_that_is_set_meanwhile(self, monkeypatch):
        """Forward it would kill who is at work, back it would wait for a day."""
        for step in (86_400.0, -86_400.0):
            begun, seen = time.time(), iter([0.0])
            monkeypatch.setattr("time.time", lambda begun=begun, seen=seen, s=step: begun + next(seen, s))
            arbiter = Ending()
            before = time.monotonic()
            arbiter.stop()
            assert 0.3 <= time.monotonic() - before < 5

    @pytest.mark.parametrize("again", [signal.SIGINT, signal.SIGQUIT])
    def test_told_twice_it_hurries(self, again):
        arbiter = Ending(signal.SIGQUIT, patience=30.0)
        arbiter.SIG_QUEUE.put(signal.SIGCHLD)
        arbiter.SIG_QUEUE.put(signal.SIGTERM)
        arbiter.SIG_QUEUE.put(again)
        arbiter.stop()
        assert arbiter.said == [signal.SIGTERM, signal.SIGQUIT]

    def test_at_once(self):
        arbiter = Ending(signal.SIGQUIT)
        arbiter.stop(graceful=False)
        assert arbiter.said == [signal.SIGQUIT]

    def test_a_worker_that_could_not_begin_is_no_news(self):
        arbiter = Ending(signal.SIGTERM)
        reap = arbiter.reap_workers

        def failing() -> None:
            reap()
            raise HaltServer("Worker failed to boot.", 3)

        arbiter.reap_workers = failing
        arbiter.stop()
        assert arbiter.said == [signal.SIGTERM]

    def test_a_socket_file_that_is_gone_or_is_none(self, tmp_path):
        arbiter = Ending(signal.SIGTERM)
        names = [tmp_path / name for name in ("there", "gone", "other")]
        for name in names:
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(name))
            arbiter.LISTENERS.append(listening)
        for name in names[1:]:
            name.unlink()
        names[2].write_text("mine")
        arbiter.stop()
        assert [path.name for path in tmp_path.iterdir()] == ["other"]
        assert arbiter.LISTENERS == []


def test_a_worker_is_born_with_its_ears_shut(monkeypatch):
    """What it is told before it can listen is kept for it: its parent's handlers would swallow that."""
    seen = []

    def spawn(_self: object) -> int:
        seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        raise SystemExit

    monkeypatch.setattr(Arbiter, "spawn_worker", spawn)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(SystemExit):
        Ending().spawn_worker()
    assert seen[0] >= set(TOLD)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def signals(pid: int, field: str) -> set[int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(field)]
    bits = int(line.split()[1], 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


def test_who_hears_what(serve, tmp_path_factory):
    """A terminal's and a stranger's signals change nothing; a lost socket file is no reason not to end well."""
    path = tmp_path_factory.mktemp("u") / "s"
    server = serve(Spec(), Spec(unix=path), workers=2)
    both = server.workers
    for pid in both:
        # While it starts a thread, a process blocks all signals for a moment.
        until(lambda pid=pid: not signals(pid, "SigBlk") & set(TOLD))
        assert signals(pid, "SigIgn") >= {signal.SIGHUP, signal.SIGINT, *UNHEARD}
        assert signals(pid, "SigCgt") >= {signal.SIGTERM, signal.SIGQUIT}
    for number in UNHEARD:
        server.process.send_signal(number)
    with connect(server.port) as connection:
        connection.sendall(GET)
        assert status_of(connection.recv(1 << 16)) == 200
    assert server.workers == both
    path.unlink()
    assert server.end() == 0
    assert "Traceback" not in server.log.read_text()


def test_ctrl_c_is_heard_by_the_parent_and_what_is_at_work_is_finished(serve, tmp_path):
    """A terminal tells all processes of the group."""
    server = serve()
    gate = tmp_path / "gate"
    with connect(server.port) as busy:
        busy.sendall(GET.replace(b"/who", f"/hold?{gate}".encode()))
        until(lambda: server.workers)
        for pid in server.workers:
            os.kill(pid, signal.SIGINT)
        server.process.send_signal(signal.SIGINT)
        gate.touch()
        assert status_of(rest_of(busy)) == 200
    assert server.process.wait(20) == 0
