"""Several nodes on one PostgreSQL, each with a copy of the CA's directory: they are one CA to whoever asks.

Nonces, ledger, log and idempotency hold across nodes; a node that is killed, or a database that crashes, costs clients
retries and nothing else.
"""

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import enrollment_world as w
import pytest
from enrolment_load import AWAY, Caller, Client, Habits, Load, Machine, certificates_in, make_tpms
from fault_site import Site, Supply, only_retryable, seeded
from serving import Node

CLIENTS = 64
MACHINES = 70
HABITS = Habits(again=0.1, replay=0.1, hop=0.2, most_wait_s=0.3, pause_s=0.05)


@pytest.fixture(scope="module")
def two(founding, nursery, durable_postgres):
    """A CA with two nodes that run."""
    site = Site(founding, nursery, durable_postgres)
    made = site, [site.start(workers=1, ca=site.copy(name)).until_ready() for name in ("node-a", "node-b")]
    yield made
    nursery.kill_all()
    site.close()


class Talk:
    """Plain requests to chosen nodes, each of which must be answered."""

    def __init__(self, nodes: list[Node]) -> None:
        self.bases = [node.base for node in nodes]
        self.caller = Caller(self.bases, None)

    def __call__(self, node: int, path: str, body: bytes = b"") -> tuple[int, bytes]:
        for _ in range(200):
            answer = self.caller.call(self.bases[node], "POST", path, body)
            if answer.status not in AWAY:
                return answer.status, answer.body
        raise AssertionError(answer)

    def nonce(self, node: int) -> str:
        status, body = self(node, "/v1/nonces")
        assert status == 201
        return json.loads(body)["nonce"]


@pytest.fixture
def talks(two):
    """Two clients."""
    made = [Talk(two[1]), Talk(two[1])]
    yield made
    for each in made:
        each.caller.close()


@pytest.fixture
def talk(talks):
    return talks[0]


def machine(site: Site, name: str) -> Machine:
    return Machine(site.world, make_tpms(1)[0], 0, name)


def certificates(body: bytes) -> set[str]:
    return set(certificates_in(json.loads(body)))


def test_an_enrolment_may_change_nodes_at_every_step(two, talk):
    site, _ = two
    vm = machine(site, "hops")
    status, challenge = talk(1, "/v1/enrollments", vm.body(talk.nonce(0)))
    assert status == 201
    enrolment, secrets = w.answer(vm.tpm, challenge)
    status, issued = talk(0, f"/v1/enrollments/{enrolment}/activation", secrets)
    assert status == 200
    assert talk(1, f"/v1/enrollments/{enrolment}/activation", secrets) == (200, issued)
    status, again = talk(1, "/v1/enrollments", vm.body(talk.nonce(0), certify=False))
    assert (status, certificates(again)) == (200, certificates(issued))


def test_a_nonce_used_at_one_node_is_used_at_the_other(two, talk):
    site, _ = two
    vm, other = machine(site, "once-a"), machine(site, "once-b")
    nonce = talk.nonce(0)
    body = vm.body(nonce)
    first = talk(0, "/v1/enrollments", body)
    assert first[0] == 201
    assert talk(1, "/v1/enrollments", body) == first
    status, refusal = talk(1, "/v1/enrollments", other.body(nonce))
    assert (status, json.loads(refusal)["code"]) == (409, "nonce-used")


def both(work) -> list:
    """Run `work` for node 0 and node 1 at the same moment."""
    barrier = threading.Barrier(2)

    def at_once(node: int):
        barrier.wait(20)
        return work(node)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(at_once, (0, 1)))


@pytest.mark.parametrize("turn", range(2))
def test_one_body_at_both_nodes_at_once_has_one_answer(two, talks, turn):
    site, _ = two
    vm = machine(site, f"replayed-{turn}")
    body = vm.body(talks[0].nonce(0))
    first, second = both(lambda node: talks[node](node, "/v1/enrollments", body))
    assert first == second
    assert first[0] == 201
    enrolment, secrets = w.answer(vm.tpm, first[1])
    path = f"/v1/enrollments/{enrolment}/activation"
    first, second = both(lambda node: talks[node](node, path, secrets))
    assert first == second
    assert first[0] == 200


@pytest.mark.parametrize("turn", range(2))
def test_one_tpm_at_both_nodes_at_once_gets_one_set_of_certificates(two, talks, turn):
    site, _ = two
    vm = machine(site, f"twice-{turn}")
    vm.prepare()

    def enrol(node: int) -> set[str]:
        # Two boots of one VM: each has a nonce, a challenge and an answer of its own.
        status, reply = talks[node](node, "/v1/enrollments", vm.body(talks[node].nonce(node)))
        if status == 201:
            enrolment, secrets = w.answer(vm.tpm, reply)
            status, reply = talks[node](node, f"/v1/enrollments/{enrolment}/activation", secrets)
        assert status == 200, reply
        return certificates(reply)

    first, second = both(enrol)
    assert first == second
    assert len(first) == 3


def test_one_instance_and_two_tpms_at_once_at_two_nodes(two, talks):
    """The host shows one volume secret to two TPMs: one moves in, the other is refused for good."""
    site, _ = two
    first, second = (Machine(site.world, tpm, 0, "shared") for tpm in make_tpms(2))
    for vm in (first, second):
        vm.prepare()

    def enrol(node: int) -> str:
        vm = (first, second)[node]
        status, reply = talks[node](node, "/v1/enrollments", vm.body(talks[node].nonce(node)))
        if status == 201:
            enrolment, secrets = w.answer(vm.tpm, reply)
            status, reply = talks[node](node, f"/v1/enrollments/{enrolment}/activation", secrets)
        return "issued" if status == 200 else json.loads(reply)["rule"]

    assert sorted(both(enrol)) == ["issued", "ledger.instance-occupied"]


@pytest.mark.timeout(300)
def test_a_node_is_killed_and_restarted_under_64_clients(two, request):
    site, nodes = two
    chance = seeded(request)
    supply = Supply(site, "crowd")
    bases = [node.base for node in nodes]
    load = Load(bases, site.record, supply, CLIENTS, HABITS, seed=chance.randrange(1 << 32)).start()
    for turn in range(2):
        assert site.record.until_more(60, 60), load.figures().counts
        dead = nodes[turn % 2]
        dead.kill()
        assert site.record.until_more(40, 60), "the other node does not go on"
        nodes[turn % 2] = site.start(workers=1, ca=site.folder / f"node-{'ab'[turn % 2]}", port=dead.port)
        nodes[turn % 2].until_ready()
    while supply.given < MACHINES:
        assert site.record.until_more(1, 60), load.figures().counts
    supply.shut()
    figures = load.join(90)
    only_retryable(figures, nodes)
    assert figures.counts["enrolments"] == supply.given
    # What the killed left open, a start closes, also that of another node.
    nodes[0].kill()
    nodes[0] = site.start(workers=1, ca=site.folder / "node-a", port=nodes[0].port).until_ready()
    site.assert_hold(nodes[0])
    site.assert_hold(nodes[1])
    print(dict(figures.counts))


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGQUIT, id="crash"),
        pytest.param(signal.SIGINT, id="fast shutdown", marks=pytest.mark.slow),
    ],
)
def test_the_database_restarts_under_load(two, durable_postgres, how):
    site, nodes = two
    supply = Supply(site, f"restart-{how}")
    bases = [node.base for node in nodes]
    load = Load(bases, site.record, supply, 8, HABITS).start()
    assert site.record.until_more(20, 60), load.figures().counts
    durable_postgres.restart(how=how)
    assert site.record.until_more(20, 60), "the nodes do not go on"
    supply.shut()
    figures = load.join(60)
    only_retryable(figures, nodes)
    assert figures.counts["enrolments"] == supply.given
    for node in nodes:
        assert node.get("/readyz")[0] == 200
    nodes[0].kill()
    nodes[0] = site.start(workers=1, ca=site.folder / "node-a", port=nodes[0].port).until_ready()
    site.assert_hold(nodes[0])
    print(dict(figures.counts))


def test_a_client_that_fails_over_is_no_stranger(two):
    """Through one dead address and one living one a client gets its certificates, and the same ones after."""
    site, nodes = two
    client = Client(70, ["http://127.0.0.1:9", nodes[0].base], site.record, Habits(again=0.0, hop=0.5))
    vm = machine(site, "failover")
    client.enrol(vm)
    client.enrol(vm)
    assert client.figures.unexpected == []
    assert client.figures.counts["nonce ConnectionRefusedError"] > 0
    client.close()
