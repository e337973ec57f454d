"""A policy that has come into force is read once by a process, whoever asks for it first."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ca_service.enrollment import desk as desk_module
from ca_service.enrollment.submission import Submission
from ca_service.judgment import BadRequest
from ca_service.policy import load

THREADS = 4


def test_one_thread_reads_it_for_all(world, store, enroller, tpms, monkeypatch):
    submission = Submission.parse(world.body(enroller.new_nonce().nonce, tpms(0)))
    barrier, second, calls = threading.Barrier(THREADS), threading.Event(), []

    def slow(text):
        calls.append(text)
        if len(calls) > 1:
            second.set()
        second.wait(0.3)  # time enough for another thread to come here too, if it can
        return load(text)

    monkeypatch.setattr(desk_module, "load", slow)

    def view(_n):
        barrier.wait(20)
        with store.read() as tx:
            return enroller.desk.view(tx, submission, world.time).policy

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(view, range(THREADS)))
    assert len(calls) == 1
    assert all(policy is found[0] for policy in found)


def test_a_policy_that_cannot_be_read_keeps_nobody_waiting(world, store, enroller, tpms):
    submission = Submission.parse(world.body(enroller.new_nonce().nonce, tpms(0)))
    with store.write() as tx:
        tx.connection.exec_driver_sql("UPDATE policies SET text = 'x'")
    for _ in range(2):
        with store.read() as tx, pytest.raises(Exception, match="cannot be read by this release"):
            enroller.desk.view(tx, submission, world.time)


def test_reading_leaves_the_collector_as_it_was(world):
    for text in (world.policy(), "no document"):
        for on in (True, False):
            (gc.enable if on else gc.disable)()
            try:
                load(text)
            except BadRequest:
                assert text == "no document"
            finally:
                was = gc.isenabled()
                gc.enable()
            assert was is on
