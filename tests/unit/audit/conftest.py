import shutil

import audit_stage as a
import pytest

from ca_service.audit import Log
from ca_service.store import Store, create_store


@pytest.fixture(scope="session")
def new_database(tmp_path_factory):
    """A database of this schema with nothing in it; to make one takes longer than any test."""
    path = tmp_path_factory.mktemp("new") / "ca.sqlite3"
    create_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def filled_database(new_database, tmp_path_factory):
    """A log with five decisions, one of them a refusal, and six certificates."""
    path = tmp_path_factory.mktemp("filled") / "ca.sqlite3"
    shutil.copy(new_database, path)
    stage = open_stage(path)
    stage.policy()
    stage.decide(1)
    stage.issue(10)
    stage.decide(20, admitted=False)
    stage.issue(30)
    stage.decide(40)
    stage.store.close()
    return path


def open_stage(path) -> a.Stage:
    return a.Stage(Store(f"sqlite:///{path}"), Log(a.ORIGIN, a.KEY))


@pytest.fixture
def new_stage(new_database, tmp_path):
    """Gives empty logs."""
    stages = []

    def make() -> a.Stage:
        path = tmp_path / f"{len(stages)}.sqlite3"
        shutil.copy(new_database, path)
        stages.append(open_stage(path))
        return stages[-1]

    yield make
    for stage in stages:
        stage.store.close()


@pytest.fixture
def stage(new_stage):
    """An empty log."""
    return new_stage()


@pytest.fixture
def filled(filled_database, tmp_path):
    shutil.copy(filled_database, tmp_path / "filled.sqlite3")
    stage = open_stage(tmp_path / "filled.sqlite3")
    yield stage
    stage.store.close()
