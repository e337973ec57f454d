"""Who is alive: by locks that the kernel takes back, not by promises."""

import fcntl
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from ca_service.enrollment.liveness import FileLiveness, Liveness, SessionLiveness, liveness_for
from ca_service.judgment import Unavailable

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def make(database: str, tmp_path: Path):
    """Makes a liveness as another process or node would."""
    made = []

    def liveness() -> Liveness:
        made.append(liveness_for(database, tmp_path / "run"))
        return made[-1]

    yield liveness
    for one in made:
        one.close()


@pytest.fixture
def liveness(make):
    return make()


def _say_owner(liveness: Liveness, answers, go) -> None:
    answers.put(liveness.owner())
    go.wait()
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_process_keeps_its_name(liveness: Liveness):
    assert liveness.owner() == liveness.owner()
    assert liveness.is_alive(liveness.owner())


def test_unknown_owners_are_dead(liveness: Liveness):
    assert not liveness.is_alive("nobody")


def test_another_liveness_in_the_same_process_counts_as_alive(liveness: Liveness, make):
    other = make()
    owner = other.owner()
    assert liveness.is_alive(owner)
    other.close()
    assert not liveness.is_alive(owner)


def test_a_forked_child_has_its_own_name_and_dies_alone(liveness: Liveness):
    mine = liveness.owner()
    answers, go = FORK.SimpleQueue(), FORK.Event()
    child = FORK.Process(target=_say_owner, args=(liveness, answers, go))
    child.start()
    theirs = answers.get()
    assert theirs != mine
    assert liveness.is_alive(theirs)
    go.set()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    # A server notices in its own time that a session's other end is gone.
    deadline = time.monotonic() + 30
    while liveness.is_alive(theirs) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not liveness.is_alive(theirs)
    assert liveness.is_alive(mine)


def test_a_child_that_ends_in_peace_leaves_the_parent_alive(liveness: Liveness):
    mine = liveness.owner()
    child = FORK.Process(target=liveness.owner)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert liveness.is_alive(mine)
    assert liveness.owner() == mine


def test_asking_takes_nobody_s_place(liveness: Liveness, make):
    """An owner that was asked about while dead can be asked about again, by others too."""
    other = make()
    for one in (liveness, other, liveness):
        assert not one.is_alive("ab" * 16)


class TestSessions:
    @pytest.fixture
    def lost(self, postgres, templates):
        """Ends all sessions of the database."""
        return lambda liveness: postgres.disconnect(liveness._presence._url.database)

    @pytest.fixture
    def sessions(self, liveness) -> SessionLiveness:
        if not isinstance(liveness, SessionLiveness):
            pytest.skip("a lock on a file cannot be lost")
        return liveness

    def test_who_loses_its_session_is_dead_under_its_old_name(self, sessions, make, lost):
        before = sessions.owner()
        lost(sessions)
        assert not sessions.is_alive(before)
        after = sessions.owner()
        assert after != before
        assert make().is_alive(after)

    def test_a_server_that_is_gone_is_no_proof_of_death(self, sessions, make, lost, monkeypatch):
        owner = make().owner()
        monkeypatch.setattr(sessions._presence, "_url", sessions._presence._url.set(database="elsewhere"))
        with pytest.raises(Unavailable):
            sessions.is_alive(owner)
        with pytest.raises(Unavailable):
            sessions.owner()


def test_the_files_of_the_dead_are_swept(tmp_path: Path):
    liveness = FileLiveness(tmp_path / "run")
    liveness.owner()
    (tmp_path / "run" / "owner-dead.lock").touch()
    other = FileLiveness(tmp_path / "run")
    other.owner()
    assert len(list((tmp_path / "run").iterdir())) == 2
    other.close()
    liveness.close()


def test_nobody_claims_a_file_that_is_being_swept(tmp_path: Path, monkeypatch):
    """Between the look at the lock and the removal, another process could take it for its own."""
    path = tmp_path / "run" / "owner-new.lock"
    path.parent.mkdir()
    path.touch()
    real, tried = Path.unlink, []

    def claim_first(self, **options):
        with self.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                tried.append("claimed")
            except BlockingIOError:
                tried.append("must wait")
        real(self, **options)

    monkeypatch.setattr(Path, "unlink", claim_first)
    liveness = FileLiveness(path.parent)
    liveness.owner()
    assert (tried, path.exists()) == (["must wait"], False)
    monkeypatch.undo()
    liveness.close()
