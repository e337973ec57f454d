"""A CA on loopback, a guest's TPM, and signal handlers that are as they were."""

import shutil
import signal
import sys
from contextlib import contextmanager

import amd_guest
import configfs_stand_in as stand_in
import enrollment_world as w
import pytest
from structlog.testing import capture_logs
from tpm2_pytss import ESAPI, TCTILdr

import vtpm.cli.enroll
from ca_service.api import Services, create_app
from ca_service.store import create_store
from vtpm.cli import main
from vtpm.lab.loopback import served
from vtpm.tpm import GuestGateway, Swtpm, derive
from vtpm.wire.jwk import EcJwk
from vtpm.wire.runtime_data import KbsStatement
from vtpm.wire.templates import Role, template


@pytest.fixture(autouse=True)
def handlers():
    """Nobody leaves a handler of signals behind."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def swtpm():
    """The vTPM of the guest, as its SVSM has it."""
    with Swtpm() as tpm:
        tpm.power_on(None)
        yield tpm


@pytest.fixture(scope="session")
def tcti(swtpm):
    """The same TPM for the guest, by the TCTI that tpm2-tools take."""
    with GuestGateway(swtpm) as gateway:
        yield gateway.tcti


@pytest.fixture(scope="session")
def ek(swtpm):
    """What the SVSM attests to; today's COCONUT has L-1, which takes a hundred times as long to make."""
    return derive(swtpm, template(Role.EK, "L-2")).public


@pytest.fixture(scope="session")
def tpm_elsewhere():
    """The EK of another TPM, of a template that is quickly made."""
    return w.SoftTpm(("L-2",)).ek.public


@pytest.fixture
def as_owner(tcti):
    """A guest owner's own ESAPI context."""

    @contextmanager
    def connect():
        loader = TCTILdr("swtpm", tcti.removeprefix("swtpm:"))
        try:
            with ESAPI(loader) as esapi:
                yield esapi
        finally:
            loader.close()

    return connect


@pytest.fixture(scope="session")
def ceremony(tmp_path_factory):
    return w.World.create(tmp_path_factory.mktemp("ceremony"))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    path = tmp_path_factory.mktemp("empty") / "ca.sqlite3"
    create_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def world(ceremony, tmp_path, empty_database):
    directory = tmp_path / "world"
    shutil.copytree(ceremony.directory, directory)
    shutil.copyfile(empty_database, directory / "ca.sqlite3")
    made = w.World(directory, ceremony.authority)
    yield made
    made.close()


@pytest.fixture
def ca(world):
    """Serves the world's CA under a policy, see `amd_guest.policy`; a call's block has its URL."""

    @contextmanager
    def serve(**terms):
        store = world.open_store()
        try:
            policy = amd_guest.policy(world, **terms)
            world.apply(store, policy.replace('ek = ["L-1"]', 'ek = ["L-1", "L-2"]'))
            enroller = world.enroller(store)
            enroller.recover()
            # What the CA logs goes to standard output here, and is no output of the guest's command.
            with capture_logs(), served(create_app(Services(store, enroller))) as url:
                yield url
        finally:
            store.close()

    return serve


@pytest.fixture
def svsm_with(world):
    """This world's SVSM around a TPM with some EK, with a grant in its services manifest."""
    kbs = KbsStatement(EcJwk.from_key(world.kbs.public_key()), world.grant(w.Boot()))
    return lambda ek: stand_in.svsm_of(world.launch, ek, kbs)


@pytest.fixture
def svsm(svsm_with, ek):
    return svsm_with(ek)


class Ran:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def vtpm_enroll(monkeypatch, capsys, tmp_path, svsm):
    """`vtpm enroll` in this process, below the stand-in of configfs."""
    reports = tmp_path / "tsm" / "report"
    reports.mkdir(parents=True)

    def run(*words, svsm=svsm):
        monkeypatch.setattr(vtpm.cli.enroll, "ConfigfsTsm", lambda place: stand_in.FifoTsm(place, svsm))
        monkeypatch.setattr(sys, "argv", ["vtpm", "enroll", "--tsm", str(reports), *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        assert list(reports.iterdir()) == []
        return Ran(code, *capsys.readouterr())

    return run
