import shutil
from pathlib import Path

import enrollment_world as w
import fault_parties
import pytest
from fault_site import durable_postgres, founding, nursery, own, shared, site  # noqa: F401 - fixtures


@pytest.fixture(scope="session")
def ceremony(tmp_path_factory: pytest.TempPathFactory):
    """A CA with database and policy, and a platform, made once; tests work on copies."""
    directory = tmp_path_factory.mktemp("ceremony")
    world = w.World.create(directory)
    store = world.new_store()
    world.apply(store, world.policy())
    world.enroller(store).recover()
    store.close()
    return world


@pytest.fixture
def new_world(ceremony, tmp_path: Path):
    """Makes a copy of the CA under a name."""

    def copy(name: str):
        directory = tmp_path / name
        shutil.copytree(ceremony.directory, directory)
        return w.World(directory, ceremony.authority)

    return copy


@pytest.fixture(scope="session")
def tpm():
    return w.SoftTpm()


@pytest.fixture
def helpers():
    return w


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory, forks):
    """A key broker and a CA that allows it, as processes; tests may stop or kill them."""
    parties = fault_parties.Parties(tmp_path_factory.mktemp("parties"), forks)
    parties.found()
    yield parties
    parties.close()


@pytest.fixture
def parties(founded):
    """Key broker and CA, both up when the test begins."""
    founded.start()
    return founded


@pytest.fixture(scope="session")
def boots():
    """The helper module `parties`."""
    return fault_parties
