"""What is not called widening admits nobody who was refused: whole documents, whole submissions, and the ledger."""

import copy
import tomllib
from dataclasses import replace
from datetime import timedelta
from itertools import product

import amd_guest
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_edits import drawn_policies, permissive, written

from ca_service.enrollment import revoke
from ca_service.enrollment.submission import Submission
from ca_service.policy import load
from ca_service.policy.changes import Effect, compare
from ca_service.profiles import serial_hex
from vtpm.wire.amd_evidence import SERVICES_PROFILE, VTPM_PROFILE
from vtpm.wire.jwk import EcJwk
from vtpm.wire.runtime_data import StoreStatement

FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

SECOND = ec.derive_private_key(0x5EC, ec.SECP384R1())
NOBODY = ec.derive_private_key(0x0B0D, ec.SECP384R1())
HOME, POOL = "default/vtpm/home", "default/pool/any"
RESIDENTS = 11
"""So many of the submissions are about instances in which somebody lives."""


def volatile(data):
    return replace(
        data, store=StoreStatement("volatile", "none", b"", "this-boot", data.store.key_id, 0, b"")
    )


@pytest.fixture
def content(world):
    """A document with two key brokers, a pool of instances, ephemeral terms, and a launch that two entries list."""
    made = tomllib.loads(amd_guest.policy(world, volatile=True))
    ours = made["kbs"][0]
    ours["resource"].append({"pattern": "default/pool/*", "shared": True})
    second = ours | {"id": "second-kbs", "origins": ["kbs-generated", "provisioned"]}
    second["key"] = [{"jwk": EcJwk.from_key(SECOND.public_key()).members()}]
    second["resource"] = [{"pattern": "*/vtpm/*"}]
    platform, launch = made["platform"][0], made["launch"][0]
    cloud = platform | {"name": "cloud"}
    hosted = launch | {"name": "hosted", "platform": "cloud"}
    return made | {"kbs": [ours, second], "launch": [launch, hosted], "platform": [platform, cloud]}


@pytest.fixture
def inhabited(world, store, enroller, tpms, helpers, content):
    """One TPM lives in an instance of its own, one in the pool; the certificates of a third are revoked."""
    world.apply(store, written(content))
    boots = [
        helpers.Boot(resource=HOME, counter=5),
        helpers.Boot(resource=POOL, secret=b"p" * 32, salt=b"p" * 16, counter=5),
        helpers.Boot(resource="default/vtpm/gone", secret=b"g" * 32),
    ]
    for number, boot in enumerate(boots):
        reply = helpers.issue(world, enroller, tpms(number), boot)
    revoke(
        store,
        world.authority,
        serial_hex(helpers.certificates(reply)[0].serial_number),
        at=world.time,
        reason="keyCompromise",
        cause="a test",
        limits=enroller.desk.limits,
    )
    return store


@pytest.fixture
def submissions(world, inhabited, enroller, tpms, helpers):
    """Requests of residents, of strangers to their instances, of copies, and of those whom no default admits."""
    home = helpers.Boot(resource=HOME, counter=6)
    pool = helpers.Boot(resource=POOL, secret=b"p" * 32, salt=b"p" * 16, counter=6)
    new = helpers.Boot(resource="default/vtpm/new", secret=b"n" * 32)
    asked = [
        (0, replace(home, certify=False)),
        (0, replace(home, counter=4)),
        (3, home),
        (3, replace(home, secret=b"n" * 32)),
        (3, replace(home, resource="default/vtpm/new")),
        (0, new),
        (1, pool),
        (3, pool),
        (3, replace(pool, salt=b"q" * 16)),
        (3, replace(pool, salt=b"q" * 16, secret=b"n" * 32)),
        (2, helpers.Boot(resource="default/vtpm/gone", secret=b"g" * 32, counter=2)),
        (3, new),
        (3, replace(new, certify=False)),
        (3, replace(new, vmpl=1)),
        (3, replace(new, origin="provisioned")),
        (3, replace(new, kbs=SECOND)),
        (3, replace(new, kbs=SECOND, origin="provisioned", resource="x/vtpm/a")),
        (3, replace(new, kbs=NOBODY)),
        (3, replace(new, change_claims=lambda claims: replace(claims, policy="ab" * 32))),
        (3, replace(new, change_claims=lambda claims: replace(claims, iat=claims.iat - 3600))),
        (3, replace(new, change=volatile)),
    ]  # fmt: skip
    bodies = [world.body(enroller.new_nonce().nonce, tpms(which), boot) for which, boot in asked]
    guest = amd_guest.Guest(world, enroller, tpms(3))
    bodies += [helpers.encode(guest.request(profile)) for profile in (SERVICES_PROFILE, VTPM_PROFILE)]
    found = [Submission.parse(body) for body in bodies]
    assert all(enroller.desk.judge.authenticate(each, world.time).admitted for each in found)
    return found


@pytest.fixture
def decided(world, inhabited, enroller):
    """What the CA decides under a policy about some submissions, each with what the ledger knows of it."""

    def traces(policy, submissions, at):
        world.apply(inhabited, policy.text)
        desk = enroller.desk
        with inhabited.read() as tx:
            return [desk.decide(desk.judge, each, desk.view(tx, each, at)) for each in submissions]

    return traces


def test_the_submissions_meet_every_kind_of_answer(world, content, submissions, decided):
    traces = decided(load(written(content)), submissions, world.time)
    rules = {trace.refusal.rule if trace.refusal else "" for trace in traces}
    assert rules >= {
        "", "certify.present", "ledger.counter", "ledger.instance-occupied", "ledger.key-id-unique",
        "ledger.key-unique", "ledger.not-revoked", "snp.vmpl", "kbs.listed", "kbs.origin", "grant.age",
    }  # fmt: skip


def admits_nobody_new(world, content, submissions, decided, data):
    policies = drawn_policies(permissive(content, data), data, 3)
    first, last = policies[0], policies[-1]
    asked = data.draw(st.lists(st.sampled_from(range(len(submissions))), unique=True, min_size=4, max_size=4))
    at = world.time + data.draw(st.sampled_from([timedelta(), timedelta(hours=1), timedelta(days=400)]))
    before, after = (decided(policy, [submissions[n] for n in asked], at) for policy in (first, last))
    for old, new, was, now in ((first, last, before, after), (last, first, after, before)):
        found = compare(old, new, "simulation")
        if found.effect is not Effect.WIDENS:
            wrong = [n for n, a, b in zip(asked, was, now, strict=True) if b.admitted and not a.admitted]
            assert not wrong, [str(change) for change in found.changes]


@FEW
@given(data=st.data())
def test_whatever_is_not_called_widening_admits_nobody_new(world, content, submissions, decided, data):
    admits_nobody_new(world, content, submissions, decided, data)


@pytest.mark.slow
# In parts, so that each has the time that any test has; what one draws, no other repeats but by chance.
@pytest.mark.parametrize("part", range(15))
@settings(FEW, max_examples=100)
@given(data=st.data())
def test_nor_in_many_documents(world, content, submissions, decided, part, data):
    admits_nobody_new(world, content, submissions, decided, data)


MOVED = {
    "broker": lambda content: content["kbs"].pop(0),
    "key": lambda content: content["kbs"][0]["key"].pop(0),
    "pool": lambda content: content["kbs"][0]["resource"].pop(),
}
"""What makes an instance another one where the rules that would refuse it are given up."""

MOVING = {
    ("broker", "UnsafeAllowAnyKbs"),
    ("key", "UnsafeAllowAnyKbs"),
    ("pool", "UnsafeAllowAnyKbs"),
    ("pool", "UnsafeAllowAnyResource"),
}


def test_who_gets_another_name_by_a_permissive_entry_is_no_longer_held_back(
    world, content, submissions, decided
):
    """The ledger knows instances by broker and resource: a broker that is no longer listed is another one to it."""
    content["kbs"][0]["key"].append({"jwk": EcJwk.from_key(NOBODY.public_key()).members()})
    found = set()
    for unsafe, moved in product(("UnsafeAllowAnyKbs", "UnsafeAllowAnyResource"), MOVED):
        before = copy.deepcopy(content) | {"unsafe": [{"name": unsafe, "gives_up": "x"}]}
        after = copy.deepcopy(before)
        MOVED[moved](after)
        old, new = load(written(before)), load(written(after))
        was, now = (decided(policy, submissions[:RESIDENTS], world.time) for policy in (old, new))
        if any(b.admitted and not a.admitted for a, b in zip(was, now, strict=True)):
            found.add((moved, unsafe))
        assert compare(old, new, "simulation").effect is Effect.WIDENS
    assert found == MOVING
