import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

_NAME = "enrollment_world"


def _load_world():
    """The helper module of the enrolment tests; test folders are no packages."""
    if _NAME not in sys.modules:
        path = Path(__file__).parents[1] / "unit" / "enrollment" / "world.py"
        spec = importlib.util.spec_from_file_location(_NAME, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[_NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[_NAME]


w = _load_world()


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
