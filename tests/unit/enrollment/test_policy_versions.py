"""A version that comes in force is what every process judges by from then on, without being told."""

from datetime import timedelta

import pytest

from ca_service.judgment import Refused, Unavailable
from ca_service.policy import load
from ca_service.store import PolicyRow, PolicyStartRow


@pytest.fixture
def database_url(database: str) -> str:
    return database


@pytest.fixture
def nodes(world, store):
    """Two processes, each with a store of its own, that have both judged by the first version."""
    other = world.open_store()
    made = [world.enroller(store), world.enroller(other)]
    yield made
    other.close()


def suspend(store, world, begins):
    """The KBS is suspended from a time on."""
    text = world.policy(status="suspended")
    with store.write() as tx:
        number = tx.policies.next_version()
        tx.policies.add(PolicyRow(number, load(text).digest, text, world.time, "alice", number - 1, begins))
        tx.policies.start(PolicyStartRow(number, begins, world.time))


def asked(world, enroller, tpm, helpers, resource="default/vtpm/a"):
    return enroller.enroll(
        world.body(enroller.new_nonce().nonce, tpm, helpers.Boot(resource, secret=bytes(32)))
    )


def rule(*request) -> str:
    with pytest.raises(Refused) as refused:
        asked(*request)
    return refused.value.rule


def test_every_process_takes_it_from_its_instant_on(world, store, nodes, tpms, helpers):
    suspend(store, world, world.time + timedelta(hours=1))
    for number, node in enumerate(nodes):
        assert asked(world, node, tpms(number), helpers, f"default/vtpm/{number}").status == 201
    world.later(minutes=59, seconds=59)
    assert asked(world, nodes[0], tpms(2), helpers, "default/vtpm/2").status == 201
    world.later(seconds=1)
    assert [rule(world, node, tpms(3), helpers) for node in nodes] == ["kbs.status"] * 2
    with store.read() as tx:
        versions = [(row.admitted, row.policy_version) for row in tx.decisions.latest()]
    assert sorted(versions) == [(0, 2), (0, 2), (1, 1), (1, 1), (1, 1)]
    # The earlier version does not come back with the clock, on any node.
    world.later(hours=-2)
    assert [rule(world, node, tpms(4), helpers) for node in nodes] == ["kbs.status"] * 2


def test_one_that_is_challenged_before_and_answers_after_is_judged_anew(world, store, nodes, tpms, helpers):
    suspend(store, world, world.time + timedelta(minutes=1))
    reply = asked(world, nodes[0], tpms(0), helpers)
    world.later(minutes=1)
    with pytest.raises(Refused) as refused:
        nodes[1].activate(*helpers.answer(tpms(0), reply.body))
    assert refused.value.rule == "kbs.status"


@pytest.mark.parametrize("damage", ["nonsense", "schema = 1\n"], ids=["unreadable", "another"])
def test_one_that_cannot_be_judged_by_is_not_replaced_by_the_one_before(
    world, store, nodes, tpms, helpers, damage
):
    with store.write() as tx:
        tx.policies.append("00" * 32, damage, world.time, "damage")
    for node in nodes:
        with pytest.raises(Unavailable) as error:
            asked(world, node, tpms(0), helpers)
        assert error.value.code == "policy"
    world.apply(store, world.policy())
    for number, node in enumerate(nodes):
        assert asked(world, node, tpms(number), helpers, f"default/vtpm/{number}").status == 201


def test_one_that_is_put_in_force_between_look_and_commit_is_heard(world, store, tpms, helpers):
    """By a transaction that came first, although the request is older."""
    done = []

    def fault(point: str) -> None:
        if point.startswith("before BEGIN") and not done:
            done.append(point)
            world.apply(other, world.policy(status="suspended"))

    other = world.open_store()
    disturbed = world.open_store(fault)
    enroller = world.enroller(store)
    slow = world.enroller(disturbed)
    assert asked(world, enroller, tpms(0), helpers, "default/vtpm/0").status == 201
    done.clear()
    assert rule(world, slow, tpms(1), helpers) == "kbs.status"
    assert done
    other.close()
    disturbed.close()
