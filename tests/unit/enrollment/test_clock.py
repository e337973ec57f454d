"""A clock that goes back by a day or forward by a year: no crash, no certificate that precedes or outlives its CA."""

import contextlib
import os
import shutil
from datetime import timedelta

import enrollment_world as w
import pytest
from cryptography import x509

from ca_service.enrollment import Limits, publish_due
from ca_service.judgment import Unavailable, VtpmCaError
from ca_service.keys import (
    CeremonyConfig,
    PublicationRule,
    load_public,
    load_root,
    prepare_issuing,
    run_ceremony,
)
from ca_service.keys.configuration import ValidityRule
from ca_service.store import CertificateState
from vtpm.snp import Platform
from vtpm.wire.enrollment import ChallengeReply
from vtpm.wire.report import Product

DAY = timedelta(days=1)
JUMPS = (-DAY, -timedelta(seconds=1), DAY, 365 * DAY)
RULES = {
    "lifetime": ValidityRule(),
    "bounded": ValidityRule(kind="bounded", root_days=90, issuing_days=90, device_days=60),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A CA of each kind of validity, and processors whose own certificates are older than these CAs."""
    return {name: _make(tmp_path_factory.mktemp(name), rule) for name, rule in RULES.items()}


def _make(directory, rule):
    config = CeremonyConfig(
        mode="simulation",
        organization="Tests",
        publication_url="http://ca.test",
        ca_id="test-ca",
        validity=rule,
        # They are published at each of three times, and all lists of an issuing CA have the same dates.
        publication=PublicationRule(shards=1),
    )
    run_ceremony(directory / "ca", config, w.PASSPHRASE, clock=lambda: w.START, entropy=os.urandom)
    Platform.create(directory / "platform", Product.MILAN, clock=lambda: w.START - 500 * DAY)
    return w.World(directory)


@pytest.fixture(params=RULES)
def world(request, made, tmp_path):
    one = made[request.param]
    world = w.World(one.directory, one.authority, f"sqlite:///{tmp_path}/ca.sqlite3")
    yield world
    world.close()


@pytest.fixture
def store(world):
    store = world.new_store()
    world.apply(store, world.policy())
    yield store
    store.close()


def within_their_issuers(world, store) -> int:
    """How many certificates there are; each holds only while its issuer does, and has the bytes that were intended."""
    with store.read() as tx:
        rows = tx.certificates.latest(1000)
    for row in rows:
        issuer = world.authority.issuer_of(row.issuer).certificate
        assert row.state is CertificateState.ISSUED
        certificate = x509.load_der_x509_certificate(row.der)
        assert issuer.not_valid_before_utc <= certificate.not_valid_before_utc
        assert certificate.not_valid_after_utc <= issuer.not_valid_after_utc
    return len(rows)


@pytest.mark.parametrize("jump", JUMPS, ids=str)
@pytest.mark.parametrize("between", [False, True], ids=["before", "between"])
def test_a_clock_that_jumps(world, store, tpms, jump, between):
    """Before the enrolment, or between the challenge and the answer to it."""
    enroller = world.enroller(store)
    enroller.recover()
    first = None
    if between:
        first = enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0)))
    world.time += jump
    alive = all(
        ca.info.validity.not_before <= world.time < ca.info.validity.not_after
        for ca in world.authority.issuers
    )
    error = None
    try:
        if first is None:
            w.issue(world, enroller, tpms(0))
        else:
            enroller.activate(*w.answer(tpms(0), first.body))
    except VtpmCaError as raised:
        error = raised
    # An answer to a challenge of before the jump may simply be too late; all else fails for want of a valid CA only.
    assert (error is None) <= alive
    assert error is None or between or (not alive and isinstance(error, Unavailable))
    assert within_their_issuers(world, store) == (3 if error is None else 0)
    with contextlib.suppress(Unavailable):
        publish_due(store, world.authority, world.time, Limits())
    with store.read() as tx:
        for ca in world.authority.issuers:
            assert tx.crls.latest(ca.skid).this_update <= world.time
    # The clock is set right again, and all goes on.
    world.time = w.START + timedelta(minutes=1)
    enroller.recover()
    other = w.Boot(resource="default/vtpm/guest-b", secret=bytes(range(1, 33)))
    w.issue(world, enroller, tpms(1), other)
    assert within_their_issuers(world, store) in (3, 6)


def test_the_ca_says_that_its_clock_is_wrong(world, store, tpms):
    enroller = world.enroller(store)
    world.time -= DAY
    reply = enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0)))
    with pytest.raises(Unavailable, match="the CA's clock is wrong") as refused:
        enroller.activate(*w.answer(tpms(0), reply.body))
    assert (refused.value.code, refused.value.remedy) == ("issuer", "Set the clock.")
    # That was our fault and not the TPM's: its enrolment goes on when the clock is right.
    assert enroller.state(ChallengeReply.parse(reply.body).id).state == "challenged"


@pytest.mark.parametrize("jump", [-DAY, 365 * DAY], ids=str)
def test_an_issuing_ca_is_prepared_within_its_root_or_not_at_all(world, tmp_path, jump):
    directory = tmp_path / "ca"
    shutil.copytree(world.directory / "ca", directory)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    root = load_root(directory, w.PASSPHRASE)
    try:
        prepare_issuing(
            directory, root, passphrase=w.PASSPHRASE, clock=lambda: w.START + jump, entropy=os.urandom
        )
    except VtpmCaError:
        after = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        assert {path: after[path] for path in before} == before
    certificate = root.certificate
    for issuer in load_public(directory).issuers:
        assert certificate.not_valid_before_utc <= issuer.certificate.not_valid_before_utc
        assert issuer.certificate.not_valid_after_utc <= certificate.not_valid_after_utc
