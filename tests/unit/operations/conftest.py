import shutil
from dataclasses import replace
from pathlib import Path

import operations_stage as s
import pytest

from ca_service.enrollment import Limits
from ca_service.operations import OperationContext, open_database, perform


@pytest.fixture(scope="session")
def new_ca(tmp_path_factory: pytest.TempPathFactory):
    return s.new(tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="session")
def worked_ca(new_ca, tmp_path_factory: pytest.TempPathFactory):
    return s.worked(new_ca, tmp_path_factory.mktemp("worked") / "world")


@pytest.fixture(scope="session")
def rolled_ca(worked_ca, tmp_path_factory: pytest.TempPathFactory):
    return s.rolled(worked_ca, tmp_path_factory.mktemp("rolled") / "world")


class Desk:
    """An operator at a CA's directory."""

    def __init__(self, world) -> None:
        self.world = world
        self.store = open_database(world.url)
        self.unlocked = 0
        self.context = OperationContext(
            world.authority, self._unlock, self.store, lambda: world.time, "alice", Limits()
        )

    def _unlock(self):
        self.unlocked += 1
        return self.world.authority

    def __call__(self, name: str, **arguments: object):
        return perform(self.context, name, arguments)


def _desk(world, tmp_path: Path):
    directory = tmp_path / "world"
    shutil.copytree(world.directory, directory)
    # What the CA remembers outside its database lies in its directory, so each copy has its own.
    return Desk(s.world_in(directory, replace(world.authority, directory=directory / "ca")))


@pytest.fixture
def empty(new_ca, tmp_path):
    desk = _desk(new_ca, tmp_path)
    yield desk
    desk.store.close()


@pytest.fixture
def rolled(rolled_ca, tmp_path):
    """An operator at a CA with a second generation that nobody has announced yet."""
    desk = _desk(rolled_ca, tmp_path)
    yield desk
    desk.store.close()


@pytest.fixture
def desk(worked_ca, tmp_path):
    made = _desk(worked_ca, tmp_path)
    yield made
    made.store.close()
