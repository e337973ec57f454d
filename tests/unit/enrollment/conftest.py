import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

_NAME = "enrollment_world"


def _load_world():
    """The helper module beside this file; test folders are no packages."""
    if _NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(_NAME, Path(__file__).with_name("world.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[_NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[_NAME]


w = _load_world()


@pytest.fixture(scope="session")
def ceremony(tmp_path_factory: pytest.TempPathFactory):
    """A CA and a platform, made once; tests work on copies."""
    return w.World.create(tmp_path_factory.mktemp("ceremony"))


@pytest.fixture
def world(ceremony, tmp_path: Path):
    directory = tmp_path / "world"
    shutil.copytree(ceremony.directory, directory)
    return w.World(directory, ceremony.authority)


@pytest.fixture(scope="session")
def tpms():
    """Some TPMs, made when they are first asked for."""
    made: list = []

    def nth(index: int):
        while len(made) <= index:
            made.append(w.SoftTpm())
        return made[index]

    return nth


@pytest.fixture
def store(world):
    made = world.new_store()
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
