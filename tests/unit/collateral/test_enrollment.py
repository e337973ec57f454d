"""Enrolments whose reports come without certificates, judged with what the operator keeps."""

import dataclasses
import shutil
from datetime import timedelta

import enrollment_world as w
import pytest

from ca_service.collateral import CollateralFolder, Offer, add
from ca_service.enrollment import Judge
from ca_service.evidence.snp import Collateral
from ca_service.judgment import Refused, Unavailable


@pytest.fixture(scope="session")
def ceremony(tmp_path_factory):
    return w.World.create(tmp_path_factory.mktemp("ceremony"))


@pytest.fixture
def world(ceremony, tmp_path, service):
    """A world whose processors are certified by a service that can revoke."""
    directory = tmp_path / "world"
    shutil.copytree(ceremony.directory, directory)
    made = w.World(directory, ceremony.authority)
    made.platform = service.platform()
    made.launch = made.platform.launch([(0x1000 * i, bytes([i]) * 4096) for i in range(2)])
    return made


@pytest.fixture
def vcek(world, service):
    platform = world.platform
    return service.vcek(platform.chip_id, platform.tcb, platform.vcek_key())


@pytest.fixture
def enroller(world, service, folder):
    authority = world.authority
    store = world.new_store()
    world.apply(store, world.policy())
    judge = Judge(authority.ca_id, authority.mode, (service.root,), collateral=folder.current)
    made = world.enroller(store, judge=judge)
    made.recover()
    yield made
    store.close()


@pytest.fixture
def enroll(world, enroller):
    tpm = w.SoftTpm()

    def run():
        request = world.request(enroller.new_nonce().nonce, tpm)
        bare = dataclasses.replace(request, evidence=dataclasses.replace(request.evidence, certificates=None))
        reply = enroller.enroll(w.encode(bare))
        return reply.body if reply.status == 200 else enroller.activate(*w.answer(tpm, reply.body))

    return run


def refusal(enroll):
    with pytest.raises(Refused) as error:
        enroll()
    return error.value.rule


def test_the_bundle_has_what_the_request_lacks(enroll, folder, vcek, service):
    assert refusal(enroll) == "snp.leaf-present"
    add(folder, [Offer("vcek", vcek)], (service.root,))
    w.CertificatesReply.parse(enroll())


def test_a_revocation_takes_effect_at_once(enroll, folder, vcek, service):
    add(folder, [Offer("vcek", vcek), Offer("list", service.crl(number=1))], (service.root,))
    enroll()
    another_process = CollateralFolder(folder.path)
    add(
        another_process,
        [Offer("list", service.crl(service.chain.ask.serial_number, number=2))],
        (service.root,),
    )
    assert refusal(enroll) == "snp.revocation"
    for path in folder.path.glob("crl-*"):
        path.write_bytes(b"")
    assert refusal(enroll) == "snp.revocation"


def test_a_revocation_between_challenge_and_answer(world, enroller, folder, vcek, service):
    add(folder, [Offer("vcek", vcek)], (service.root,))
    tpm = w.SoftTpm()
    challenge = enroller.enroll(w.encode(world.request(enroller.new_nonce().nonce, tpm)))
    add(folder, [Offer("list", service.crl(service.chain.ask.serial_number))], (service.root,))
    with pytest.raises(Refused) as error:
        enroller.activate(*w.answer(tpm, challenge.body))
    assert error.value.rule == "snp.revocation"


def test_a_policy_wants_a_list_that_is_fresh(world, enroll, enroller, folder, vcek, service):
    add(folder, [Offer("vcek", vcek)], (service.root,))
    asking = world.policy().replace('"chip", "crl-age"]', '"chip"]\ncrl_max_age_days = 30')
    world.apply(enroller.desk.store, asking)
    assert refusal(enroll) == "platform.crl-age"
    add(folder, [Offer("old", service.crl(at=world.time - timedelta(days=31)))], (service.root,))
    assert refusal(enroll) == "platform.crl-age"
    add(folder, [Offer("list", service.crl(at=world.time - timedelta(days=29), number=2))], (service.root,))
    w.CertificatesReply.parse(enroll())


def test_what_lies_there_is_not_believed(enroll, folder, vcek, service):
    """Whoever can write to the bundle can keep enrolments out, and cannot let one in."""
    foreign = type(service)()
    platform_key = service.platform().vcek_key()
    forged = foreign.vcek(service.platform().chip_id, service.platform().tcb, platform_key)
    add(folder, [Offer("forged", forged)], (foreign.root,))
    assert refusal(enroll) == "snp.chain"


def test_a_bundle_that_cannot_be_read_admits_nobody(enroll, folder):
    folder.path.write_bytes(b"")
    with pytest.raises(Unavailable):
        enroll()


def test_a_ca_without_a_bundle_has_no_collateral(world):
    authority = world.authority
    assert Judge.of(authority.ca_id, authority.mode).collateral() == Collateral()


def test_what_is_missing_is_got_before_the_judgement_outside_of_transactions(
    world, enroller, folder, vcek, service
):
    calls, tpm = [], w.SoftTpm()

    def supply(evidence):
        with enroller.desk.store.write():  # would wait in vain for a transaction that is open already
            calls.append(evidence.report.chip_id)
        add(folder, [Offer("vcek", vcek)], (service.root,))

    judge = dataclasses.replace(enroller.desk.judge, supply=supply)
    request = world.request(enroller.new_nonce().nonce, tpm)
    bare = dataclasses.replace(request, evidence=dataclasses.replace(request.evidence, certificates=None))
    assert world.enroller(enroller.desk.store, judge=judge).enroll(w.encode(bare)).status == 201
    assert calls == [world.platform.chip_id]


def test_nobody_is_asked_for_a_request_with_a_bad_nonce(world, enroller):
    calls = []
    judge = dataclasses.replace(enroller.desk.judge, supply=calls.append)
    other = world.enroller(enroller.desk.store, judge=judge)
    body = world.body(enroller.new_nonce().nonce, w.SoftTpm())
    world.later(minutes=6)
    with pytest.raises(Refused) as error:
        other.enroll(body)
    assert (error.value.rule, calls) == ("nonce.unexpired", [])
