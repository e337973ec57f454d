"""What keeps an instance, a nonce or a key from being used more than it may."""

import json
from dataclasses import replace

import enrollment_world as w
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca_service.enrollment import Enroller, Limits, reset_instance
from ca_service.enrollment.nonces import FRESH_S, NonceKeys
from ca_service.judgment import Refused, TooMany
from ca_service.store import BlockedKeyRow, EpochRow, schema, spki_digest
from vtpm.wire.templates import parse_public


@pytest.fixture
def tpm(tpms):
    return tpms(0)


@pytest.fixture
def boot(helpers):
    return helpers.Boot(certify=True)


def refusal(call, *arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return caught.value


def decisions(store) -> int:
    with store.read() as tx:
        return len(tx.decisions.latest(1000))


def reset(world, enroller) -> None:
    desk = enroller.desk
    instance = ("org-kbs", w.RESOURCE)
    reset_instance(desk.store, world.authority, *instance, at=desk.now(), cause="moved", limits=desk.limits)


def no_signature(point: str) -> None:
    if "sign" in point:
        raise RuntimeError(point)


class TestInstanceLimit:
    @pytest.fixture
    def enroller(self, enroller):
        return Enroller(replace(enroller.desk, limits=Limits(instance_enrolments=3)))

    def test_an_instance_may_enrol_so_often_in_an_hour(self, world, store, enroller, tpm, helpers):
        for _ in range(3):
            helpers.issue(world, enroller, tpm)
            world.later(minutes=10)
        before = decisions(store)
        body = world.body(enroller.new_nonce().nonce, tpm)
        with pytest.raises(TooMany) as too_many:
            enroller.enroll(body)
        assert too_many.value.retry_after_s == 30 * 60
        assert decisions(store) == before
        world.later(minutes=30)
        assert refusal(enroller.enroll, body).rule == "nonce.unexpired"
        assert enroller.enroll(world.body(enroller.new_nonce().nonce, tpm)).status == 200

    def test_its_nonce_is_not_consumed(self, world, enroller, tpm, helpers):
        for _ in range(3):
            helpers.issue(world, enroller, tpm)
        world.later(minutes=58)
        body = world.body(enroller.new_nonce().nonce, tpm)
        with pytest.raises(TooMany):
            enroller.enroll(body)
        world.later(minutes=3)
        assert enroller.enroll(body).status == 200

    def test_a_reset_begins_a_new_allowance(self, world, enroller, tpms, helpers):
        for _ in range(3):
            helpers.issue(world, enroller, tpms(0))
        world.later(minutes=1)
        with pytest.raises(TooMany):
            enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0)))
        reset(world, enroller)
        world.later(minutes=1)
        for _ in range(3):
            helpers.issue(world, enroller, tpms(1))
        with pytest.raises(TooMany) as too_many:
            enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(1)))
        assert too_many.value.retry_after_s == 60 * 60

    def test_an_issuance_that_is_given_up_begins_none(self, world, store, enroller, tpms, helpers):
        """Whoever could have it given up again and again would have no limit."""
        enroller = Enroller(replace(enroller.desk, limits=Limits(instance_enrolments=3), faults=no_signature))
        body = world.body(enroller.new_nonce().nonce, tpms(0))
        answer = helpers.answer(tpms(0), enroller.enroll(body).body)
        for _ in range(2):
            enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0)))
        with pytest.raises(RuntimeError, match="sign"):
            enroller.activate(*answer)
        with store.read() as tx:
            (instance,) = tx.ledger.instances()
            (freed,) = tx.ledger.tpms(instance.id)
        assert freed.freed_at is not None
        with pytest.raises(TooMany):
            enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0)))

    def test_refusals_do_not_lock_the_owner_out(self, world, enroller, tpms, boot, helpers):
        helpers.issue(world, enroller, tpms(0), boot)
        for _ in range(5):
            body = world.body(enroller.new_nonce().nonce, tpms(1), boot)
            assert refusal(enroller.enroll, body).rule == "ledger.instance-occupied"
        assert enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0), boot)).status == 200

    def test_others_are_not_counted(self, world, enroller, tpms, helpers):
        for _ in range(3):
            helpers.issue(world, enroller, tpms(0))
        other = helpers.Boot(resource="default/vtpm/guest-b", secret=bytes(32))
        helpers.issue(world, enroller, tpms(1), other)


class TestEpochs:
    def begin(self, world, store, number: int, salt: str) -> None:
        with store.write() as tx:
            tx.epochs.begin(EpochRow(number, salt, world.time, "restored"))

    def test_a_nonce_does_not_outlive_its_epoch(self, world, store, enroller, tpm):
        """Also where the process has not noticed yet: the database is asked before anything is decided."""
        body = world.body(enroller.new_nonce().nonce, tpm)
        self.begin(world, store, 7, "ab" * 32)
        before = decisions(store)
        assert refusal(enroller.enroll, body).rule == "nonce.genuine"
        assert decisions(store) == before
        assert enroller.enroll(world.body(enroller.new_nonce().nonce, tpm)).status == 201

    def test_a_consumed_nonce_does_not_come_back(self, world, store, enroller, tpm):
        """As after the restore of a backup that is older than the nonce's use."""
        body = world.body(enroller.new_nonce().nonce, tpm)
        enroller.enroll(body)
        with store.write() as tx:
            for table in (schema.enrollments, schema.submissions):
                tx.connection.execute(table.delete())
        assert enroller.enroll(body).status == 201
        with store.write() as tx:
            for table in (schema.enrollments, schema.submissions):
                tx.connection.execute(table.delete())
        self.begin(world, store, 2, "cd" * 32)
        assert refusal(enroller.enroll, body).rule == "nonce.genuine"

    def test_the_salt_counts_not_the_number_alone(self, world, store):
        keys = []
        for salt in ("00" * 32, "01" * 32):
            with store.write() as tx:
                tx.connection.exec_driver_sql("DELETE FROM epochs")
                tx.epochs.begin(EpochRow(3, salt, world.time, "t"))
            keys.append(NonceKeys(store, lambda: b"root" * 8).current().key)
        assert keys[0] != keys[1]
        assert NonceKeys(store, lambda: b"toor" * 8).current().key not in keys

    def test_the_key_is_read_anew_in_time(self, world, store, enroller):
        clock = [0.0]
        keys = NonceKeys(store, lambda: bytes(32), monotonic=lambda: clock[0])
        first = keys.current()
        self.begin(world, store, first.epoch + 1, "11" * 32)
        assert keys.current() is first
        clock[0] += FRESH_S
        assert keys.current().epoch == first.epoch + 1


@pytest.mark.parametrize("which", ["ek", "iak", "idevid"])
def test_a_blocked_key_gets_nothing(world, store, enroller, tpm, which):
    key = parse_public(getattr(tpm, which).public).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with store.write() as tx:
        tx.blocked_keys.add(BlockedKeyRow(spki_digest(spki), world.time, "me", "found on the net"))
    error = refusal(enroller.enroll, world.body(enroller.new_nonce().nonce, tpm))
    assert error.rule == "key.not-blocked"
    assert "net" not in error.detail
    with store.write() as tx:
        assert tx.blocked_keys.remove(spki_digest(spki))
    assert enroller.enroll(world.body(enroller.new_nonce().nonce, tpm)).status == 201


def test_a_clone_alarm_shows_both_sides(world, store, enroller, tpm, helpers):
    boot = helpers.Boot()
    helpers.issue(world, enroller, tpm, boot)
    world.later(minutes=1)
    copy = replace(boot, resource="default/vtpm/guest-b", secret=bytes(32))
    error = refusal(enroller.enroll, world.body(enroller.new_nonce().nonce, tpm, copy))
    with store.read() as tx:
        (alarm,) = tx.alarms.latest()
        first = tx.decisions.last_admitted("org-kbs", boot.resource)
    detail = json.loads(alarm.detail)
    assert alarm.kind == "clone"
    assert alarm.decision_id == error.decision_id
    chip = world.launch.report(bytes(64), 0)[0x1A0:0x1E0].hex()
    assert detail["newcomer"]["resource"] == copy.resource
    assert detail["newcomer"]["chip_id"] == chip
    (holder,) = detail["holders"]
    assert (holder["kbs"], holder["resource"], holder["decision"]) == ("org-kbs", boot.resource, first.id)
    assert holder["chip_id"] == chip
    assert holder["at"] < detail["newcomer"]["at"]


def test_a_rollback_raises_an_alarm_of_its_own(world, store, enroller, tpm, helpers):
    helpers.issue(world, enroller, tpm, helpers.Boot(counter=9))
    refusal(enroller.enroll, world.body(enroller.new_nonce().nonce, tpm, helpers.Boot(counter=8)))
    with store.read() as tx:
        (alarm,) = tx.alarms.latest()
    assert alarm.kind == "rollback"
    assert json.loads(alarm.detail)["newcomer"]["counter"] == "8"


def test_volumes_under_a_shared_resource_are_counted_apart(world, store, enroller, tpms, helpers):
    world.apply(store, world.policy(shared="true"))
    enroller = Enroller(replace(enroller.desk, limits=Limits(instance_enrolments=2)))
    for index in range(3):
        helpers.issue(world, enroller, tpms(index), helpers.Boot(salt=bytes([index]) * 16))
    boot = helpers.Boot(salt=bytes(16))
    assert enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0), boot)).status == 200
    with pytest.raises(TooMany):
        enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0), boot))


def test_refusals_of_one_launch_are_kept_up_to_a_bound(world, store, enroller, tpms, helpers):
    enroller = Enroller(replace(enroller.desk, limits=Limits(refusals_at_once=3, refusals_per_hour=1)))
    for _ in range(3):
        assert refusal(
            enroller.enroll, world.body(enroller.new_nonce().nonce, tpms(0), helpers.Boot(certify=False))
        )
    before = decisions(store)
    with pytest.raises(TooMany) as too_many:
        enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0), helpers.Boot(certify=False)))
    assert too_many.value.retry_after_s > 60
    assert decisions(store) == before
    helpers.issue(world, enroller, tpms(0))
