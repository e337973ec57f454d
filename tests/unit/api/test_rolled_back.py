"""An old database in the place of the present one, under a server that lives on: a failover, a file copied back."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import enrollment_world as w
import pytest
import sqlalchemy as sa

from ca_service.api import Services, create_app
from ca_service.cli import upkeep
from ca_service.enrollment import Limits, publish_all
from ca_service.judgment import Refused, Unavailable
from ca_service.operations import check_not_rolled_back, keep_state
from ca_service.service import OPERATOR
from ca_service.store import EpochRow


class Once:
    """A pause that is the last one."""

    def wait(self, _seconds: float) -> bool:
        return True


@dataclass
class Swap:
    """A CA at work whose database can be exchanged for its state of earlier."""

    world: w.World
    databases: object
    store: object
    enroller: object
    old: str = ""

    def rest(self) -> None:
        """Let go of the database, as a server that is copied or replaced makes it happen."""
        self.store.close()
        if self.databases.cluster is not None:
            self.databases.cluster.disconnect(sa.make_url(self.world.url).database)

    def remember(self) -> None:
        """What a standby or a copy has."""
        self.enroller.desk.liveness.close()
        self.rest()
        self.old = self.databases.new(self.world.url)

    def roll_back(self) -> None:
        """The present one is gone, the old one has its name."""
        self.rest()
        cluster = self.databases.cluster
        if cluster is None:
            path = Path(self.world.url.removeprefix("sqlite:///"))
            for beside in path.parent.glob(path.name + "-*"):
                beside.unlink()
            shutil.copyfile(self.old.removeprefix("sqlite:///"), path)
            return
        name, old = (sa.make_url(url).database for url in (self.world.url, self.old))
        cluster.admin(f'ALTER DATABASE "{name}" RENAME TO "{name}_lost"')
        cluster.admin(f'ALTER DATABASE "{old}" RENAME TO "{name}"')
        self.databases.made.append(f"{name}_lost")

    def body(self, tpm, name: str) -> bytes:
        secret = bytes(31) + name.encode()
        nonce = self.enroller.new_nonce().nonce
        return self.world.body(nonce, tpm, w.Boot(resource=f"default/vtpm/{name}", secret=secret))


@pytest.fixture
def swap(ceremony, databases, tmp_path):
    directory = tmp_path / "world"
    shutil.copytree(ceremony.directory, directory)
    world = w.World(directory, ceremony.authority, databases.new())
    store = world.new_store()
    world.apply(store, world.policy())
    enroller = world.enroller(store)
    enroller.recover()
    publish_all(store, world.authority, world.time, Limits())
    yield Swap(world, databases, store, enroller)
    world.close()
    store.close()


def code_of(call) -> str:
    with pytest.raises(Unavailable) as error:
        call()
    return error.value.code


def test_what_was_appended_may_not_be_gone(swap, tpm):
    swap.enroller.enroll(swap.body(tpm, "a"))
    swap.remember()
    swap.enroller.enroll(swap.body(tpm, "b"))
    keep_state(swap.world.authority, swap.store)
    last = swap.body(tpm, "c")
    assert swap.enroller.enroll(last).status == 201
    swap.roll_back()
    client = create_app(Services(swap.store, swap.enroller)).test_client()
    assert code_of(lambda: swap.enroller.enroll(swap.body(tpm, "d"))) == "rolled-back"
    with swap.store.read() as tx:
        assert tx.log.length() < swap.enroller.desk.log.seen.size
    # From now on nothing is taken from it, whoever asks.
    skid = swap.world.authority.issuers[0].skid
    for path in ("/readyz", f"/crl/{skid}/0.crl", "/log/checkpoint", "/.well-known/vtpm-ca"):
        answer = client.get(path)
        assert (path, answer.status_code, answer.json["code"]) == (path, 503, "rolled-back")
    assert client.post("/v1/nonces").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_readiness_finds_it_without_an_enrolment(swap, tpm):
    swap.remember()
    swap.enroller.enroll(swap.body(tpm, "a"))
    client = create_app(Services(swap.store, swap.enroller)).test_client()
    assert client.get("/readyz").status_code == 200
    swap.roll_back()
    app = create_app(Services(swap.store, swap.enroller))
    assert app.test_client().get("/readyz").json["code"] == "rolled-back"


def test_upkeep_stops_the_process_when_a_revocation_is_gone(swap, tpm):
    """The log is as long as before: only what the CA's directory remembers tells that a list is missing."""
    reply = swap.enroller.enroll(swap.body(tpm, "a"))
    swap.enroller.activate(*w.answer(tpm, reply.body))
    swap.remember()
    with swap.store.read() as tx:
        serial = tx.certificates.latest()[0].serial
    w.operate(swap.world, swap.store, "cert-revoke", serial=serial, yes=True)
    swap.roll_back()
    client = create_app(Services(swap.store, swap.enroller)).test_client()
    upkeep.keep_up(swap.enroller, Once())
    assert client.post("/v1/nonces").json["code"] == "rolled-back"
    # Which list that is, is for operators to know.
    assert "list of" in client.get("/readyz", environ_overrides={OPERATOR: "alice"}).json["detail"]
    # The right database in its place again does not help a process that has stopped; a new one is well.
    assert code_of(swap.enroller.desk.log.check_going) == "rolled-back"


def test_the_next_start_refuses_what_only_the_process_had_seen(swap, tpm):
    keep_state(swap.world.authority, swap.store)
    swap.remember()
    swap.enroller.enroll(swap.body(tpm, "a"))
    swap.roll_back()
    check_not_rolled_back(swap.world.authority, swap.store)
    assert code_of(lambda: swap.enroller.enroll(swap.body(tpm, "b"))) == "rolled-back"
    upkeep.keep_up(swap.enroller, Once())
    assert code_of(lambda: check_not_rolled_back(swap.world.authority, swap.store)) == "rolled-back"


def test_a_restore_by_another_node_may_shorten_the_log(swap, tpm):
    swap.remember()
    swap.enroller.enroll(swap.body(tpm, "a"))
    seen = swap.enroller.desk.log.seen
    # Fetched now: whether the process still goes by the old epoch later depends on how long all this takes.
    of_before = swap.body(tpm, "b")
    swap.roll_back()
    with swap.store.write() as tx:
        number = tx.epochs.current().number + 1
        tx.epochs.begin(EpochRow(number, "00" * 16, swap.world.time, "a restore"))
    # The nonces of the epoch before are worth nothing now; that is all the process has to learn.
    with pytest.raises(Refused):
        swap.enroller.enroll(of_before)
    assert swap.enroller.enroll(swap.body(tpm, "b")).status == 201
    assert swap.enroller.desk.log.seen > seen
    assert swap.enroller.desk.log.seen.size <= seen.size
