"""What a policy says of certificates' lives and of limits takes effect in enrolments, and goes before the CA's own."""

from dataclasses import replace
from datetime import timedelta

import enrollment_world as w
import pytest
from cryptography import x509

from ca_service.enrollment import Enroller
from ca_service.enrollment.ledger import is_due
from ca_service.enrollment.limits import Limits
from ca_service.judgment import Refused, TooMany
from ca_service.keys import ValidityRule
from ca_service.policy import load
from ca_service.profiles import DEVICE_LIFETIME
from ca_service.store import CertificateRow, CertificateState
from vtpm.wire.enrollment import CertificatesReply

BY_ROLE = """
[certificates.ek]
validity = "device-lifetime"
[certificates.iak]
validity = "bounded"
days = 30
[certificates.idevid]
validity = "bounded"
days = 90
"""


@pytest.fixture
def tpm(tpms):
    return tpms(0)


def lives(reply, at):
    """Days from `at` to the end of each certificate; None for one without an end."""
    parsed = CertificatesReply.parse(reply)
    found = {}
    for role, entry in (("ek", parsed.ek[0]), ("iak", parsed.iak), ("idevid", parsed.idevid)):
        end = x509.load_der_x509_certificate(entry.certificate).not_valid_after_utc
        found[role] = None if end >= DEVICE_LIFETIME else (end - at).days
    return found


def ders(reply):
    parsed = CertificatesReply.parse(reply)
    return {
        "ek": parsed.ek[0].certificate,
        "iak": parsed.iak.certificate,
        "idevid": parsed.idevid.certificate,
    }


def test_each_role_has_a_life_of_its_own(world, store, enroller, tpm, helpers):
    world.apply(store, world.policy(extra=BY_ROLE))
    assert lives(helpers.issue(world, enroller, tpm), world.time) == {"ek": None, "iak": 30, "idevid": 90}


def test_no_policy_makes_it_longer_than_the_ceremony(world, store, tpm, helpers):
    world.authority = replace(
        world.authority,
        validity=ValidityRule(kind="bounded", root_days=60, issuing_days=60, device_days=60),
    )
    world.apply(store, world.policy(extra=BY_ROLE))
    found = lives(helpers.issue(world, world.enroller(store), tpm), world.time)
    assert found == {"ek": 60, "iak": 30, "idevid": 60}


def test_nor_longer_than_the_issuer(world):
    authority = world.authority
    issuer = authority.issuer("devid")
    start = issuer.info.validity.not_before
    bounded = ValidityRule(kind="bounded", root_days=10, issuing_days=10, device_days=10)
    short = replace(issuer.info.validity, not_after=start + timedelta(days=5))
    for most, days in ((None, 5), (7, 5), (3, 3)):
        assert bounded.device(start, short, most).not_after == start + timedelta(days=days)
        assert ValidityRule().device(start, short, most).not_after == start + timedelta(days=days)


def test_what_ends_alone_is_renewed_alone(world, store, enroller, tpm, helpers):
    world.apply(store, world.policy(extra=BY_ROLE))
    first = ders(helpers.issue(world, enroller, tpm))
    world.later(days=19)
    known = enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, helpers.Boot(certify=False)))
    assert ders(known.body) == first
    world.later(days=1)
    with pytest.raises(Refused) as refused:
        enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, helpers.Boot(certify=False)))
    assert refused.value.code == "certify-required"
    second = ders(helpers.issue(world, enroller, tpm))
    assert {role for role in first if first[role] != second[role]} == {"iak"}


def test_a_longer_life_comes_with_the_renewal_and_a_shorter_one_too(world, store, enroller, tpm, helpers):
    text = world.policy(extra=BY_ROLE)
    world.apply(store, text)
    helpers.issue(world, enroller, tpm)
    world.apply(store, text.replace("days = 30", "days = 300").replace("days = 90", "days = 20"))
    known = enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, helpers.Boot(certify=False)))
    assert lives(known.body, world.time) == {"ek": None, "iak": 30, "idevid": 90}
    world.later(days=29)
    assert lives(helpers.issue(world, enroller, tpm), world.time) == {"ek": None, "iak": 300, "idevid": 61}
    # A new one of 20 days ends later than this one only in its last 20.
    world.later(days=42)
    assert lives(helpers.issue(world, enroller, tpm), world.time) == {"ek": None, "iak": 258, "idevid": 20}


@pytest.mark.parametrize(
    ("profile", "role"), [("ek", "ek"), ("iak", "iak"), ("iak-webauthn", "iak"), ("idevid", "idevid")]
)
def test_what_counts_is_the_end_that_a_new_one_of_its_role_would_have(profile, role):
    issued, life = w.START, timedelta(days=30)
    row = CertificateRow(
        "01", "aa", profile, "H-3", "000b", "x:000b", "i", 1, CertificateState.ISSUED, b"", None, b"", issued,
        issued + life,
    )  # fmt: skip
    at = issued + timedelta(days=25)
    same, later = dict.fromkeys(("ek", "iak", "idevid"), row.not_after), row.not_after + life
    assert not is_due(row, frozenset(), dict.fromkeys(same, later) | {role: row.not_after}, at)
    assert is_due(row, frozenset(), same | {role: later}, at)


def test_an_ephemeral_certificate_asks_the_ephemeral_table_alone(world, store, enroller, tpm):
    policy = load(world.policy(extra=BY_ROLE + "[ephemeral]\ndays = 2\nvolatile_stores = true\n"))
    claim = type("Claim", (), {"ephemeral": True})()
    issuer = world.authority.issuer("ephemeral")
    for role in policy.templates:
        held = enroller.desk.validity(claim, policy, role, issuer, world.time)
        assert held.not_after == world.time + timedelta(days=2)


# -- limits -------------------------------------------------------------------------------------------------------


def test_the_policys_limits_go_before_the_cas_own():
    own = Limits(instance_enrolments=3, refusals_per_hour=5.0, refusals_at_once=4)
    assert own.under(None) is own
    assert own.under(load("schema = 1")) == own
    stated = own.under(load("schema = 1\n[limits]\ninstance_window_s = 60\nlaunch_refusals_per_hour = 7\n"))
    assert stated == Limits(
        instance_enrolments=3,
        instance_window=timedelta(minutes=1),
        refusals_per_hour=7,
        refusals_at_once=7,
    )


def test_an_instance_is_held_to_the_number_and_window_of_the_policy(world, store, enroller, tpm, helpers):
    limits = "[limits]\ninstance_enrolments = 2\ninstance_window_s = 120\n"
    world.apply(store, world.policy(extra=limits))
    helpers.issue(world, enroller, tpm)
    world.later(seconds=60)
    helpers.issue(world, enroller, tpm)
    with pytest.raises(TooMany) as too_many:
        enroller.enroll(world.body(enroller.new_nonce().nonce, tpm))
    assert too_many.value.retry_after_s == 60
    world.later(seconds=60)
    assert enroller.enroll(world.body(enroller.new_nonce().nonce, tpm)).status == 200
    world.apply(store, world.policy())
    assert enroller.enroll(world.body(enroller.new_nonce().nonce, tpm)).status == 200


def test_refusals_of_a_launch_too_and_another_policy_starts_afresh(world, store, enroller, tpm, helpers):
    enroller = Enroller(replace(enroller.desk, limits=Limits(refusals_at_once=1, refusals_per_hour=1)))

    def refused():
        with pytest.raises((Refused, TooMany)) as caught:
            enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, helpers.Boot(certify=False)))
        return type(caught.value)

    assert [refused() for _ in range(2)] == [Refused, TooMany]
    world.apply(store, world.policy(extra="[limits]\nlaunch_refusals_per_hour = 3\n"))
    assert [refused() for _ in range(4)] == [Refused, Refused, Refused, TooMany]
