import functools
import shutil
from pathlib import Path

import enrollment_world as w
import pytest

from ca_service.store import create_store


@pytest.fixture(scope="session")
def ceremony(tmp_path_factory: pytest.TempPathFactory):
    """A CA and a platform, made once; tests work on copies."""
    return w.World.create(tmp_path_factory.mktemp("ceremony"))


@pytest.fixture
def database_url():
    """Where the CA's database lies: in its directory. A module that runs on every kind of database overrides it."""
    return


@pytest.fixture
def world(ceremony, tmp_path: Path, database_url: str | None):
    directory = tmp_path / "world"
    shutil.copytree(ceremony.directory, directory)
    made = w.World(directory, ceremony.authority, database_url)
    yield made
    made.close()


@pytest.fixture(scope="session")
def tpms():
    """Some TPMs, made when they are first asked for."""
    made: list = []

    def nth(index: int):
        while len(made) <= index:
            made.append(w.SoftTpm())
        return made[index]

    return nth


@pytest.fixture(scope="session")
def tpm_of():
    """Makes a TPM of any templates; each key is made once, so TPMs of one template have the same key."""
    keys = functools.cache(w.new_key)
    return functools.partial(w.SoftTpm, keys=keys)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with all tables and no rows: to copy one is faster than to make one."""
    path = tmp_path_factory.mktemp("empty") / "ca.sqlite3"
    create_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def store(world, database_url: str | None, empty_database: Path):
    if database_url is None:
        shutil.copyfile(empty_database, world.directory / "ca.sqlite3")
    made = world.open_store()
    world.apply(made, world.policy())
    yield made
    made.close()


@pytest.fixture
def enroller(world, store):
    made = world.enroller(store)
    made.recover()
    return made


@pytest.fixture
def helpers():
    """The functions and classes of `world.py`."""
    return w
