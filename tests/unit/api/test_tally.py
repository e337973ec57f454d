"""Counts that several processes share: none is lost or spoilt, however a process ends."""

import os
import signal
import threading

from ca_service.api import tally as module
from ca_service.api.tally import LOST, Tally


def values(tally) -> dict:
    return {(count.name, *count.labels): count.value for count in tally.read()}


def forked(do) -> int:
    """Run `do` in a process of its own and return its id; the process ends by itself afterwards."""
    pid = os.fork()
    if pid == 0:
        try:
            do()
        finally:
            os._exit(0)
    return pid


def test_counts_add_up_by_name_and_labels():
    tally = Tally()
    tally.add("a", ("x",))
    tally.add("a", ("x",), 2.5)
    tally.add("a", ("y",))
    tally.add("b")
    assert values(tally) == {(LOST,): 0, ("a", "x"): 3.5, ("a", "y"): 1, ("b",): 1}


def test_each_process_counts_and_all_is_read_together():
    tally = Tally(3)
    for pid in [forked(lambda: [tally.add("a") for _ in range(1000)]) for _ in range(3)]:
        os.waitpid(pid, 0)
    tally.add("a")
    assert values(tally)[("a",)] == 3001


def test_no_two_living_processes_count_in_one_place():
    tally = Tally(4)
    reader, writer = os.pipe()

    def count():
        tally.add("a")
        os.write(writer, bytes([tally._start // module._SLAB]))
        signal.pause()

    pids = [forked(count) for _ in range(8)]
    try:
        places = [os.read(reader, 1)[0] for _ in pids]
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    assert sorted(places) == list(range(8))
    assert values(tally)[("a",)] == 8


def test_what_a_killed_process_counted_stays_and_its_place_is_taken_again():
    tally = Tally(1)
    for round_ in range(1, 12):
        reader, writer = os.pipe()

        def count(to=writer):
            tally.add("a")
            os.write(to, b".")
            signal.pause()

        pid = forked(count)
        assert os.read(reader, 1) == b"."
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
        # More rounds than there are slabs: without a place for the next one this would stop to grow.
        assert values(tally)[("a",)] == round_


def test_a_process_that_is_killed_while_it_makes_an_entry_leaves_none(monkeypatch):
    tally = Tally(1)

    def die(*_arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    def count():
        tally.add("a")
        monkeypatch.setattr(module, "_LENGTH", type("Broken", (), {"pack_into": staticmethod(die)}))
        tally.add("half")

    os.waitpid(forked(count), 0)
    assert values(tally) == {(LOST,): 0, ("a",): 1}
    tally.add("b")
    assert values(tally) == {(LOST,): 0, ("a",): 1, ("b",): 1}


def test_what_finds_no_room_is_counted_as_lost(monkeypatch):
    monkeypatch.setattr(module, "SERIES", 4)
    tally = Tally()
    for number in range(10):
        tally.add("a", (str(number),))
    tally.add("a", ("0",))
    tally.add("a", ("x" * 500,))
    assert values(tally) == {(LOST,): 8, ("a", "0"): 2, ("a", "1"): 1, ("a", "2"): 1}


def test_threads_lose_nothing():
    tally = Tally()
    threads = [threading.Thread(target=lambda: [tally.add("a") for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values(tally)[("a",)] == 8000
