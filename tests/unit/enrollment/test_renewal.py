"""Certificates with an end: renewed near it, all together, and never lost on the way."""

import json
from dataclasses import replace
from datetime import timedelta

import enrollment_world as w
import pytest
from cryptography import x509

from ca_service.enrollment import reset_instance
from ca_service.enrollment.ledger import is_due
from ca_service.enrollment.submission import Submission
from ca_service.judgment import Refused, Unavailable
from ca_service.keys import ValidityRule
from ca_service.profiles import DEVICE_LIFETIME
from ca_service.store import CertificateRow, CertificateState
from vtpm.wire.enrollment import CertificatesReply

DAYS = 90


@pytest.fixture
def tpm(tpms):
    return tpms(0)


@pytest.fixture
def world(world):
    world.authority = replace(
        world.authority,
        validity=ValidityRule(kind="bounded", root_days=DAYS, issuing_days=DAYS, device_days=DAYS),
    )
    return world


def states(store) -> dict[str, int]:
    with store.read() as tx:
        found = [row.state for row in tx.certificates.latest()]
    return {state.value: found.count(state) for state in CertificateState if state in found}


def test_in_its_first_two_thirds_a_certificate_stays(world, enroller, tpm, helpers):
    first = helpers.issue(world, enroller, tpm)
    world.later(days=2 * DAYS // 3 - 1)
    reply = enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, helpers.Boot(certify=False)))
    assert reply.status == 200
    assert helpers.ders(reply.body) == helpers.ders(first)


def test_in_the_last_third_all_are_made_anew(world, store, enroller, tpm, helpers):
    first = CertificatesReply.parse(helpers.issue(world, enroller, tpm))
    world.later(days=2 * DAYS // 3)
    with pytest.raises(Refused) as refused:
        enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, helpers.Boot(certify=False)))
    assert refused.value.code == "certify-required"
    renewed = helpers.issue(world, enroller, tpm)
    second = CertificatesReply.parse(renewed)
    for old, new in ((first.ek[0], second.ek[0]), (first.iak, second.iak), (first.idevid, second.idevid)):
        before, after = (x509.load_der_x509_certificate(entry.certificate) for entry in (old, new))
        assert before.public_key() == after.public_key()
        assert after.not_valid_after_utc > before.not_valid_after_utc
    assert states(store) == {"issued": 3, "superseded": 3}
    with store.read() as tx:
        assert not any(tx.revocations.of_issuer(ca.skid) for ca in world.authority.issuers)
    known = enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, helpers.Boot(certify=False)))
    assert helpers.ders(known.body) == helpers.ders(renewed)


def test_a_renewal_that_fails_leaves_the_old_ones_live(world, store, tpm, helpers):
    failing = False

    def fault(point: str) -> None:
        if failing and point == "after signing iak":
            raise RuntimeError("the signer broke")

    enroller = world.enroller(store, fault)
    helpers.issue(world, enroller, tpm)
    with store.read() as tx:
        live = {row.serial: row.live for row in tx.certificates.latest()}
    world.later(days=DAYS - 1)
    failing = True
    with pytest.raises(RuntimeError):
        helpers.issue(world, enroller, tpm)
    with store.read() as tx:
        assert {row.serial: row.live for row in tx.certificates.latest(state=CertificateState.ISSUED)} == live
        assert len(tx.certificates.latest(state=CertificateState.ABANDONED)) == 3
        assert tx.ledger.occupant(1) is not None
    failing = False
    helpers.issue(world, enroller, tpm)
    assert states(store) == {"issued": 3, "superseded": 3, "abandoned": 3}


def test_a_reset_revokes_the_superseded_too(world, store, enroller, tpm, helpers):
    helpers.issue(world, enroller, tpm)
    world.later(days=DAYS - 1)
    helpers.issue(world, enroller, tpm)
    desk = enroller.desk
    ended = reset_instance(
        store, world.authority, "org-kbs", helpers.Boot().resource, at=desk.now(), cause="t", limits=desk.limits
    )  # fmt: skip
    assert len(ended) == 6
    assert states(store) == {"revoked": 6}
    with store.read() as tx:
        crl = x509.load_der_x509_crl(tx.crls.latest(world.authority.issuer("ek").skid).der)
    assert len(list(crl)) == 2


def test_an_operator_hears_of_it(world, store, enroller, tpm, helpers):
    """A registered keylime agent is refused with another EK certificate until somebody deletes its registration."""
    first = CertificatesReply.parse(helpers.issue(world, enroller, tpm))
    world.later(days=DAYS - 1)
    helpers.issue(world, enroller, tpm)
    with store.read() as tx:
        (alarm,) = tx.alarms.latest()
    detail = json.loads(alarm.detail)
    assert alarm.kind == "renewed"
    assert (detail["kbs"], detail["resource"]) == ("org-kbs", helpers.Boot().resource)
    serial = x509.load_der_x509_certificate(first.ek[0].certificate).serial_number
    assert int(detail["replaced"]["ek"][0], 16) == serial


@pytest.mark.parametrize(
    ("end", "due"), [(timedelta(0), False), (timedelta(seconds=-1), False), (timedelta(seconds=1), True)]
)
def test_only_a_certificate_that_holds_longer_is_worth_a_new_one(end, due):
    """Near its issuer's end each enrolment would else bring new ones that end with the old."""
    issued = w.START
    row = CertificateRow(
        "01", "aa", "ek", "L-1", "000b", "ek:000b", "i", 1, CertificateState.ISSUED, b"", None, b"", issued,
        issued + timedelta(days=30),
    )  # fmt: skip
    at = issued + timedelta(days=25)
    assert is_due(row, frozenset(), {"ek": row.not_after + end}, at) is due
    assert not is_due(row, frozenset(), {}, at)
    assert is_due(row, frozenset({"aa"}), {}, at)


def test_an_issuer_whose_time_is_over_signs_nothing_and_says_so(world, store, tpms, helpers):
    enroller = world.enroller(store)
    desk = enroller.desk
    with store.read() as tx:
        view = desk.view(tx, Submission.parse(world.body(enroller.new_nonce().nonce, tpms(0))), desk.now())
    assert desk.issuer(view, "ek", "default", desk.now()).role == "ek"
    with pytest.raises(Unavailable, match="has expired") as error:
        desk.issuer(view, "ek", "default", DEVICE_LIFETIME)
    assert error.value.code == "issuer"
