"""Steps of a worker's loop, one by one: what a connection may cost, and whom."""

import contextlib
import errno
import selectors
import socket
import time
from collections import deque
from types import SimpleNamespace
from unittest import mock

import pytest

from ca_service.service.answer import Answer
from ca_service.service.board import Board
from ca_service.service.connection import Connection, Phase
from ca_service.service.gate import Gate
from ca_service.service.listeners import Bounds, Listener, Patience
from ca_service.service.request import MALFORMED
from ca_service.service.worker import ServiceWorker


class Loop(ServiceWorker):
    """A worker that never runs; its steps are made by hand."""

    def __init__(self) -> None:
        self.cfg = SimpleNamespace()
        self.alive = True
        self.board = Board()
        self.poller = selectors.DefaultSelector()
        self._gates: list[Gate] = []
        self.method_queue = mock.Mock()
        self.answered = deque()
        self.tmp = mock.Mock()
        self._looked_at = time.monotonic()


@pytest.fixture
def loop():
    made = Loop()
    yield made
    made.poller.close()


@pytest.fixture
def gate():
    bounds = Bounds(threads=0, connections=4, per_client=1, buffered=1000)
    listener = Listener("x", "127.0.0.1:1", print, bounds, Patience(spared=0.0))
    return Gate(0, listener, mock.Mock())


@pytest.fixture
def clients():
    """Makes a server's end of a connection, and closes the clients' ends at last."""
    with contextlib.ExitStack() as stack:

        def connected() -> tuple[socket.socket, socket.socket]:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            client = stack.enter_context(socket.create_connection(listening.getsockname(), 20))
            server, _ = listening.accept()
            stack.callback(server.close)
            return server, client

        yield connected


def held(gate: Gate) -> list[str]:
    return sorted(connection.client for connection in gate.connections)


def test_who_has_all_he_may_have_makes_room_of_his_own(loop, gate, clients):
    first = {}
    for host in ("192.0.2.1", "192.0.2.2"):
        server, first[host] = clients()
        loop._admit(gate, server, (host, 1))
    server, _ = clients()
    loop._admit(gate, server, ("192.0.2.2", 2))
    assert held(gate) == ["192.0.2.1", "192.0.2.2"]
    assert first["192.0.2.2"].recv(1) == b""
    first["192.0.2.1"].setblocking(False)
    with pytest.raises(BlockingIOError):
        first["192.0.2.1"].recv(1)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENETDOWN, errno.EPROTO])
def test_what_accepting_may_say_ends_no_process(loop, gate, clients, number):
    """Without files left, somebody gives way, and it is tried again in a moment: not at once, and not never."""
    server, client = clients()
    loop._admit(gate, server, ("192.0.2.1", 1))
    gate.socket.accept.side_effect = OSError(number, "no")
    with mock.patch.object(loop, "poller"):
        assert loop._accept(gate) is False
    assert gate.again_at is not None
    assert bool(gate.connections) == (number in (errno.ENETDOWN, errno.EPROTO))
    if not gate.connections:
        assert client.recv(1) == b""


def test_one_that_cannot_be_watched_costs_itself(loop, gate, clients):
    server, client = clients()
    with mock.patch.object(loop.poller, "register", side_effect=OSError(errno.ENOSPC, "no")):
        loop._admit(gate, server, ("192.0.2.1", 1))
    assert not gate.connections
    assert client.recv(1) == b""


def test_a_refusal_gives_the_memory_back(loop, gate, clients):
    server, client = clients()
    loop._admit(gate, server, ("192.0.2.1", 1))
    (connection,) = gate.connections
    connection.inbox += b"x" * 900
    gate.account(connection)
    loop._refuse(connection, MALFORMED)
    assert gate.buffered == 0
    assert connection.phase is Phase.LINGERING
    assert client.recv(1 << 16) == MALFORMED.response()


def test_nobody_is_listened_to_for_long_after_the_end(loop, gate, clients):
    """A client who goes on sending after he was refused."""
    server, _ = clients()
    loop._admit(gate, server, ("192.0.2.1", 1))
    (connection,) = gate.connections
    gate.enter(connection, Phase.LINGERING, 0.0)
    with mock.patch.object(connection, "receive", return_value=b"x" * (16 << 10)):
        rounds = 0
        while gate.connections:
            loop._drain(connection)
            rounds += 1
            assert rounds < 10
    assert connection.drained == 1 << 20


def test_the_kernel_keeps_nothing_for_a_slow_reader(gate, clients):
    """What is on its way when he is cut off goes nowhere: he sees a reset, and the memory is free."""
    for phase, expected in ((Phase.WRITING, ConnectionResetError), (Phase.IDLE, None)):
        server, client = clients()
        connection = Connection(gate, server, ("192.0.2.1", 1), None)
        connection.phase = phase
        connection.close()
        with pytest.raises(expected) if expected else contextlib.nullcontext():
            assert client.recv(1) == b""


REQUEST = b"GET / HTTP/1.1\r\nHost: ca\r\n\r\n"


@pytest.fixture
def asked(loop, gate, clients):
    """A connection whose request is with the threads, its client's end, and what a thread does with it."""
    server, client = clients()
    loop._gates.append(gate)
    gate.again_at = time.monotonic() + 60
    loop._admit(gate, server, ("192.0.2.1", 1))
    (connection,) = gate.connections
    jobs = []
    gate.crew.put = jobs.append
    client.sendall(REQUEST)
    loop._round()
    assert connection.phase is Phase.WORKING
    with mock.patch("ca_service.service.conversation.answer", return_value=Answer((b"done",), keep=True)):
        yield connection, client, jobs


def test_an_answer_wakes_nobody_until_the_client_asks_again(loop, asked):
    connection, client, jobs = asked
    jobs.pop()()
    assert client.recv(10) == b"done"
    loop.method_queue.defer.assert_not_called()
    client.sendall(REQUEST)
    # One round takes the connection back and hands the next request over.
    loop._round()
    assert len(jobs) == 1
    assert connection.phase is Phase.WORKING
    assert connection.served == 1


def test_who_asks_again_at_once_is_not_taken_for_one_who_does_not_wait(loop, asked):
    """Both the answer and the next request come while the loop sleeps."""
    _, client, jobs = asked
    select = loop.poller.select

    def sleep(_seconds: float) -> list:
        jobs.pop()()
        client.sendall(REQUEST)
        return select(20)

    with (
        mock.patch.object(loop.poller, "select", sleep),
        mock.patch.object(loop.poller, "unregister") as left,
    ):
        loop._round()
    left.assert_not_called()
    assert len(jobs) == 1


def test_who_was_given_back_as_the_loop_left_him_is_watched_before_it_sleeps(loop, asked):
    """The thread still saw him watched, and so woke nobody."""
    connection, _, jobs = asked
    jobs.pop()()
    loop._watch(connection, 0)
    watched = []

    def sleep(_seconds: float) -> list:
        watched.append(connection.events)
        return []

    with mock.patch.object(loop.poller, "select", sleep):
        loop._round()
    assert watched == [selectors.EVENT_READ]


def test_an_answered_client_who_is_silent_is_waited_for_from_then_on(loop, asked):
    connection, _, jobs = asked
    assert connection.deadline == float("inf")
    jobs.pop()()
    loop._round()
    assert connection.phase is Phase.IDLE
    assert connection.gate.waiting == {connection: None}
    assert connection.deadline < time.monotonic() + 60


@pytest.mark.parametrize("gone", [False, True])
def test_who_sends_more_before_he_has_his_answer_does_not_keep_the_loop_busy(loop, asked, gone):
    """And whoever gives the connection back wakes the loop, which has what was sent before the answer wait."""
    connection, client, jobs = asked
    if gone:
        client.close()
    else:
        client.sendall(REQUEST)
    loop._round()
    assert connection.events == 0
    assert connection.phase is Phase.WORKING
    jobs.pop()()
    ((wake,), _) = loop.method_queue.defer.call_args
    wake()
    loop._round()
    assert connection.closed == gone
    assert len(jobs) == (not gone)


def test_what_cannot_wait_wakes_the_loop(loop, asked):
    """A connection that is to be closed; its client may be waiting for just that."""
    connection, _, jobs = asked
    with mock.patch("ca_service.service.conversation.answer", return_value=Answer((b"done",), keep=False)):
        jobs.pop()()
    (step, *arguments), _ = loop.method_queue.defer.call_args
    step(*arguments)
    assert connection.phase is Phase.LINGERING
    assert not loop.answered


def test_signs_of_life_are_given_by_the_clock_and_not_with_each_request(loop, gate):
    for ago, signs in ((-1000, 0), (1000, 1)):
        loop._looked_at = time.monotonic() - ago
        loop._round()
        assert loop.tmp.notify.call_count == signs
