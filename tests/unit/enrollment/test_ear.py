"""An enrolment for which the policy asks the key broker's verifier for its word as well."""

from dataclasses import replace

import ear_tokens as t
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.judgment import Record, Refused, UnsafeSkip
from vtpm.wire.jwk import EcJwk

ASKED = "shared = false\n[kbs.ear]\nmax_age_s = 600\nkey = [{{ jwk = {{ {jwk} }} }}]\n"
KEY_ALGORITHM = {"alg": "ECDH-ES+A256KW"}
OTHER_KEY = {(*t.RUNTIME, "tee-pubkey"): t.TEE.members() | KEY_ALGORITHM}


@pytest.fixture
def store(world):
    made = world.new_store()
    jwk = ", ".join(f'{k} = "{v}"' for k, v in EcJwk.from_key(t.VERIFIER.public_key()).members().items())
    world.apply(made, world.policy().replace("shared = false\n", ASKED.format(jwk=jwk)))
    yield made
    made.close()


def _claims(world, paths=()):
    """What a verifier says about the exchange that the world's grants are for; some members exchanged."""
    issued = int(world.time.timestamp())
    # The world's grants name the key 0x7EE and a challenge of zeros.
    tee = EcJwk.from_key(ec.derive_private_key(0x7EE, ec.SECP521R1()).public_key()).members()
    claims = t.changed(t.CLAIMS, (*t.RUNTIME, "tee-pubkey"), tee | KEY_ALGORITHM)
    claims = t.changed(claims, (*t.RUNTIME, "nonce"), "A" * 43 + "=")
    claims = claims | {"iat": issued, "exp": issued + 300}
    for path, value in dict(paths).items():
        claims = t.changed(claims, path, value)
    return claims


@pytest.fixture
def body(world, enroller, tpms, helpers):
    """Function: a request that carries a token, or none."""

    def make(token):
        request = world.request(enroller.new_nonce().nonce, tpms(0), helpers.Boot())
        return helpers.encode(replace(request, evidence=replace(request.evidence, ear=token)))

    return make


def _refusal(enroller, body):
    with pytest.raises(Refused) as caught:
        enroller.enroll(body)
    return caught.value.rule


def test_a_token_that_fits_the_grant_is_enough(world, store, enroller, body, tpms, helpers):
    reply = enroller.enroll(body(t.token(_claims(world))))
    assert reply.status == 201
    assert enroller.activate(*helpers.answer(tpms(0), reply.body))
    with store.read() as tx:
        decision = next(row for row in tx.decisions.latest() if row.stage == "enroll")
    rules = [finding.rule for finding in Record.parse(decision.trace).trace.findings]
    assert [rule for rule in rules if rule.startswith("ear.")] == [
        "ear.present",
        "ear.signature",
        "ear.profile",
        "ear.time",
        "ear.tee-key",
        "ear.nonce",
        "ear.status",
    ]


@pytest.mark.parametrize(
    ("rule", "make"),
    [
        ("ear.present", lambda _: None),
        ("ear.present", lambda _: "e30.e30.e30"),
        ("ear.signature", lambda world: t.token(_claims(world), key=t.STRANGER)),
        ("ear.profile", lambda world: t.token(_claims(world) | {"eat_profile": "tag:example.org,2020:x"})),
        ("ear.time", lambda world: t.token(_claims(world) | {"exp": int(world.time.timestamp()) - 1})),
        (
            "ear.tee-key",
            lambda world: t.token(_claims(world, paths=OTHER_KEY)),
        ),
        ("ear.nonce", lambda world: t.token(_claims(world, paths={(*t.RUNTIME, "nonce"): t.NONCE}))),
        (
            "ear.status",
            lambda world: t.token(_claims(world, paths={("submods", "cpu0", "ear.status"): "warning"})),
        ),
    ],
    ids=["none", "unreadable", "stranger", "profile", "expired", "other-key", "other-session", "warning"],
)
def test_without_a_right_token_nobody_enrols(world, store, enroller, body, rule, make):
    assert _refusal(enroller, body(make(world))) == rule
    judge = enroller.desk.judge
    # The one check off, the same evidence is let in: it is this check that stops it.
    lenient = world.enroller(store, judge=judge.with_replaced({rule: UnsafeSkip(rule)}))
    if rule == "ear.present":
        assert _refusal(lenient, body(make(world))) == "ear.signature"
    else:
        assert lenient.enroll(body(make(world))).status == 201


def test_where_the_policy_does_not_ask_any_token_will_do(world, store, enroller, body):
    world.apply(store, world.policy())
    assert enroller.enroll(body("e30.e30.e30")).status == 201
    assert enroller.enroll(body(None)).status == 201


def test_to_take_a_broker_off_the_list_admits_nothing_more(world, store, enroller, body):
    """A policy that lets any broker in asks none of them for a token, listed or not."""
    with store.read() as tx:
        asking = tx.policies.in_force(world.time).text
    unsafe = '\n[[unsafe]]\nname = "UnsafeAllowAnyKbs"\ngives_up = "who the broker is"\n'
    for policy in (asking + unsafe, world.policy() + unsafe):
        world.apply(store, policy)
        assert enroller.enroll(body(None)).status == 201
