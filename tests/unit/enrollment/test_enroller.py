"""One enrolment after another: what is answered, what is stored, what is refused."""

import hashlib
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.enrollment import reset_instance, revoke
from ca_service.judgment import (
    BadRequest,
    Conflict,
    NotFound,
    Record,
    Refused,
    Trace,
    Unavailable,
    VtpmCaError,
)
from ca_service.store import CertificateState, schema
from vtpm.wire.encoding import b64url
from vtpm.wire.enrollment import CertificatesReply, ChallengeReply


@pytest.fixture
def database_url(database: str) -> str:
    return database


def rows(store) -> dict[str, int]:
    with store.read() as tx:
        return {
            name: tx.connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar()  # noqa: S608 - our tables
            for name in schema.metadata.tables
        }


def trace_of(store, decision_id: str) -> Trace:
    with store.read() as tx:
        return Record.parse(tx.decisions.get(decision_id).trace).trace


def refusal(call, *arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return caught.value


def alarms(store) -> list[str]:
    with store.read() as tx:
        return [row.kind for row in tx.alarms.latest()]


@pytest.fixture
def tpm(tpms):
    return tpms(0)


@pytest.fixture
def boot(helpers):
    return helpers.Boot()


@pytest.fixture
def fresh(world, enroller):
    """Makes a request body for a new nonce."""
    return lambda tpm, boot: world.body(enroller.new_nonce().nonce, tpm, boot)


def test_from_nonce_to_three_certificates(world, store, enroller, tpm, boot, helpers, fresh):
    first = enroller.enroll(fresh(tpm, boot))
    assert first.status == 201
    enrollment_id, body = helpers.answer(tpm, first.body)
    assert enroller.state(enrollment_id).state == "challenged"
    reply = CertificatesReply.parse(enroller.activate(enrollment_id, body))
    assert enroller.state(enrollment_id).state == "issued"
    ek, iak, idevid = (
        x509.load_der_x509_certificate(e.certificate) for e in (*reply.ek, reply.iak, reply.idevid)
    )
    for certificate, entry in ((ek, reply.ek[0]), (iak, reply.iak), (idevid, reply.idevid)):
        issuer, root = (x509.load_der_x509_certificate(der) for der in entry.chain)
        certificate.verify_directly_issued_by(issuer)
        issuer.verify_directly_issued_by(root)
        assert root.public_bytes(Encoding.DER) == world.authority.root.public_bytes(Encoding.DER)
    digest = hashlib.sha256(reply.ek[0].certificate).hexdigest().encode()
    assert digest in reply.iak.certificate
    assert digest in reply.idevid.certificate
    assert reply.decision_id.encode() in reply.ek[0].certificate
    trace = trace_of(store, reply.decision_id)
    assert trace.admitted
    assert {"nonce.genuine", "evidence.report-data", "ledger.key-unique"} <= {f.rule for f in trace.findings}
    with store.read() as tx:
        assert tx.intents.open() == []
        kept = tx.decisions.evidence(tx.decisions.get(reply.decision_id).evidence_digest)
    assert json.loads(kept)["evidence"]["profile"] == "svsm-vtpm-ca:1"


def test_the_same_secrets_get_the_same_bytes(enroller, tpm, boot, helpers, fresh, world):
    enrollment_id, body = helpers.answer(tpm, enroller.enroll(fresh(tpm, boot)).body)
    first = enroller.activate(enrollment_id, body)
    world.later(hours=5)
    assert enroller.activate(enrollment_id, body) == first


def test_the_same_body_gets_the_same_answer_and_another_a_conflict(world, store, enroller, tpm, boot):
    nonce = enroller.new_nonce().nonce
    body = world.body(nonce, tpm, boot)
    first = enroller.enroll(body)
    before = rows(store)
    assert enroller.enroll(body).body == first.body
    with pytest.raises(Conflict):
        enroller.enroll(world.body(nonce, tpm, boot))
    world.later(hours=1)
    assert enroller.enroll(body).body == first.body
    assert rows(store) == before


def test_a_known_tpm_gets_its_certificates_without_certify(world, store, enroller, tpm, boot, helpers, fresh):
    first = CertificatesReply.parse(helpers.issue(world, enroller, tpm, boot))
    before = rows(store)["certificates"]
    world.later(days=3)
    reply = enroller.enroll(fresh(tpm, replace(boot, certify=False, counter=5)))
    assert reply.status == 200
    second = CertificatesReply.parse(reply.body)
    assert [e.certificate for e in second.entries] == [e.certificate for e in first.entries]
    assert second.decision_id != first.decision_id
    assert enroller.state(second.id).state == "issued"
    assert rows(store)["certificates"] == before
    with store.read() as tx:
        assert tx.ledger.occupant(1).counter == 5


def test_new_issuance_needs_certify(enroller, tpm, boot, fresh):
    error = refusal(enroller.enroll, fresh(tpm, replace(boot, certify=False)))
    assert (error.rule, error.code, error.retryable) == ("certify.present", "certify-required", True)


def test_a_refusal_consumes_the_nonce_and_is_kept(world, store, enroller, tpm, boot):
    nonce = enroller.new_nonce().nonce
    body = world.body(nonce, tpm, replace(boot, certify=False))
    first, again = refusal(enroller.enroll, body), refusal(enroller.enroll, body)
    assert first.decision_id
    assert vars(again) == vars(first)
    assert not trace_of(store, first.decision_id).admitted
    with pytest.raises(Conflict):
        enroller.enroll(world.body(nonce, tpm, boot))


def test_without_a_policy_everything_is_refused(world, tpm, boot):
    empty = world.new_store()
    enroller = world.enroller(empty)
    error = refusal(enroller.enroll, world.body(enroller.new_nonce().nonce, tpm, boot))
    assert error.rule == "policy.in-force"
    empty.close()


class TestNothingIsWrittenBefore:
    """Until chain, signature and binding of the report hold, the database stays as it was."""

    @pytest.fixture(autouse=True)
    def unchanged(self, store, enroller):
        before = rows(store)
        yield
        assert rows(store) == before

    def test_the_nonce_is_genuine(self, world, enroller, tpm, boot):
        error = refusal(enroller.enroll, world.body(b64url(bytes(56)), tpm, boot))
        assert (error.rule, error.decision_id, error.retryable) == ("nonce.genuine", "", True)

    def test_the_nonce_is_unexpired(self, world, enroller, tpm, boot):
        body = world.body(enroller.new_nonce().nonce, tpm, boot)
        world.later(minutes=6)
        assert refusal(enroller.enroll, body).rule == "nonce.unexpired"

    def test_the_audience_is_us(self, enroller, tpm, boot, fresh):
        elsewhere = replace(boot, change=lambda data: replace(data, aud="other-ca"))
        assert refusal(enroller.enroll, fresh(tpm, elsewhere)).rule == "nonce.audience"

    def test_the_report_is_signed(self, world, enroller, tpm, boot, helpers):
        request = world.request(enroller.new_nonce().nonce, tpm, boot)
        report = bytearray(request.evidence.report)
        report[0x2A0] ^= 1
        body = helpers.encode(replace(request, evidence=replace(request.evidence, report=bytes(report))))
        error = refusal(enroller.enroll, body)
        assert (error.rule, error.decision_id) == ("snp.signature", "")

    def test_the_report_vouches_for_the_runtime_data(self, world, enroller, tpm, boot, helpers):
        nonce = enroller.new_nonce().nonce
        request, other = (world.request(nonce, tpm, boot) for _ in range(2))
        mixed = replace(request, evidence=replace(request.evidence, report=other.evidence.report))
        assert refusal(enroller.enroll, helpers.encode(mixed)).rule == "evidence.report-data"

    def test_the_request_is_well_formed(self, world, enroller, tpm, boot):
        whole = world.request(enroller.new_nonce().nonce, tpm, boot).to_json()
        members = [("evidence",), *(("evidence", m) for m in ("profile", "runtime_data", "report"))]
        members += [("certify", m) for m in ("attest", "signature")]
        for path in members:
            for wrong in (None, 7, "***", []):
                message = json.loads(json.dumps(whole))
                parent = message
                for name in path[:-1]:
                    parent = parent[name]
                if wrong is None:
                    del parent[path[-1]]
                else:
                    parent[path[-1]] = wrong
                with pytest.raises(BadRequest) as caught:
                    enroller.enroll(json.dumps(message).encode())
                assert caught.value.path.startswith(".".join(path))

    def test_the_runtime_data_are_well_formed(self, world, enroller, tpm, boot, helpers):
        request = world.request(enroller.new_nonce().nonce, tpm, boot)
        data = json.loads(request.evidence.runtime_data)
        for name in data:
            broken = {k: v for k, v in data.items() if k != name}
            raw = json.dumps(broken, separators=(",", ":"), sort_keys=True).encode()
            message = replace(request, evidence=replace(request.evidence, runtime_data=raw))
            with pytest.raises(BadRequest) as caught:
                enroller.enroll(helpers.encode(message))
            assert caught.value.path == f"evidence.runtime_data.{name}"

    @pytest.mark.parametrize(
        "body", [b"", b"{}", b"[]", b"\xff", b'{"evidence":1,"evidence":2}', b"{" * 5000]
    )
    def test_the_body_is_json(self, enroller, body):
        with pytest.raises(BadRequest):
            enroller.enroll(body)


class TestActivation:
    def test_a_wrong_answer_ends_the_enrolment(self, store, enroller, tpm, boot, helpers, fresh):
        enrollment_id, good = helpers.answer(tpm, enroller.enroll(fresh(tpm, boot)).body)
        wrong = json.dumps({"secrets": [b64url(bytes(32))]}).encode()
        error = refusal(enroller.activate, enrollment_id, wrong)
        assert error.rule == "activation.secret"
        assert trace_of(store, error.decision_id).refusal.rule == "activation.secret"
        assert enroller.state(enrollment_id).state == "refused"
        assert refusal(enroller.activate, enrollment_id, good).rule == "activation.open"
        assert rows(store)["certificates"] == 0

    def test_a_wrong_answer_takes_nothing_from_an_issued_one(self, enroller, tpm, boot, helpers, fresh):
        enrollment_id, good = helpers.answer(tpm, enroller.enroll(fresh(tpm, boot)).body)
        first = enroller.activate(enrollment_id, good)
        wrong = json.dumps({"secrets": [b64url(bytes(32))]}).encode()
        assert refusal(enroller.activate, enrollment_id, wrong).rule == "activation.secret"
        assert enroller.activate(enrollment_id, good) == first

    def test_the_number_of_secrets_counts(self, enroller, tpm, boot, helpers, fresh):
        enrollment_id, good = helpers.answer(tpm, enroller.enroll(fresh(tpm, boot)).body)
        twice = json.dumps({"secrets": json.loads(good)["secrets"] * 2}).encode()
        assert refusal(enroller.activate, enrollment_id, twice).rule == "activation.secret"

    def test_malformed_answers_end_nothing(self, enroller, tpm, boot, helpers, fresh):
        enrollment_id, good = helpers.answer(tpm, enroller.enroll(fresh(tpm, boot)).body)
        with pytest.raises(BadRequest):
            enroller.activate(enrollment_id, b"{}")
        assert enroller.activate(enrollment_id, good)

    def test_unknown_enrolments_are_not_found(self, enroller):
        with pytest.raises(NotFound):
            enroller.activate("nowhere", json.dumps({"secrets": [b64url(bytes(32))]}).encode())
        with pytest.raises(NotFound):
            enroller.state("nowhere")

    def test_too_late(self, world, enroller, tpm, boot, helpers, fresh):
        enrollment_id, good = helpers.answer(tpm, enroller.enroll(fresh(tpm, boot)).body)
        world.later(minutes=11)
        assert enroller.state(enrollment_id).state == "expired"
        error = refusal(enroller.activate, enrollment_id, good)
        assert (error.rule, error.retryable) == ("activation.unexpired", True)

    def test_secrets_are_derived_per_enrolment_and_never_stored(
        self, world, store, enroller, tpm, boot, helpers, fresh
    ):
        answers = [helpers.answer(tpm, enroller.enroll(fresh(tpm, boot)).body)[1] for _ in range(2)]
        assert answers[0] != answers[1]
        enrollment_id, body = helpers.answer(tpm, enroller.enroll(fresh(tpm, boot)).body)
        enroller.activate(enrollment_id, body)
        store.close()
        secret = enroller.desk.activation_secrets(enrollment_id, 1)[0]
        raw = b"".join(p.read_bytes() for p in world.directory.glob("ca.sqlite3*"))
        for form in (secret, secret.hex().encode(), b64url(secret).encode()):
            assert form not in raw

    def test_the_policy_of_now_decides(self, world, store, enroller, tpm, boot, helpers, fresh):
        enrollment_id, good = helpers.answer(tpm, enroller.enroll(fresh(tpm, boot)).body)
        world.apply(store, world.policy(status="suspended"))
        error = refusal(enroller.activate, enrollment_id, good)
        assert error.rule == "kbs.status"
        assert trace_of(store, error.decision_id).refusal.rule == "kbs.status"
        assert rows(store)["certificates"] == 0

    def test_a_policy_that_still_admits_is_the_one_recorded(
        self, world, store, enroller, tpm, boot, helpers, fresh
    ):
        enrollment_id, good = helpers.answer(tpm, enroller.enroll(fresh(tpm, boot)).body)
        world.apply(store, world.policy().replace("max_age_s = 3600", "max_age_s = 3599"))
        reply = CertificatesReply.parse(enroller.activate(enrollment_id, good))
        with store.read() as tx:
            assert tx.decisions.get(reply.decision_id).policy_version == 2
            assert tx.decisions.get(reply.decision_id).stage == "activate"

    def test_pending_enrolments_reserve_nothing(self, enroller, tpms, boot, helpers, fresh):
        first = helpers.answer(tpms(0), enroller.enroll(fresh(tpms(0), boot)).body)
        second = helpers.answer(tpms(1), enroller.enroll(fresh(tpms(1), boot)).body)
        enroller.activate(*second)
        assert refusal(enroller.activate, *first).rule == "ledger.instance-occupied"


class TestLedger:
    def test_another_tpm_in_the_instance(self, world, store, enroller, tpms, boot, helpers, fresh):
        helpers.issue(world, enroller, tpms(0), boot)
        assert refusal(enroller.enroll, fresh(tpms(1), boot)).rule == "ledger.instance-occupied"
        assert alarms(store) == []

    def test_the_same_tpm_in_another_instance_raises_an_alarm(
        self, world, store, enroller, tpm, boot, helpers, fresh
    ):
        helpers.issue(world, enroller, tpm, boot)
        copy = replace(boot, resource="default/vtpm/guest-b", secret=bytes(32))
        error = refusal(enroller.enroll, fresh(tpm, copy))
        assert error.rule == "ledger.key-unique"
        assert "guest-a" not in error.detail
        assert alarms(store) == ["clone"]

    def test_the_same_secret_in_another_resource_raises_an_alarm(
        self, world, store, enroller, tpms, boot, helpers, fresh
    ):
        helpers.issue(world, enroller, tpms(0), boot)
        error = refusal(enroller.enroll, fresh(tpms(1), replace(boot, resource="default/vtpm/guest-b")))
        assert error.rule == "ledger.key-id-unique"
        assert alarms(store) == ["clone"]

    def test_a_rolled_back_store(self, world, enroller, tpm, boot, helpers, fresh):
        helpers.issue(world, enroller, tpm, replace(boot, counter=9))
        assert enroller.enroll(fresh(tpm, replace(boot, counter=9))).status == 200
        assert refusal(enroller.enroll, fresh(tpm, replace(boot, counter=8))).rule == "ledger.counter"

    @pytest.mark.parametrize("seen", [3, 2**63 - 1, 2**64, 10**38, 2**127, 2**128 - 2, 2**128 - 1])
    def test_a_counter_may_start_anywhere_and_goes_round(
        self, world, store, enroller, tpm, boot, helpers, fresh, seen
    ):
        def counted(step):
            return fresh(tpm, replace(boot, counter=(seen + step) % 2**128))

        helpers.issue(world, enroller, tpm, replace(boot, counter=seen))
        for back in (-1, -5, -(2**127)):
            assert refusal(enroller.enroll, counted(back)).rule == "ledger.counter"
        for forth in (0, 1, 5, 2**127 + 4):
            assert enroller.enroll(counted(forth)).status == 200
        assert refusal(enroller.enroll, counted(5)).rule == "ledger.counter"
        with store.read() as tx:
            assert tx.ledger.occupant(1).counter == (seen + 2**127 + 4) % 2**128

    def test_two_states_with_one_counter(self, world, store, enroller, tpm, boot, helpers, fresh):
        def twin(data):
            return replace(data, store=replace(data.store, root=bytes(32)))

        helpers.issue(world, enroller, tpm, replace(boot, counter=9))
        error = refusal(enroller.enroll, fresh(tpm, replace(boot, counter=9, change=twin)))
        assert error.rule == "ledger.counter"
        (no,) = (f for f in trace_of(store, error.decision_id).findings if f.rule == "ledger.counter")
        assert no.actual == f"root {bytes(32).hex()}"
        assert enroller.enroll(fresh(tpm, replace(boot, counter=9))).status == 200
        assert enroller.enroll(fresh(tpm, replace(boot, counter=10, change=twin))).status == 200
        assert refusal(enroller.enroll, fresh(tpm, replace(boot, counter=10))).rule == "ledger.counter"

    def test_a_revoked_tpm_waits_for_the_reset(self, world, store, enroller, tpm, boot, helpers, fresh):
        desk = enroller.desk
        reply = CertificatesReply.parse(helpers.issue(world, enroller, tpm, boot))
        serial = f"{x509.load_der_x509_certificate(reply.iak.certificate).serial_number:x}".zfill(34)
        revoke(
            store, world.authority, serial, at=desk.now(), reason="keyCompromise", cause="test", limits=desk.limits
        )  # fmt: skip
        assert refusal(enroller.enroll, fresh(tpm, boot)).rule == "ledger.not-revoked"
        reset_instance(
            store, world.authority, "org-kbs", boot.resource, at=desk.now(), cause="test", limits=desk.limits
        )
        again = CertificatesReply.parse(helpers.issue(world, enroller, tpm, boot))
        assert again.ek[0].certificate != reply.ek[0].certificate

    def test_a_reset_revokes_publishes_and_makes_room(self, world, store, enroller, tpms, boot, helpers):
        desk = enroller.desk
        reply = CertificatesReply.parse(helpers.issue(world, enroller, tpms(0), boot))
        arguments = (store, world.authority, "org-kbs", boot.resource)
        ended = reset_instance(*arguments, at=desk.now(), cause="disk lost", limits=desk.limits)
        assert {row.profile for row in ended} == {"ek", "iak", "idevid"}
        for role, entry in (("ek", reply.ek[0]), ("devid", reply.iak), ("devid", reply.idevid)):
            with store.read() as tx:
                latest = tx.crls.latest(world.authority.issuer(role).skid)
            assert latest.number == 2
            serial = x509.load_der_x509_certificate(entry.certificate).serial_number
            revoked = x509.load_der_x509_crl(latest.der).get_revoked_certificate_by_serial_number(serial)
            assert revoked is not None
        with pytest.raises(NotFound):
            reset_instance(*arguments, at=desk.now(), cause="again", limits=desk.limits)
        helpers.issue(world, enroller, tpms(1), boot)

    def test_a_reset_never_lets_a_key_move(self, world, store, enroller, tpm, boot, helpers, fresh):
        desk = enroller.desk
        helpers.issue(world, enroller, tpm, boot)
        reset_instance(
            store, world.authority, "org-kbs", boot.resource, at=desk.now(), cause="test", limits=desk.limits
        )
        moved = replace(boot, resource="default/vtpm/guest-b", secret=bytes(32))
        assert refusal(enroller.enroll, fresh(tpm, moved)).rule == "ledger.key-unique"

    def test_shared_resources_are_told_apart_by_their_salt(
        self, world, store, enroller, tpms, boot, helpers, fresh
    ):
        world.apply(store, world.policy(shared="true"))
        helpers.issue(world, enroller, tpms(0), boot)
        helpers.issue(world, enroller, tpms(1), replace(boot, salt=b"\x01" * 16))
        assert refusal(enroller.enroll, fresh(tpms(2), boot)).rule == "ledger.instance-occupied"

    def test_a_known_ek_keeps_its_certificate_byte_for_byte(self, world, enroller, tpms, boot, helpers):
        first = CertificatesReply.parse(helpers.issue(world, enroller, tpms(0), boot))
        swapped = replace(
            boot, change=lambda d: replace(d, tpm=replace(d.tpm, iak=tpms(2).iak, idevid=tpms(2).idevid))
        )
        nonce = enroller.new_nonce().nonce
        data = world.runtime_data(nonce, tpms(0), swapped)
        hybrid = helpers.SoftTpm.__new__(helpers.SoftTpm)
        vars(hybrid).update(vars(tpms(2)) | {"ek": tpms(0).ek, "_ek": tpms(0)._ek})
        assert data.tpm.eks == hybrid.statement().eks
        second = CertificatesReply.parse(helpers.issue(world, enroller, hybrid, boot))
        assert second.ek[0].certificate == first.ek[0].certificate
        assert second.iak.certificate != first.iak.certificate
        digest = hashlib.sha256(first.ek[0].certificate).hexdigest().encode()
        assert digest in second.iak.certificate


class TestRecovery:
    def test_a_failed_signature_abandons_at_once_and_the_retry_succeeds(
        self, world, store, tpm, boot, helpers
    ):
        failing = True

        def fault(point: str) -> None:
            if failing and point == "after signing iak":
                raise RuntimeError("the signer broke")

        enroller = world.enroller(store, fault)
        enroller.recover()
        enrollment_id, good = helpers.answer(
            tpm, enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, boot)).body
        )
        with pytest.raises(RuntimeError):
            enroller.activate(enrollment_id, good)
        with store.read() as tx:
            assert tx.intents.open() == []
            abandoned = tx.certificates.latest(state=CertificateState.ABANDONED)
            assert len(abandoned) == 3
            for row in abandoned:
                crl = x509.load_der_x509_crl(tx.crls.latest(row.issuer).der)
                assert crl.get_revoked_certificate_by_serial_number(int(row.serial, 16)) is not None
            assert tx.ledger.occupant(1) is None
        failing = False
        reply = CertificatesReply.parse(enroller.activate(enrollment_id, good))
        serial = x509.load_der_x509_certificate(reply.ek[0].certificate).serial_number
        assert serial not in {int(row.serial, 16) for row in abandoned}

    def test_recovery_leaves_living_processes_alone(self, world, store, tpm, boot, helpers):
        seen = []

        def fault(point: str) -> None:
            if point == "before signing ek":
                other = world.enroller(store)
                seen.append(other.recover())

        enroller = world.enroller(store, fault)
        assert helpers.issue(world, enroller, tpm, boot)
        assert seen == [0]

    def test_a_reset_during_an_issuance_wins(self, world, store, tpm, boot, helpers):
        def fault(point: str) -> None:
            if point == "after signing idevid":
                desk = enroller.desk
                reset_instance(
                    store, world.authority, "org-kbs", boot.resource, at=desk.now(), cause="t", limits=desk.limits
                )  # fmt: skip

        enroller = world.enroller(store, fault)
        with pytest.raises(Exception, match="abandoned"):
            helpers.issue(world, enroller, tpm, boot)
        with store.read() as tx:
            assert tx.certificates.latest(state=CertificateState.ISSUED) == []
            assert len(tx.revocations.of_issuer(world.authority.issuer("devid").skid)) == 2

    def test_crls_are_published_at_start_and_renewed_at_half_time(self, world, store, enroller):
        skid = world.authority.issuer("ek").skid
        with store.read() as tx:
            assert tx.crls.latest(skid).number == 1
        world.later(days=3)
        enroller.recover()
        with store.read() as tx:
            assert tx.crls.latest(skid).number == 1
        world.later(days=1)
        enroller.recover()
        with store.read() as tx:
            assert tx.crls.latest(skid).number == 2


def test_a_foreign_kbs_is_refused_and_the_list_stays_secret(enroller, tpm, boot, fresh):
    mallory = ec.generate_private_key(ec.SECP384R1())
    error = refusal(enroller.enroll, fresh(tpm, replace(boot, kbs=mallory)))
    assert error.rule == "kbs.listed"
    assert "org-kbs" not in error.detail


def test_challenges_are_for_the_eks_in_their_order(enroller, tpm, boot, fresh):
    reply = ChallengeReply.parse(enroller.enroll(fresh(tpm, boot)).body)
    assert len(reply.challenges) == 1


def _challenged(world, store, enroller, policy, body, tpm, helpers):
    """Get a challenge under a policy; returns what answers it."""
    world.apply(store, policy)
    reply = enroller.enroll(body)
    assert reply.status == 201
    return helpers.answer(tpm, reply.body)


def test_a_broker_whose_time_is_over_before_the_answer(world, store, enroller, tpm, boot, helpers, fresh):
    end = (world.time + timedelta(minutes=5)).isoformat()
    policy = world.policy().replace('status = "trusted"', f'status = "trusted"\nvalid_to = {end}')
    enrollment_id, answer = _challenged(world, store, enroller, policy, fresh(tpm, boot), tpm, helpers)
    world.later(minutes=6)
    assert refusal(enroller.activate, enrollment_id, answer).rule == "kbs.valid"


def test_a_floor_that_holds_from_before_the_answer(world, store, enroller, tpm, boot, helpers, fresh):
    policy = world.policy()
    floor = policy[policy.index("[[platform.tcb]]") :].partition("\n\n")[0].replace("snp = 27", "snp = 28")
    from_ = (world.time + timedelta(minutes=5)).isoformat()
    policy += "\n" + floor.replace('product = "Milan"', f'product = "Milan"\nfrom = {from_}')
    enrollment_id, answer = _challenged(world, store, enroller, policy, fresh(tpm, boot), tpm, helpers)
    world.later(minutes=6)
    assert refusal(enroller.activate, enrollment_id, answer).rule == "platform.reported-tcb"


def test_a_stored_policy_that_cannot_be_read_is_not_told_to_the_requester(
    world, store, enroller, tpm, boot, fresh
):
    text = world.policy().replace('capabilities = ["verifies-grants", "reports-state"]', "capabilities = 1")
    with store.write() as tx:
        tx.policies.append("00" * 32, text, world.time, "another release")
    with pytest.raises(VtpmCaError) as error:
        enroller.enroll(fresh(tpm, boot))
    assert (type(error.value), error.value.code) == (Unavailable, "policy")
    assert "launch" not in error.value.detail
