"""Every write of an enrolment fails once: before it is executed, after it, before the commit and after it.

The points are counted in a dry run; then each machine's enrolment has its fault at another one. Three ways to fail:
an error of the driver on each kind of database, and PostgreSQL sessions that are really ended at that point. A client
does what clients do, and the same must hold as after a kill, without a restart of the CA.
"""

import itertools
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import enrollment_world as w
import enrolment_load as load
import invariants
import pytest
from fault_site import Site
from postgres_cluster import ROLE
from sqlalchemy.exc import OperationalError

from ca_service.enrollment import Enroller
from ca_service.judgment import Refused, Unavailable
from ca_service.store import Taken, open_store

TRIES = 60
REFUSED = w.Boot(resource="elsewhere/vtpm/x")

Fault = Callable[[], None]


def driver_error() -> None:
    raise OperationalError("injected", {}, sqlite3.OperationalError("injected"))


@dataclass
class Injector:
    """Lets `fault` happen at points `first` to `last` of what runs, counted from the last `arm`."""

    fault: Fault
    first: int = 0
    last: int = 0
    points: list[str] = field(default_factory=list)
    armed: bool = False

    def arm(self, first: int = 0, last: int = 0) -> None:
        self.first, self.last, self.armed = first, last, True
        self.points.clear()

    def rest(self) -> None:
        """What follows is the test's own."""
        self.armed = False

    def __call__(self, point: str) -> None:
        # SQLite's reads begin a transaction too.
        if not self.armed or point.endswith(" BEGIN"):
            return
        self.points.append(point)
        if self.first <= len(self.points) <= self.last:
            self.fault()


class Scene:
    """A CA in this process on a database of either kind, whose writes fail as the injector says."""

    def __init__(self, site: Site, authority, fault: Fault) -> None:
        self.site = site
        self.injector = Injector(fault)
        self.world = w.World(site.folder, authority)
        self.world.url = site.url
        self.tick()
        self.store = open_store(site.url, self.injector)
        self.enroller: Enroller = self.world.enroller(self.store)
        self.enroller.recover()
        self.errors: Counter = Counter()
        self.issued: set[bytes] = set()

    def close(self) -> None:
        self.store.close()

    def tick(self) -> None:
        """The CA's time is the clients'."""
        self.world.time = datetime.now(UTC).replace(microsecond=0)

    def insist(self, call: Callable[..., object], *arguments: object):
        """The same request until it is answered; only "try again" may be said meanwhile."""
        for _ in range(TRIES):
            try:
                return call(*arguments)
            except (Unavailable, Taken) as error:
                self.errors[type(error).__name__] += 1
        raise AssertionError(f"no answer in {TRIES} tries")

    def enrol(self, machine: load.Machine, *, certify: bool = True) -> set[bytes]:
        """From nonce to certificates."""
        self.tick()
        nonce = self.insist(self.enroller.new_nonce).nonce
        reply = self.insist(self.enroller.enroll, machine.body(nonce, certify=certify))
        body = reply.body
        if reply.status == 201:
            body = self.insist(self.enroller.activate, *w.answer(machine.tpm, body))
        found = {load.unb64(text) for text in load.certificates_in(json.loads(body))}
        self.issued |= found
        return found

    def refused(self, machine: load.Machine) -> None:
        """A request that is refused under a decision, which is kept."""
        self.tick()
        nonce = self.insist(self.enroller.new_nonce).nonce
        body = self.world.body(nonce, machine.tpm, REFUSED)
        with pytest.raises(Refused) as refusal:
            self.insist(self.enroller.enroll, body)
        self.injector.rest()
        with self.store.read() as tx:
            assert tx.decisions.get(refusal.value.decision_id).admitted == 0

    def new(self, machine: load.Machine) -> None:
        """A TPM that the CA does not know."""
        assert len(self.enrol(machine)) == 3
        self.injector.rest()
        with self.store.read() as tx:
            assert tx.intents.open() == []

    def known(self, machine: load.Machine) -> None:
        """One that it knows."""
        assert self.enrol(machine, certify=False) <= self.issued

    def assert_hold(self) -> None:
        evidence = invariants.gather(self.site.url, self.site.ca)
        evidence.received.certificates.update(self.issued)
        found = invariants.judge(evidence)
        assert not found.violations, str(found)


def sessions_ended(site: Site) -> Fault:
    def end() -> None:
        theirs = f"datname = '{site.database}' AND usename = '{ROLE}'"
        site.cluster.admin(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {theirs}")  # noqa: S608 - our own names

    return end


pytestmark = pytest.mark.timeout(300)

SQLITE, POSTGRESQL, ENDED = "sqlite", "postgresql", "postgresql sessions ended"


@pytest.fixture(params=[SQLITE, pytest.param(POSTGRESQL, marks=pytest.mark.slow), ENDED])
def scene(request, founding, nursery) -> Iterator[Scene]:
    cluster = None if request.param == SQLITE else request.getfixturevalue("postgres")
    site = Site(founding, nursery, cluster)
    fault = sessions_ended(site) if request.param == ENDED else driver_error
    made = Scene(site, founding.world.authority, fault)
    yield made
    made.close()
    made.world.close()
    site.close()


Act = Callable[[load.Machine], None]


@dataclass(frozen=True)
class Acts:
    """Every kind of request by which a client makes the CA write, each with the points that it passes."""

    machines: Iterator[load.Machine]
    points: list[tuple[Act, list[str]]]


@pytest.fixture
def acts(scene) -> Acts:
    """The points are counted; the first of each kind also makes what there is once, so the second one counts."""
    supply = load.machines(scene.site.world, load.tpms(), "fault")
    found = []
    known = next(supply)
    for act in (scene.new, scene.known, scene.refused):
        for machine in (known, next(supply) if act == scene.new else known):
            scene.injector.arm()
            act(machine)
        found.append((act, list(scene.injector.points)))
    assert scene.errors == {}
    return Acts(itertools.chain([known], supply), found)


def has_all_points(acts: Acts) -> None:
    tables = ("submissions", "decisions", "evidence", "enrollments", "intents", "certificates", "log_leaves")
    points = acts.points[0][1]
    for point in (*(f"INSERT INTO {table}" for table in tables), "UPDATE log_head SET", "commit"):
        assert f"before {point}" in points
        assert f"after {point}" in points
    assert [points.count("after commit") for _, points in acts.points] == [3, 1, 1]


def each(scene: Scene, acts: Acts, step: int, width: int) -> int:
    """Every `step`-th point of every act fails, and the `width` - 1 after it; returns how many faults were placed."""
    known, count = next(acts.machines), 0
    for act, points in acts.points:
        for number in range(1, len(points) + 1, step):
            scene.injector.arm(number, number + width - 1)
            act(next(acts.machines) if act == scene.new else known)
            assert len(scene.injector.points) >= number
            count += 1
    scene.injector.rest()
    return count


def test_each_write_fails_once(scene, acts):
    has_all_points(acts)
    # Points come in pairs, before and after. That a session ends costs too much to do it at both each time.
    count = each(scene, acts, 2 if scene.injector.fault is not driver_error else 1, 1)
    # A fault that nobody felt would prove nothing; one that follows a commit may pass unnoticed.
    assert sum(scene.errors.values()) >= 0.8 * count
    scene.assert_hold()
    assert scene.enroller.recover() == 0


@pytest.mark.slow
def test_writes_fail_for_a_while(scene, acts):
    """Also what the CA writes to clean up after the first fault fails."""
    count = each(scene, acts, 4, 10)
    assert sum(scene.errors.values()) > count
    scene.assert_hold()
    assert scene.enroller.recover() == 0
