"""A CA with its database, servers on it and clients around it, for the tests that break things while all work.

`Site` is one CA on one database of either kind; `Nodes` of it are copies of its directory, as several machines would
have them. The test modules of `tests/faults` import the fixtures by name.
"""

import random
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import enrollment_world as w
import enrolment_load as load
import invariants
import operations_stage as stage
import pytest
from postgres_cluster import PostgresCluster
from serving import Node, Nursery

from ca_service.store import create_store

KINDS = ("sqlite", "postgresql")


class Founding:
    """The CA that all sites are copies of."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        stage.make(directory)
        self.world = stage.world_in(directory)
        self.prepare(self.world.url)

    def prepare(self, url: str) -> None:
        """Bring a database to the schema and put the policy in force."""
        store = create_store(url)
        self.world.apply(store, self.world.policy())
        store.close()


class Site:
    """One CA: its directory `ca`, its database `url`, the record of what clients received, its servers."""

    def __init__(
        self,
        founding: Founding,
        nursery: Nursery,
        cluster: PostgresCluster | None,
        folder: Path | None = None,
    ) -> None:
        # Short: the operator socket lies in it, and such names have a limit.
        self.folder = folder or Path(tempfile.mkdtemp(prefix="vf"))
        shutil.copytree(founding.directory, self.folder, dirs_exist_ok=True)
        self.ca = self.folder / "ca"
        self.cluster = cluster
        if cluster is None:
            self.url = stage.database_url(self.ca)
        else:
            self.database = cluster.new_database()
            self.url = cluster.url(self.database)
            # It begins anew on this database, so what it remembers of the one it was made with does not count.
            stage.forget(self.ca)
            founding.prepare(self.url)
        self.world = load.load_world(self.folder)
        self._notes = Path(tempfile.mkdtemp(prefix="vn"))
        self.records = self._notes / "record"
        self.record = load.Record(self.records)
        self._nursery = nursery

    def start(
        self, *options: object, workers: int = 2, port: int | None = None, ca: Path | None = None
    ) -> Node:
        """Start a server; does not wait for it."""
        directory = ca or self.ca
        environment = {} if self.cluster is None else {"VTPM_CA_DATABASE": self.url}
        log = self._notes / f"{directory.name}.log"
        return self._nursery.start(directory, log, "--workers", workers, *options, port=port, **environment)

    def copy(self, name: str) -> Path:
        """Another node's copy of the CA's directory."""
        ignore = shutil.ignore_patterns("*.sqlite3*", "run")
        return Path(shutil.copytree(self.ca, self.folder / name, ignore=ignore))

    def published(self, node: Node) -> dict[tuple[str, int], bytes]:
        """The CRLs that a server publishes, by issuer and shard."""
        found = {}
        for row in invariants.gather(self.url, self.ca).crls:
            status, found[row.issuer, row.shard] = node.get(f"/crl/{row.issuer}/{row.shard}.crl")
            assert status == 200
        return found

    def assert_hold(self, node: Node | None = None) -> invariants.Found:
        """All invariants hold; with a server: for the CRLs as it publishes them."""
        published = None if node is None else self.published(node)
        return invariants.assert_hold(self.url, self.ca, [self.records], published)

    def close(self) -> None:
        self.record.close()
        if self.cluster is not None:
            self.cluster.drop_database(self.database)
        for folder in (self.folder, self._notes):
            shutil.rmtree(folder, ignore_errors=True)


class Supply:
    """Machines for a load until it is shut; counts what it gave."""

    def __init__(self, site: Site, prefix: str = "load") -> None:
        self._machines = load.machines(site.world, load.tpms(), prefix)
        self._shut = threading.Event()
        self.given = 0

    def __iter__(self) -> Iterator[load.Machine]:
        return self

    def __next__(self) -> load.Machine:
        if self._shut.is_set():
            raise StopIteration
        machine = next(self._machines)
        self.given += 1
        return machine

    def shut(self) -> None:
        """No more machines: the load ends when those at work have their certificates."""
        self._shut.set()


def only_retryable(figures: load.Figures, nodes: Iterable[Node]) -> None:
    """No client met anything but lost connections and answers that say: try again. No node has logged a traceback."""
    assert figures.unexpected == []
    assert [kind for kind in figures.counts if kind.endswith((" 500", " 502", " 504"))] == []
    for node in nodes:
        log = node.log.read_text()
        assert "Traceback" not in log, log[-4000:]


def seeded(request: pytest.FixtureRequest) -> random.Random:
    """A generator whose seed is printed, so that a failed run's choices can be made again."""
    seed = request.config.getoption("randomly_seed", default=0)
    print(f"{request.node.name}: seed {seed}")
    return random.Random(f"{request.node.name} {seed}")  # noqa: S311 - to be repeated, not to be secret


@pytest.fixture(scope="session")
def founding(tmp_path_factory: pytest.TempPathFactory):
    return Founding(tmp_path_factory.mktemp("founding"))


@pytest.fixture(scope="session")
def nursery(founding):
    made = Nursery(w.PASSPHRASE)
    made.warm(founding.directory / "ca")
    yield made
    made.close()


@pytest.fixture(scope="session")
def durable_postgres():
    """A server that flushes every commit."""
    cluster = PostgresCluster()
    yield cluster
    cluster.close()


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, founding, nursery):
    """A CA on each kind of database in turn."""
    cluster = request.getfixturevalue("durable_postgres") if request.param == "postgresql" else None
    made = Site(founding, nursery, cluster)
    yield made
    nursery.kill_all()
    made.close()


@pytest.fixture
def own(founding, nursery):
    """A CA of its own, on SQLite."""
    made = Site(founding, nursery, None)
    yield made
    nursery.kill_all()
    made.close()


@pytest.fixture
def shared(founding, nursery, durable_postgres):
    """A CA on a database that several nodes share."""
    made = Site(founding, nursery, durable_postgres)
    yield made
    nursery.kill_all()
    made.close()
