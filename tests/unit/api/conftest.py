import io
import logging
import shutil
from pathlib import Path

import enrollment_world as w
import pytest
import structlog

from ca_service.api import Services, create_app
from ca_service.api.services import HttpLimits, no_operations


@pytest.fixture(scope="session")
def ceremony(tmp_path_factory: pytest.TempPathFactory):
    return w.World.create(tmp_path_factory.mktemp("ceremony"))


@pytest.fixture
def world(ceremony, tmp_path: Path):
    directory = tmp_path / "world"
    shutil.copytree(ceremony.directory, directory)
    return w.World(directory, ceremony.authority)


@pytest.fixture(scope="session")
def tpm():
    return w.SoftTpm()


def operations(name: str, by: str, parameters):
    """Two operations: one that says what it was asked, one that breaks."""
    if name == "break":
        raise RuntimeError("the secret is 1234")
    if name != "echo":
        return no_operations(name, by, parameters)
    return {"by": by, "parameters": parameters}


@pytest.fixture
def services(world):
    store = world.new_store()
    world.apply(store, world.policy())
    enroller = world.enroller(store)
    enroller.recover()
    # Tests change something and look at once what is said about it.
    yield Services(store, enroller, operations, HttpLimits(verdict_s=0.0))
    store.close()


@pytest.fixture
def app(services):
    return create_app(services)


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def helpers():
    return w


@pytest.fixture
def stream():
    """What the log goes to; whatever a test sets up for logging is undone."""
    made = io.StringIO()
    handlers = list(logging.getLogger().handlers)
    yield made
    structlog.reset_defaults()
    logging.getLogger().handlers = handlers
