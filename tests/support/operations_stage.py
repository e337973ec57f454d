"""A CA as `vtpm-ca init` leaves it, and one that has worked: an enrolled TPM, a refusal, an alarm."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import enrollment_world as w
import pytest

from ca_service.judgment import Refused
from ca_service.keys import CeremonyConfig, load_root, prepare_issuing
from ca_service.operations import database_url, init
from ca_service.store import open_store
from vtpm.snp import Platform
from vtpm.wire.report import Product

CONFIG = """\
mode = "simulation"
organization = "Tests"
publication_url = "http://ca.test"
ca_id = "test-ca"
[publication]
shards = 1
ocsp = false
"""


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def make(directory: Path, text: str = CONFIG) -> None:
    """A new CA in ``directory/ca``, and a platform beside it."""
    init(directory / "ca", CeremonyConfig.from_toml(text), w.PASSPHRASE, clock=now, entropy=os.urandom)
    Platform.create(directory / "platform", Product.MILAN, clock=now)


def world_in(directory: Path, authority=None):
    """The small world of the enrolment tests, on the database in the CA's own directory and at the present time."""
    world = w.World(directory, authority)
    world.url = database_url(directory / "ca")
    world.time = now()
    return world


def forget(ca: Path) -> None:
    """Let a CA not remember what its database must not fall behind, as before it ever had one."""
    shutil.rmtree(ca / "state", ignore_errors=True)
    facts = ca / "ca.toml"
    facts.write_text(facts.read_text().replace("state_kept = true\n", ""))


def fill(world) -> None:
    """Let the CA work: policy, one TPM with certificates, one refused request, one alarm."""
    store = open_store(world.url)
    world.apply(store, world.policy())
    enroller = world.enroller(store)
    tpm = w.SoftTpm()
    w.issue(world, enroller, tpm)
    with pytest.raises(Refused) as refusal:
        enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, w.Boot(resource="elsewhere/vtpm/x")))
    with store.write() as tx:
        tx.alarms.add(
            "clone", refusal.value.decision_id, '{"rule":"ledger.counter","actual":"1"}', world.time
        )
    store.close()
    enroller.desk.liveness.close()


def rolled(worked_one, directory: Path):
    """The world of a copy of a CA that has worked, with a second generation of EK and DevID CA in its directory."""
    shutil.copytree(worked_one.directory, directory)
    ca = directory / "ca"
    prepare_issuing(ca, load_root(ca, w.PASSPHRASE), passphrase=w.PASSPHRASE, clock=now, entropy=os.urandom)
    return world_in(directory)


def new(directory: Path, text: str = CONFIG):
    """The world of a CA that has done nothing yet."""
    make(directory, text)
    return world_in(directory)


def worked(fresh, directory: Path):
    """The world of a copy of a new CA that has worked since."""
    shutil.copytree(fresh.directory, directory)
    world = world_in(directory, fresh.authority)
    fill(world)
    return world
