"""Who is alive: by locks that the kernel takes back, not by promises."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from ca_service.enrollment.liveness import FileLiveness

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def liveness(tmp_path: Path):
    made = FileLiveness(tmp_path / "run")
    yield made
    made.close()


def _say_owner(liveness: FileLiveness, answers, go) -> None:
    answers.put(liveness.owner())
    go.wait()
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_process_keeps_its_name(liveness: FileLiveness):
    assert liveness.owner() == liveness.owner()
    assert liveness.is_alive(liveness.owner())


def test_unknown_owners_are_dead(liveness: FileLiveness):
    assert not liveness.is_alive("nobody")


def test_another_liveness_in_the_same_process_counts_as_alive(liveness: FileLiveness, tmp_path: Path):
    other = FileLiveness(tmp_path / "run")
    owner = other.owner()
    assert liveness.is_alive(owner)
    other.close()
    assert not liveness.is_alive(owner)


def test_a_forked_child_has_its_own_name_and_dies_alone(liveness: FileLiveness):
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
    assert not liveness.is_alive(theirs)
    assert liveness.is_alive(mine)


def test_the_files_of_the_dead_are_swept(liveness: FileLiveness, tmp_path: Path):
    liveness.owner()
    (tmp_path / "run" / "owner-dead.lock").touch()
    other = FileLiveness(tmp_path / "run")
    other.owner()
    assert len(list((tmp_path / "run").iterdir())) == 2
    other.close()
