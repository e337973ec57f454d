"""Policies change under load: no request is lost, and each is judged by one that was in force while it was asked."""

import hashlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Self

import enrollment_world as w
import pytest
from enrolment_load import CREATED, FORBIDDEN, OK, Answer, Caller, Figures, Machine, make_tpms
from fault_site import Site, only_retryable
from serving import Node

from ca_service.store import Store, open_store

CLIENTS = 4
SUSPENDS = 6
"""One in so many versions suspends the key broker."""


@dataclass(frozen=True)
class Asked:
    """A request and its answer: `digest` of the evidence, `step`, and when it began and ended."""

    digest: str
    step: str
    answer: Answer
    begun: float
    ended: float
    enrolment: str = ""


@dataclass
class Clients:
    """Clients that enrol their machines again and again until they are told to stop, at one node after the other."""

    nodes: list[Node]
    machines: list[Machine]
    asked: list[Asked] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _more: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads)

    def until_more(self, count: int) -> None:
        """Wait until so many more requests were answered."""
        with self._more:
            wanted = len(self.asked) + count
            done = self._more.wait_for(lambda: len(self.asked) >= wanted or self.failed, 60)
        assert done, "the clients do not go on"

    def _run(self, number: int) -> None:
        own = self.machines[number::CLIENTS]
        bases = [node.base for node in self.nodes]
        with closing(Caller(bases, f"127.0.{number + 1}.1")) as caller:
            try:
                for machine, base in zip(itertools.cycle(own), itertools.cycle(bases), strict=False):
                    if self._stop.is_set():
                        return
                    self._enrol(caller, base, machine)
            except Exception as error:  # noqa: BLE001 - a client that dies in silence would prove nothing
                self.failed.append(repr(error))

    def _enrol(self, caller: Caller, base: str, machine: Machine) -> None:
        nonce = caller.call(base, "POST", "/v1/nonces")
        assert nonce.status == CREATED, nonce
        body = machine.body(nonce.json()["nonce"])
        digest = hashlib.sha256(body).hexdigest()
        answer = self._ask(caller, base, "/v1/enrollments", body, digest, "enroll")
        if answer.status == CREATED:
            enrolment, secrets = w.answer(machine.tpm, answer.body)
            path = f"/v1/enrollments/{enrolment}/activation"
            self._ask(caller, base, path, secrets, digest, "activate", enrolment)

    def _ask(
        self, caller: Caller, base: str, path: str, body: bytes, digest: str, step: str, enrolment: str = ""
    ) -> Answer:
        begun = time.monotonic()
        answer = caller.call(base, "POST", path, body)
        assert answer.status in (OK, CREATED, FORBIDDEN), answer
        with self._more:
            self.asked.append(Asked(digest, step, answer, begun, time.monotonic(), enrolment))
            self._more.notify_all()
        return answer


@dataclass
class Versions:
    """Policies put in force one after the other, and when each commit began and had ended."""

    store: Store
    world: w.World
    commits: dict[int, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commits[self._newest()] = (float("-inf"), float("-inf"))

    def _newest(self) -> int:
        with self.store.read() as tx:
            return tx.connection.exec_driver_sql("SELECT max(version) FROM policies").scalar()

    def apply(self, number: int) -> None:
        """The next one; it differs from all others, and some of them refuse everybody."""
        status = "suspended" if number % SUSPENDS == SUSPENDS - 1 else "trusted"
        text = self.world.policy(status=status).replace("max_age_s = 3600", f"max_age_s = {3600 + number}")
        begun = time.monotonic()
        self.world.apply(self.store, text)
        self.commits[self._newest()] = (begun, time.monotonic())

    def in_force(self, version: int, begun: float, ended: float) -> bool:
        """Whether a version may have been in force at some moment of a time."""
        following = self.commits.get(version + 1, (float("inf"), float("inf")))
        return self.commits[version][0] <= ended and begun <= following[1]


def versions_used(store: Store) -> Iterator[tuple[str, str, int, str, int]]:
    """Of each decision: digest of its evidence, stage, policy version, rule, and whether it admits."""
    with store.read() as tx:
        for row in tx.decisions.latest(10**6):
            yield row.evidence_digest, row.stage, row.policy_version, row.rule, row.admitted


def reload_under_load(site: Site, nodes: list[Node], changes: int, machines: int) -> Counter:
    """Put so many policies in force while clients enrol; hold every answer against the version that it rests on."""
    work = [Machine(site.world, tpm, n, "reload") for n, tpm in enumerate(make_tpms(machines))]
    for machine in work:
        machine.prepare()
    with closing(open_store(site.url)) as store:
        versions = Versions(store, site.world)
        clients = Clients(nodes, work)
        with clients:
            for number in range(changes):
                clients.until_more(2)
                versions.apply(number)
            clients.until_more(4)
        assert clients.failed == []
        judged = {(digest, stage): used for digest, stage, *used in versions_used(store)}
    suspended = {v for n, v in enumerate(sorted(versions.commits)[1:]) if n % SUSPENDS == SUSPENDS - 1}
    counts = Counter({"versions": len({version for version, _rule, _admitted in judged.values()})})
    for asked in clients.asked:
        counts[f"{asked.step} {asked.answer.status}"] += 1
        found = judged.get((asked.digest, asked.step))
        if found is None:
            # Nothing had changed since the challenge, so its decision holds.
            assert asked.step == "activate"
            found = judged[asked.digest, "enroll"]
        version, rule, admitted = found
        assert versions.in_force(version, asked.begun, asked.ended), (asked, version)
        assert bool(admitted) == (version not in suspended)
        if asked.answer.status == FORBIDDEN:
            told = asked.answer.json()
            assert (told["rule"], rule) == ("kbs.status", "kbs.status")
        else:
            assert admitted
    return counts


@pytest.mark.timeout(300)
def test_no_request_is_lost_while_policies_change(own):
    node = own.start(workers=2).until_ready()
    counts = reload_under_load(own, [node], 30, 3 * CLIENTS)
    print(counts)
    assert counts["versions"] > 10
    only_retryable(Figures(), [node])
    own.assert_hold(node)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nor_with_two_nodes_for_long(shared):
    nodes = [shared.start(workers=2, ca=shared.copy(name)).until_ready() for name in ("node-a", "node-b")]
    counts = reload_under_load(shared, nodes, 300, 10 * CLIENTS)
    print(counts)
    assert counts["versions"] > 100
    only_retryable(Figures(), nodes)
