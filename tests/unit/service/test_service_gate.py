"""Who gives way to whom, and what is counted, without sockets."""

import json
import queue
import threading
from types import SimpleNamespace

import pytest
import structlog
from small_service import until

from ca_service.service.connection import Phase, client_of
from ca_service.service.gate import Crew, Gate
from ca_service.service.listeners import Bounds, Listener


class One(SimpleNamespace):
    """As much of a connection as a gate knows."""

    __hash__ = object.__hash__

    def __init__(self, client: str | None = "192.0.2.1") -> None:
        super().__init__(
            client=client,
            phase=Phase.IDLE,
            since=0.0,
            deadline=0.0,
            served=0,
            held=0,
            inbox=b"",
            waiting_out=0,
        )


@pytest.fixture
def gate():
    return Gate(
        0,
        Listener("x", "127.0.0.1:1", print, Bounds(threads=0, connections=3, per_client=2, buffered=10)),
        None,
    )


def come(gate: Gate, phase: Phase, at: float, client: str | None = "192.0.2.1") -> One:
    one = One(client)
    gate.add(one)
    gate.enter(one, phase, at)
    return one


def test_who_sends_a_handshake_in_pieces_is_no_newcomer_with_each(gate):
    trickling = come(gate, Phase.SHAKING, 100.0)
    idle = come(gate, Phase.IDLE, 101.0)
    # A piece came: a thread has had it, and it waits for the next one since it connected.
    gate.enter(trickling, Phase.WORKING, 104.0)
    gate.enter(trickling, Phase.SHAKING, 100.0)
    assert gate.slowest(105.0) is trickling
    assert trickling.deadline == 110.0
    gate.remove(trickling)
    assert gate.slowest(105.0) is idle


def test_nobody_gives_way_who_waits_for_us_or_came_just_now(gate):
    come(gate, Phase.WORKING, 100.0)
    come(gate, Phase.IDLE, 104.9)
    assert gate.slowest(105.0) is None
    assert gate.slowest(105.4) is not None
    assert gate.slowest(105.4, "192.0.2.2") is None
    other = come(gate, Phase.READING, 104.8, "192.0.2.2")
    assert gate.slowest(105.4, "192.0.2.2") is other


def test_places(gate):
    first, second = come(gate, Phase.IDLE, 1.0), come(gate, Phase.IDLE, 1.0)
    assert gate.crowded("192.0.2.1")
    assert not gate.crowded("192.0.2.2")
    assert not gate.crowded(None)
    assert not gate.full
    come(gate, Phase.IDLE, 1.0, None)
    assert gate.full
    gate.remove(first)
    gate.remove(first)
    assert not gate.full
    assert not gate.crowded("192.0.2.1")
    gate.remove(second)
    assert gate._by_client == {}


def test_bytes_that_wait_are_counted_once_and_given_back(gate):
    one, other = come(gate, Phase.READING, 1.0), come(gate, Phase.WRITING, 2.0)
    one.inbox, other.waiting_out = b"x" * 6, 4
    assert gate.account(one)
    assert gate.account(one)
    assert gate.account(other)
    assert gate.buffered == 10
    other.waiting_out = 5
    assert not gate.account(other)
    assert gate.longest_held(other) is one
    assert gate.longest_held(one) is other
    gate.remove(one)
    gate.remove(other)
    assert gate.buffered == 0


def test_in_a_hurry_nobody_gets_more_time_than_he_had(gate):
    soon, late, busy = (come(gate, phase, 90.0) for phase in (Phase.IDLE, Phase.WRITING, Phase.WORKING))
    gate.hurry(99.9)
    assert (soon.deadline, late.deadline, busy.deadline) == (100.0, 102.9, float("inf"))
    gate.enter(busy, Phase.WRITING, 101.0)
    assert busy.deadline == 104.0
    assert gate.expired(100.0) == [soon]


def test_who_was_turned_away_is_one_line_a_minute(gate):
    with structlog.testing.capture_logs() as lines:
        for now in (1000.0, 1000.1, 1059.0, 1060.1, 1200.0):
            for _ in range(2):
                gate.count("malformed")
            gate.show(now)
            if now == 1060.1:
                gate.count("tls-certificate-has-expired")
    assert [line["malformed"] for line in lines] == [2, 6, 2]
    assert lines[2]["tls-certificate-has-expired"] == 1
    assert json.dumps(lines)


def test_a_job_wakes_one_thread_and_it_is_always_the_warmest():
    crew, ran = Crew("x", 3), queue.SimpleQueue()
    until(lambda: len(crew._idle) == 3)
    woken = set()
    for _ in range(20):
        crew.put(lambda: ran.put(threading.get_ident()))
        assert len(crew._idle) == 3
        crew.begin()
        woken.add(ran.get(timeout=20))
        assert len(crew._idle) >= 2
        until(lambda: len(crew._idle) == 3)
    assert len(woken) == 1


def test_more_jobs_than_threads_are_all_done_at_once_as_many_as_there_are_threads():
    crew, ran, held = Crew("x", 3), queue.SimpleQueue(), threading.Semaphore(0)

    def job(number: int) -> None:
        ran.put((number, threading.get_ident()))
        assert held.acquire(timeout=20)

    for number in range(50):
        crew.put(lambda number=number: job(number))
    crew.begin()
    first = [ran.get(timeout=20) for _ in range(3)]
    assert len({thread for _, thread in first}) == 3
    assert ran.empty()
    held.release(50)
    assert sorted(number for number, _ in first + [ran.get(timeout=20) for _ in range(47)]) == [*range(50)]


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::"),
    ],
)
def test_whom_an_address_counts_for(host, client):
    assert client_of(host) == client
