"""One nonce, one enrolment: whoever comes at the same time, in one process or in several."""

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from ca_service.judgment import Conflict
from ca_service.store import CertificateState


@pytest.fixture
def database_url(database: str) -> str:
    return database


FORK = multiprocessing.get_context("fork")
CROWD = 50


def outcome(enroller, body: bytes) -> bytes:
    try:
        return enroller.enroll(body).body
    except Conflict:
        return b"conflict"


def crowd(calls) -> list[bytes]:
    """All calls at the same time, each in its own thread."""
    gate = Barrier(len(calls))

    def run(call):
        gate.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def enrollments(store) -> int:
    with store.read() as tx:
        return tx.connection.exec_driver_sql("SELECT count(*) FROM enrollments").scalar()


@pytest.fixture
def different(world, enroller, tpms) -> list[bytes]:
    """Bodies that share one nonce and differ in everything that may."""
    nonce = enroller.new_nonce().nonce
    return [world.body(nonce, tpms(i % 2)) for i in range(CROWD)]


def test_of_different_bodies_exactly_one_wins(store, enroller, different):
    answers = crowd([lambda body=body: outcome(enroller, body) for body in different])
    assert sorted(a == b"conflict" for a in answers) == [False] + [True] * (CROWD - 1)
    assert enrollments(store) == 1


def test_identical_bodies_are_one_enrolment(store, enroller, different):
    answers = crowd([lambda: outcome(enroller, different[0]) for _ in range(CROWD)])
    assert len(set(answers)) == 1
    assert answers[0] != b"conflict"
    assert enrollments(store) == 1


def _worker(world, bodies, go, answers) -> None:
    store = world.open_store()
    enroller = world.enroller(store)
    go.wait()
    answers.put([outcome(enroller, body) for body in bodies])


def across_processes(world, shares: list[list[bytes]]) -> list[bytes]:
    go, answers = FORK.Event(), FORK.SimpleQueue()
    workers = [FORK.Process(target=_worker, args=(world, share, go, answers)) for share in shares]
    for worker in workers:
        worker.start()
    go.set()
    found = [answer for _ in workers for answer in answers.get()]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    return found


def test_of_different_bodies_exactly_one_wins_across_processes(world, store, different):
    answers = across_processes(world, [different[i::5] for i in range(5)])
    assert len(answers) == CROWD
    assert sum(a != b"conflict" for a in answers) == 1
    assert enrollments(store) == 1


def test_identical_bodies_are_one_enrolment_across_processes(world, store, different):
    answers = across_processes(world, [[different[0]] * 5 for _ in range(5)])
    assert len(set(answers)) == 1
    assert enrollments(store) == 1


def test_one_answer_sent_many_times_issues_once(store, enroller, world, tpms, helpers):
    reply = enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0)))
    enrollment_id, body = helpers.answer(tpms(0), reply.body)
    answers = crowd([lambda: enroller.activate(enrollment_id, body)] * 12)
    assert len(set(answers)) == 1
    with store.read() as tx:
        assert len(tx.certificates.latest()) == 3


def test_two_enrolments_of_one_tpm_issue_once(store, enroller, world, tpms, helpers):
    started = [enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0))) for _ in range(6)]
    answered = [helpers.answer(tpms(0), reply.body) for reply in started]
    replies = crowd([lambda pair=pair: enroller.activate(*pair) for pair in answered])
    certificates = {json.dumps([json.loads(r)[k] for k in ("ek", "iak", "idevid")]) for r in replies}
    assert len(certificates) == 1
    with store.read() as tx:
        assert len(tx.certificates.latest(state=CertificateState.ISSUED)) == 3
