"""Turns to write: one process at a time, the end of one wakes the next, and a death is no end of them all."""

import mmap
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from ca_service.judgment import Unavailable
from ca_service.store import Store, create_store, turns, writers
from ca_service.store.turns import Turns

FORK = multiprocessing.get_context("fork")
LONG_S = 30.0


@contextmanager
def child(work: Callable[[Connection], None]) -> Iterator[tuple[Connection, BaseProcess]]:
    """A forked process that does `work`, and the near end of its pipe."""
    near, far = FORK.Pipe()
    process = FORK.Process(target=work, args=(far,))
    process.start()
    far.close()
    with closing(near):
        try:
            yield near, process
        finally:
            process.kill()
            process.join(LONG_S)


def said(near: Connection) -> object:
    assert near.poll(LONG_S), "the child says nothing"
    return near.recv()


def holding(mine: Turns) -> Callable[[Connection], None]:
    """Takes a turn, says so, and keeps it until it is told to give it back."""

    def work(far: Connection) -> None:
        far.send(mine.take(LONG_S))
        far.recv()
        mine.give()
        far.recv()

    return work


def test_the_end_of_a_turn_wakes_who_waits(monkeypatch: pytest.MonkeyPatch):
    """Nobody looks again by himself within the time that the test has."""
    monkeypatch.setattr(turns, "_LOOK_AGAIN_S", 10 * LONG_S)
    far_ends: list[Connection] = []

    def clock() -> float:
        """Who looks at it has found the turn taken, and does not look again before he waits."""
        if far_ends:
            far_ends.pop().send("waits")
        return time.monotonic()

    mine = Turns(clock)
    assert mine.take(0)

    def work(far: Connection) -> None:
        far_ends.append(far)
        far.send(mine.take(LONG_S))

    with child(work) as (near, _):
        assert said(near) == "waits"
        mine.give()
        assert said(near) is True


def test_a_turn_that_ended_before_somebody_waits_is_no_invitation():
    """Else who waits would look again all the time."""
    looks: list[float] = []

    def clock() -> float:
        looks.append(time.monotonic())
        return looks[-1]

    mine = Turns(clock)
    for _ in range(3):
        assert mine.take(0)
        mine.give()
    with child(holding(mine)) as (near, _):
        assert said(near) is True
        assert not mine.take(2 * turns._LOOK_AGAIN_S)
        assert len(looks) < 10
        near.send("give")
        assert mine.take(LONG_S)


def test_a_process_that_is_killed_in_its_turn_has_it_no_longer():
    mine = Turns()
    with child(holding(mine)) as (near, process):
        assert said(near) is True
        assert not mine.take(0)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        assert mine.take(LONG_S)


def test_one_at_a_time():
    """Each adds to a number in a way that loses what another adds meanwhile."""
    mine, shared = Turns(), mmap.mmap(-1, 8)

    def work(far: Connection) -> None:
        for _ in range(100):
            if not mine.take(LONG_S):
                return
            count = int.from_bytes(shared[:8], "little")
            os.sched_yield()
            shared[:8] = (count + 1).to_bytes(8, "little")
            mine.give()
        far.send("done")

    with child(work) as (first, _), child(work) as (second, _), child(work) as (third, _):
        assert [said(near) for near in (first, second, third)] == ["done"] * 3
    assert int.from_bytes(shared[:8], "little") == 300


def test_workers_of_one_server_take_turns_at_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The parent never gets as far as SQLite, which would let it wait by its own rules."""
    monkeypatch.setattr(writers, "BUSY_TIMEOUT_MS", 20)
    store = create_store(f"sqlite:///{tmp_path}/a.sqlite3")
    store.close()

    def work(far: Connection) -> None:
        with store.write():
            far.send("writing")
            far.recv()
        far.send("written")
        far.recv()

    begun: list[str] = []
    with child(work) as (near, _):
        assert said(near) == "writing"
        begin = store._sessions.begin
        monkeypatch.setattr(store._sessions, "begin", lambda sql: (begun.append(sql), begin(sql))[1])
        with pytest.raises(Unavailable, match="another writer"), store.write():
            pass
        assert not begun
        near.send("go on")
        assert said(near) == "written"
        with store.write():
            assert begun == ["BEGIN IMMEDIATE"]


def test_a_transaction_that_fails_ends_its_turn(tmp_path: Path):
    store: Store = create_store(f"sqlite:///{tmp_path}/a.sqlite3")

    def work(far: Connection) -> None:
        with store.write():
            far.send("writing")

    def stumble() -> None:
        with store.write():
            raise KeyError("a fault")

    with pytest.raises(KeyError, match="a fault"):
        stumble()
    with child(work) as (near, _):
        assert said(near) == "writing"
