"""A CA with several revocation lists for each issuing CA, and certificates in two of them."""

import shutil
from pathlib import Path

import enrollment_world as w
import pytest

from ca_service.api import Services, create_app
from ca_service.api.services import HttpLimits
from ca_service.store import CertificateState

SHARDS = 4


@pytest.fixture(scope="session")
def grown(tmp_path_factory: pytest.TempPathFactory):
    """The world, made once: some TPMs have certificates, those of the EK CA stand in more than one shard."""
    world = w.World.create(tmp_path_factory.mktemp("sharded"), shards=SHARDS, ocsp=True)
    store = world.new_store()
    world.apply(store, world.policy())
    enroller = world.enroller(store)
    enroller.recover()
    number, used = 0, set[int]()
    while len(used) < 2:
        number += 1
        w.issue(
            world,
            enroller,
            w.SoftTpm(),
            w.Boot(resource=f"default/vtpm/{number}", secret=bytes([number]) * 32),
        )
        with store.read() as tx:
            used = {row.shard for row in tx.certificates.latest() if row.profile == "ek"}
    store.close()
    world.close()
    return world


@pytest.fixture
def world(grown, tmp_path: Path):
    directory = tmp_path / "world"
    shutil.copytree(grown.directory, directory)
    made = w.World(directory, grown.authority)
    yield made
    made.close()


@pytest.fixture
def store(world):
    made = world.open_store()
    yield made
    made.close()


@pytest.fixture
def enroller(world, store):
    return world.enroller(store)


@pytest.fixture
def client(store, enroller):
    return create_app(Services(store, enroller, limits=HttpLimits(verdict_s=0.0))).test_client()


@pytest.fixture
def eks(store):
    """EK certificates of two different shards."""
    with store.read() as tx:
        rows = tx.certificates.latest(state=CertificateState.ISSUED)
    return tuple({row.shard: row for row in rows if row.profile == "ek"}.values())[:2]
