"""Writers who share a commit: all of them wait for it, and what befalls one is no other's."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime

import pytest
from sqlalchemy.exc import OperationalError

from ca_service.judgment import Unavailable, VtpmCaError
from ca_service.store import BlockedKeyRow, Store, Taken, open_store, writers
from ca_service.store.sessions import Session

LONG_S = 30.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, "it does not come to it"
        time.sleep(0.001)


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One element for each commit."""
    done: list[None] = []
    commit = Session.commit
    monkeypatch.setattr(Session, "commit", lambda session: (commit(session), done.append(None))[0])
    return done


def stumble() -> None:
    raise KeyError("a fault")


class Stage:
    """Threads that block a key each; every one waits behind the one before until that may end its block."""

    def __init__(self, store: Store, at: datetime) -> None:
        self.store = store
        self._at = at
        self._pool = ThreadPoolExecutor(32)

    def block(self, name: str, then: Callable[[], None] = lambda: None) -> "Future[None]":
        def work() -> None:
            with self.store.write(together=True) as tx:
                tx.blocked_keys.add(BlockedKeyRow(name, self._at, "me", "a test"))
                then()

        return self._pool.submit(work)

    def first(self, name: str) -> "tuple[Future[None], threading.Event]":
        """Blocks a key, and stays in its transaction until the event is set."""
        inside, go = threading.Event(), threading.Event()
        future = self.block(name, lambda: (inside.set(), go.wait(LONG_S))[0])
        assert inside.wait(LONG_S)
        return future, go

    def waiting(self, count: int) -> None:
        """Wait until so many threads wait for their turn."""
        until(lambda: len(self.store._writers._waiting) == count)

    def stored(self) -> set[str]:
        with self.store.read() as tx:
            return {row.spki for row in tx.blocked_keys.all()}

    def close(self) -> None:
        self._pool.shutdown()


@pytest.fixture
def stage(store: Store, at: datetime) -> Iterator[Stage]:
    with closing(Stage(store, at)) as made:
        yield made


def test_one_commit_for_all_who_wait_and_nobody_goes_on_before_it(stage: Stage, commits: list[None]):
    first, go = stage.first("a")
    inside, go_on = threading.Event(), threading.Event()
    second = stage.block("b", lambda: (inside.set(), go_on.wait(LONG_S))[0])
    stage.waiting(1)
    go.set()
    assert inside.wait(LONG_S)
    assert not first.done()
    assert not commits
    assert stage.stored() == set()
    go_on.set()
    for future in (first, second):
        future.result(LONG_S)
    assert stage.stored() == {"a", "b"}
    assert len(commits) == 1


def test_a_writer_alone_waits_for_nobody(stage: Stage, commits: list[None]):
    for name in ("a", "b", "c"):
        stage.block(name).result(LONG_S)
    assert len(commits) == 3


def test_a_commit_has_room_for_so_many(stage: Stage, commits: list[None]):
    first, go = stage.first("0")
    others = [stage.block(str(i)) for i in range(1, 2 * writers.MOST)]
    stage.waiting(len(others))
    go.set()
    for future in (first, *others):
        future.result(LONG_S)
    assert len(stage.stored()) == 2 * writers.MOST
    assert len(commits) == 2


@pytest.mark.parametrize("place", [0, 1, 2])
def test_who_fails_takes_back_his_own_writes_only(stage: Stage, place: int):
    """Whether he came first, or between two, or last and so commits for those before him."""
    first, go = stage.first("before")
    futures = []
    for i in range(3):
        futures.append(stage.block(str(i), stumble if i == place else lambda: None))
        stage.waiting(i + 1)
    go.set()
    first.result(LONG_S)
    with pytest.raises(KeyError, match="a fault"):
        futures.pop(place).result(LONG_S)
    for future in futures:
        future.result(LONG_S)
    assert stage.stored() == {"before", "0", "1", "2"} - {str(place)}


def test_the_first_one_fails_and_the_next_one_begins_anew(stage: Stage):
    inside, go = threading.Event(), threading.Event()

    def stumble_later() -> None:
        inside.set()
        go.wait(LONG_S)
        stumble()

    first = stage.block("a", stumble_later)
    assert inside.wait(LONG_S)
    second = stage.block("b")
    stage.waiting(1)
    go.set()
    second.result(LONG_S)
    with pytest.raises(KeyError, match="a fault"):
        first.result(LONG_S)
    assert stage.stored() == {"b"}


def test_a_constraint_is_the_affair_of_him_who_broke_it(stage: Stage):
    first, go = stage.first("a")
    second = stage.block("a")
    stage.waiting(1)
    third = stage.block("c")
    stage.waiting(2)
    go.set()
    first.result(LONG_S)
    third.result(LONG_S)
    with pytest.raises(Taken):
        second.result(LONG_S)
    assert stage.stored() == {"a", "c"}


def test_who_finds_a_thing_taken_finds_it_stored(stage: Stage):
    """Whoever hears of it looks what is there; before the commit he would find nothing, and try again and again."""
    first, go = stage.first("a")
    second = stage.block("a")
    stage.waiting(1)
    inside, go_on = threading.Event(), threading.Event()
    third = stage.block("c", lambda: (inside.set(), go_on.wait(LONG_S))[0])
    stage.waiting(2)
    go.set()
    assert inside.wait(LONG_S)
    with pytest.raises(TimeoutError):
        second.result(0.2)
    go_on.set()
    with pytest.raises(Taken):
        second.result(LONG_S)
    assert stage.stored() == {"a", "c"}
    for future in (first, third):
        future.result(LONG_S)


def test_those_who_fail_keep_no_commit_open(stage: Stage):
    first, go = stage.first("a")
    others = []
    for i in range(1, writers.MOST):
        others.append(stage.block("a"))
        stage.waiting(i)
    inside, go_on = threading.Event(), threading.Event()
    last = stage.block("c", lambda: (inside.set(), go_on.wait(LONG_S))[0])
    stage.waiting(writers.MOST)
    go.set()
    assert inside.wait(LONG_S)
    first.result(LONG_S)
    for future in others:
        with pytest.raises(Taken):
            future.result(LONG_S)
    assert stage.stored() == {"a"}
    go_on.set()
    last.result(LONG_S)


def test_a_commit_that_fails_fails_for_all(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    def fail(_session: Session) -> None:
        raise OperationalError("COMMIT", None, Exception("no"))

    first, go = stage.first("a")
    second = stage.block("b")
    stage.waiting(1)
    with monkeypatch.context() as patched:
        patched.setattr(Session, "commit", fail)
        go.set()
        for future in (first, second):
            with pytest.raises(Unavailable, match="cannot be written"):
                future.result(LONG_S)
    assert stage.stored() == set()
    stage.block("c").result(LONG_S)
    assert stage.stored() == {"c"}


def test_a_transaction_that_is_gone_is_gone_for_all(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """As SQLite does it when a disk is full, and PostgreSQL when a connection is cut."""
    first, go = stage.first("a")

    def lose() -> None:
        lost[-1]._driver.rollback()
        stumble()

    lost: list[Session] = []
    hand_on = Session.hand_on
    monkeypatch.setattr(Session, "hand_on", lambda session: (lost.append(hand_on(session)), lost[-1])[1])
    second = stage.block("b", lose)
    stage.waiting(1)
    go.set()
    with pytest.raises(KeyError, match="a fault"):
        second.result(LONG_S)
    with pytest.raises(Unavailable, match="cannot be written"):
        first.result(LONG_S)
    assert stage.stored() == set()


def test_who_writes_alone_finds_everything_committed(stage: Stage, at: datetime, commits: list[None]):
    first, go = stage.first("a")
    found: list[int] = []

    def alone() -> None:
        with stage.store.write():
            found.append(len(commits))

    # He has the next turn although somebody else would share a commit.
    alone_one = stage._pool.submit(alone)
    stage.store._writers._waiting.append(None)
    go.set()
    alone_one.result(LONG_S)
    first.result(LONG_S)
    stage.store._writers._waiting.pop()
    assert found == [1]
    assert stage.stored() == {"a"}


def test_a_transaction_handed_on_to_nobody_is_committed(stage: Stage):
    """The one who waited has given up meanwhile."""
    stage.store._writers._waiting.append(None)
    stage.block("a").result(LONG_S)
    stage.store._writers._waiting.pop()
    assert stage.stored() == {"a"}


def test_nobody_writes_in_it_after_his_end(stage: Stage, at: datetime):
    kept = []

    def keep() -> None:
        with stage.store.write(together=True) as tx:
            kept.append(tx)
            tx.blocked_keys.add(BlockedKeyRow("a", at, "me", "a test"))
            inside.set()
            go.wait(LONG_S)

    inside, go = threading.Event(), threading.Event()
    first = stage._pool.submit(keep)
    assert inside.wait(LONG_S)

    def use() -> None:
        with pytest.raises(VtpmCaError, match="after its end"):
            kept[0].enrollments.get("e")

    second = stage.block("b", use)
    stage.waiting(1)
    go.set()
    first.result(LONG_S)
    second.result(LONG_S)
    assert stage.stored() == {"a", "b"}


@contextmanager
def another(store: Store) -> Iterator[Store]:
    with closing(open_store(store.url)) as opened:
        yield opened


def test_what_was_answered_is_what_is_there(store: Store, at: datetime):
    """Many threads of two stores, some of whom fail: each one's writes are there if and only if it was told so."""
    answered, guard = set[str](), threading.Lock()

    def work(which: Store, thread: int) -> None:
        chance = random.Random(thread)  # noqa: S311 - which of them fail is no secret
        for i in range(12):
            name, fate = f"{thread}-{i}", chance.random()
            try:
                with which.write(together=fate < 0.9) as tx:
                    tx.blocked_keys.add(BlockedKeyRow(name, at, "me", "a test"))
                    if fate < 0.2:
                        stumble()
                    if fate < 0.3:
                        tx.blocked_keys.add(BlockedKeyRow(name, at, "me", "a test"))
            except (KeyError, Taken):
                continue
            with guard:
                answered.add(name)
            with which.read() as tx:
                assert name in {row.spki for row in tx.blocked_keys.all()}

    with another(store) as second, ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, (store, second)[i % 2], i) for i in range(8)]:
            future.result(LONG_S)
    with store.read() as tx:
        assert {row.spki for row in tx.blocked_keys.all()} == answered
    assert answered
