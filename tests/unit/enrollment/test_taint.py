"""Two generations of issuing CAs: who signs for whom, which certificates are replaced, and what a chain leads to."""

import hashlib
import json
import os
import shutil
from dataclasses import replace

import amd_guest
import enrollment_world as w
import pytest
from amd_guest import Guest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from structlog.testing import capture_logs

from ca_service.enrollment import Enroller, reset_instance
from ca_service.judgment import Refused, Unavailable
from ca_service.keys import AuthoritySource, load_authority, load_root, prepare_issuing
from ca_service.keys.layout import FACTS_FILE
from ca_service.profiles import serial_hex
from ca_service.store import CertificateState, schema
from vtpm.wire.amd_evidence import SERVICES_PROFILE
from vtpm.wire.enrollment import CertificatesReply

ROLES = ("ek", "devid", "ephemeral")
FIRST = [("ek", 1), ("devid", 1), ("devid", 1)]
SECOND = [("ek", 2), ("devid", 2), ("devid", 2)]


@pytest.fixture(scope="session")
def two_generations(ceremony, tmp_path_factory: pytest.TempPathFactory):
    """The same CA after a second generation of every issuing CA was prepared."""
    directory = tmp_path_factory.mktemp("generations") / "world"
    shutil.copytree(ceremony.directory, directory)

    prepare_issuing(
        directory / "ca",
        load_root(directory / "ca", w.PASSPHRASE),
        ROLES,
        passphrase=w.PASSPHRASE,
        clock=lambda: w.START,
        entropy=os.urandom,
    )
    return w.World(directory, load_authority(directory / "ca", w.PASSPHRASE))


@pytest.fixture
def world(two_generations, tmp_path, database_url, helpers):
    directory = tmp_path / "world"
    shutil.copytree(two_generations.directory, directory)
    made = helpers.World(directory, two_generations.authority, database_url)
    yield made
    made.close()


@pytest.fixture
def behind(world, ceremony, tmp_path, helpers):
    """Another node of the same CA, to whose directory nobody has copied the second generation."""
    directory = tmp_path / "behind"
    shutil.copytree(ceremony.directory, directory)
    node = helpers.World(directory, ceremony.authority, world.url)
    yield node
    node.close()


@pytest.fixture
def operate(world, store, enroller, helpers):
    """Does an operation on issuing CAs, of the pair if no roles are named."""

    def once(name, *roles, **more):
        arguments = {"roles": list(roles or ("ek", "devid")), **more}
        return helpers.operate(world, store, f"issuer-{name}", **arguments)

    return once


@pytest.fixture
def tpm(tpms):
    return tpms(0)


@pytest.fixture
def known(world, enroller, tpm, helpers):
    """The answer to a TPM that was certified by the first generation."""
    return helpers.issue(world, enroller, tpm)


@pytest.fixture
def again(world, enroller, tpm, helpers):
    """Lets the TPM enrol once more; without certify only what is stored can come back."""

    def once(*, certify=False):
        if certify:
            return helpers.issue(world, enroller, tpm)
        reply = enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, helpers.Boot(certify=False)))
        assert reply.status == 200
        return reply.body

    return once


def rows(store) -> dict[str, int]:
    with store.read() as tx:
        return {
            name: tx.connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar()  # noqa: S608 - our tables
            for name in schema.metadata.tables
        }


def states(store) -> dict[str, int]:
    with store.read() as tx:
        found = [row.state.value for row in tx.certificates.latest()]
    return {state: found.count(state) for state in sorted(set(found))}


def serials(reply: bytes, helpers) -> list[str]:
    return [serial_hex(certificate.serial_number) for certificate in helpers.certificates(reply)]


def check_chains(world, reply: bytes) -> None:
    """What goes along with a certificate leads from it to the root, and names the issuer that really signed."""
    for entry in CertificatesReply.parse(reply).entries:
        certificate, issuer, root = (
            x509.load_der_x509_certificate(der) for der in (entry.certificate, *entry.chain)
        )
        certificate.verify_directly_issued_by(issuer)
        issuer.verify_directly_issued_by(root)
        assert root.public_bytes(Encoding.DER) == world.authority.root.public_bytes(Encoding.DER)


def key_id_of(certificate: x509.Certificate) -> str:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()


class TestOneThatIsPrepared:
    def test_signs_nothing(self, world, known, helpers):
        assert helpers.signers(world.authority, known) == FIRST
        check_chains(world, known)


class TestAfterActivation:
    def test_a_known_tpm_keeps_its_certificates(self, world, store, known, operate, again, helpers):
        operate("activate")
        reply = again()
        assert helpers.ders(reply) == helpers.ders(known)
        check_chains(world, reply)
        assert states(store) == {"issued": 3}
        with store.read() as tx:
            assert tx.alarms.latest() == []

    def test_a_new_tpm_gets_the_new_issuers(self, world, enroller, operate, tpms, helpers):
        operate("activate")
        reply = helpers.issue(world, enroller, tpms(1))
        assert helpers.signers(world.authority, reply) == SECOND
        check_chains(world, reply)

    def test_between_challenge_and_answer_the_new_ones_sign(self, world, enroller, operate, tpm, helpers):
        challenge = enroller.enroll(world.body(enroller.new_nonce().nonce, tpm))
        operate("activate")
        reply = enroller.activate(*helpers.answer(tpm, challenge.body))
        assert helpers.signers(world.authority, reply) == SECOND

    def test_in_the_midst_of_an_issuance_the_new_ones_sign(
        self, world, store, enroller, operate, tpm, helpers
    ):
        """The drafts name the first generation, and are thrown away before anything of them is recorded."""
        challenge = enroller.enroll(world.body(enroller.new_nonce().nonce, tpm))
        waiting = [lambda: operate("activate")]

        def entropy(size: int) -> bytes:
            if waiting:
                waiting.pop()()
            return os.urandom(size)

        late = Enroller(replace(enroller.desk, entropy=entropy))
        reply = late.activate(*helpers.answer(tpm, challenge.body))
        assert not waiting
        assert helpers.signers(world.authority, reply) == SECOND
        assert states(store) == {"issued": 3}

    def test_the_first_may_sign_again(self, world, enroller, operate, tpm, helpers):
        operate("activate")
        operate("activate", generation=1)
        assert helpers.signers(world.authority, helpers.issue(world, enroller, tpm)) == FIRST


class TestAfterTaint:
    def test_certificates_are_replaced_at_the_next_enrolment(
        self, world, store, known, operate, again, helpers
    ):
        operate("activate")
        operate("taint")
        with pytest.raises(Refused) as caught:
            again()
        assert caught.value.code == "certify-required"
        assert states(store) == {"issued": 3}
        reply = again(certify=True)
        assert helpers.signers(world.authority, reply) == SECOND
        check_chains(world, reply)
        assert states(store) == {"issued": 3, "superseded": 3}
        with store.read() as tx:
            superseded = tx.certificates.latest(state=CertificateState.SUPERSEDED)
            (alarm,) = tx.alarms.latest()
        old = serials(known, helpers)
        assert {row.serial for row in superseded} == set(old)
        assert alarm.kind == "renewed"
        replaced = {"ek": old[:1], "iak": old[1:2], "idevid": old[2:]}
        assert json.loads(alarm.detail) == {
            "kbs": "org-kbs", "resource": helpers.Boot().resource, "replaced": replaced,
        }  # fmt: skip
        assert helpers.ders(again()) == helpers.ders(reply)

    def test_at_once_if_the_operator_wants(self, world, known, operate, again, helpers):
        operate("taint", active=True)
        assert helpers.signers(world.authority, again(certify=True)) == SECOND

    def test_a_retired_one_counts_as_tainted(self, world, known, operate, again, helpers):
        operate("activate")
        operate("retire", abandon=3, yes=True)
        with pytest.raises(Refused):
            again()
        assert helpers.signers(world.authority, again(certify=True)) == SECOND

    def test_the_old_certificates_can_still_be_revoked(
        self, world, store, enroller, known, operate, again, helpers
    ):
        """Each is on the list of the CA that signed it."""
        operate("activate")
        operate("taint")
        new = again(certify=True)
        limits = enroller.desk.limits
        resource = helpers.Boot().resource
        reset_instance(store, world.authority, "org-kbs", resource, at=world.time, cause="t", limits=limits)
        assert states(store) == {"revoked": 6}
        for reply in (known, new):
            for entry in CertificatesReply.parse(reply).entries:
                certificate = x509.load_der_x509_certificate(entry.certificate)
                skid = key_id_of(x509.load_der_x509_certificate(entry.chain[0]))
                with store.read() as tx:
                    crl = x509.load_der_x509_crl(tx.crls.latest(skid).der)
                assert crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None


class TestMixedGenerations:
    @pytest.fixture
    def database_url(self, database: str) -> str:
        return database

    def test_a_new_devid_ca_alone(self, world, store, known, operate, again, helpers):
        operate("activate", "devid")
        operate("taint", "devid")
        reply = again(certify=True)
        assert helpers.signers(world.authority, reply) == [("ek", 1), ("devid", 2), ("devid", 2)]
        check_chains(world, reply)
        assert helpers.ders(reply)[0] == helpers.ders(known)[0]
        assert states(store) == {"issued": 3, "superseded": 2}
        with store.read() as tx:
            (alarm,) = tx.alarms.latest()
        assert sorted(json.loads(alarm.detail)["replaced"]) == ["iak", "idevid"]
        known_now = again()
        assert helpers.ders(known_now) == helpers.ders(reply)
        check_chains(world, known_now)

    def test_a_new_ek_ca_alone(self, world, store, known, operate, again, helpers):
        """IAK and IDevID name the EK's certificate, so they are made anew with it, by the CA that signs for them."""
        operate("activate", "ek")
        operate("taint", "ek")
        reply = again(certify=True)
        assert helpers.signers(world.authority, reply) == [("ek", 2), ("devid", 1), ("devid", 1)]
        check_chains(world, reply)
        assert not set(helpers.ders(reply)) & set(helpers.ders(known))
        assert states(store) == {"issued": 3, "superseded": 3}


def test_a_form_that_was_away_meanwhile_names_the_new_ek_certificate(
    world, store, known, operate, again, helpers
):
    """The IAK's certificate of the first form rested while another was wanted, and the EK got a new one."""
    first = world.policy()
    second = first.replace('idevid = ["H-3"]', 'idevid = ["H-3"]\niak_profile = "iak-webauthn"')
    world.apply(store, second)
    again(certify=True)
    operate("activate", "ek")
    operate("taint", "ek")
    renewed = again(certify=True)
    world.apply(store, first)
    with pytest.raises(Refused) as caught:
        again()
    assert caught.value.code == "certify-required"
    reply = again(certify=True)
    ek, iak, idevid = helpers.ders(reply)
    assert (ek, idevid) == (helpers.ders(renewed)[0], helpers.ders(renewed)[2])
    digest = hashlib.sha256(ek).hexdigest().encode()
    assert digest in iak
    assert digest in idevid
    assert helpers.ders(again()) == [ek, iak, idevid]
    with store.read() as tx:
        replaced = [json.loads(alarm.detail)["replaced"] for alarm in tx.alarms.latest()]
    assert {"iak": serials(known, helpers)[1:2]} in replaced


def test_a_new_ephemeral_ca(world, store, enroller, operate, tpm, helpers):
    world.apply(store, amd_guest.policy(world))
    guest = Guest(world, enroller, tpm)
    first = guest.issue(SERVICES_PROFILE)
    operate("activate", "ephemeral")
    assert helpers.ders(guest.issue(SERVICES_PROFILE)) == helpers.ders(first)
    operate("taint", "ephemeral")
    second = guest.issue(SERVICES_PROFILE)
    assert helpers.signers(world.authority, first) == [("ephemeral", 1)] * 3
    assert helpers.signers(world.authority, second) == [("ephemeral", 2)] * 3
    check_chains(world, second)
    with store.read() as tx:
        assert tx.alarms.latest() == []


class TestANodeThatIsBehind:
    def test_issues_nothing_and_another_one_finishes(
        self, world, store, behind, enroller, operate, tpm, helpers
    ):
        lagging = behind.enroller(store)
        operate("activate")
        challenge = lagging.enroll(world.body(lagging.new_nonce().nonce, tpm))
        assert challenge.status == 201
        answer = helpers.answer(tpm, challenge.body)
        before = rows(store)
        with pytest.raises(Unavailable) as caught:
            lagging.activate(*answer)
        assert caught.value.code == "issuer"
        assert rows(store) == before
        assert lagging.state(answer[0]).state == "challenged"
        assert helpers.signers(world.authority, enroller.activate(*answer)) == SECOND

    def test_has_no_chain_for_what_another_node_issued(
        self, world, store, behind, enroller, operate, tpm, helpers
    ):
        lagging = behind.enroller(store)
        operate("activate")
        helpers.issue(world, enroller, tpm)
        body = world.body(lagging.new_nonce().nonce, tpm, helpers.Boot(certify=False))
        before = rows(store)
        with pytest.raises(Unavailable) as caught:
            lagging.enroll(body)
        assert caught.value.code == "issuer"
        assert rows(store) == before
        assert enroller.enroll(body).status == 200

    def test_goes_on_when_the_directory_was_copied(
        self, world, store, behind, enroller, operate, tpm, helpers
    ):
        """Without a restart: the directory is looked at before anybody is turned away."""
        found = [behind.authority]
        source = AuthoritySource(behind.directory / "ca", lambda: found[-1])
        lagging = Enroller(replace(behind.enroller(store).desk, source=source))
        operate("activate")
        challenge = lagging.enroll(world.body(lagging.new_nonce().nonce, tpm))
        found.append(world.authority)
        shutil.copyfile(world.directory / "ca" / FACTS_FILE, behind.directory / "ca" / FACTS_FILE)
        reply = lagging.activate(*helpers.answer(tpm, challenge.body))
        assert helpers.signers(world.authority, reply) == SECOND
        check_chains(world, reply)


def test_an_intent_that_is_left_to_another_node_is_not_called_abandoned(
    world, store, operate, behind, tpm, monkeypatch
):
    operate("activate")

    def die(point: str) -> None:
        if "sign" in point:
            raise RuntimeError(point)

    def fail(*_arguments: object) -> None:
        raise Unavailable("the database is gone")

    enroller = world.enroller(store, die)
    monkeypatch.setattr("ca_service.enrollment.activation.abandon", fail)
    with pytest.raises(Unavailable, match="gone"):
        w.issue(world, enroller, tpm)
    monkeypatch.undo()
    with store.read() as tx:
        (intent,) = tx.intents.open()
    node = behind.enroller(store)
    with capture_logs() as logs:
        node._activation._lost.add(intent.id)
        assert node._activation.abandon_dead([intent]) == 0
    assert (logs, node._activation._lost) == ([], {intent.id})
    with capture_logs() as logs:
        assert enroller._activation.abandon_dead([intent]) == 1
    assert [line["intent"] for line in logs] == [intent.id]
    assert not enroller._activation._lost
