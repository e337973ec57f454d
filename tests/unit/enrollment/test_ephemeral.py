"""Ephemeral certificates: for evidence without a persistent store; for few days and one launch, binding nothing."""

import json
from dataclasses import dataclass, replace
from datetime import timedelta

import amd_guest
import invariants
import pytest
from amd_guest import DAYS, Guest
from cryptography import x509

from ca_service.enrollment import reset_instance, revoke
from ca_service.enrollment.claim import spki_of
from ca_service.enrollment.submission import Submission
from ca_service.evidence.snp import simulated_roots
from ca_service.judgment import BadRequest, Record, Refused, Trace, UnsafeSkip, Verdict
from ca_service.operations.audit import audit_ca
from ca_service.policy import load
from ca_service.profiles import oids, serial_hex, structures
from ca_service.store import BlockedKeyRow, check_invariants
from vtpm.wire.amd_evidence import SERVICES_PROFILE, VTPM_PROFILE
from vtpm.wire.encoding import unb64url
from vtpm.wire.jwk import EcJwk
from vtpm.wire.runtime_data import PROFILE, StoreStatement

EPHEMERAL_ONLY = [("ephemeral", 1)] * 3
LASTING = [("ek", 1), ("devid", 1), ("devid", 1)]
UNSAFE = '[[unsafe]]\nname = "UnsafeAllowVolatileStore"\ngives_up = "anything that outlives a boot"\n'


def volatile(data):
    """What an SVSM states whose TPM dies with this boot."""
    return replace(
        data, store=StoreStatement("volatile", "none", b"", "this-boot", data.store.key_id, 0, b"")
    )


@dataclass(frozen=True)
class Way:
    """A kind of evidence that earns an ephemeral certificate."""

    profile: str

    def __str__(self) -> str:
        return self.profile

    def request(self, world, enroller, tpm, helpers, *, certify: bool = True):
        if self.profile == PROFILE:
            boot = helpers.Boot(change=volatile, certify=certify)
            return world.request(enroller.new_nonce().nonce, tpm, boot)
        made = Guest(world, enroller, tpm).request(self.profile)
        return made if certify else replace(made, certify=None)


WAYS = [Way(SERVICES_PROFILE), Way(VTPM_PROFILE), Way(PROFILE)]
one_way = pytest.mark.parametrize("way", WAYS[:1], ids=str, indirect=True)


@pytest.fixture(params=WAYS, ids=str)
def way(request):
    return request.param


@pytest.fixture
def tpm(tpms):
    return tpms(0)


@pytest.fixture
def store(world, store):
    world.apply(store, amd_guest.policy(world, volatile=True))
    return store


@pytest.fixture
def enrol(world, enroller, tpm, helpers, way):
    """Enrols once; the answer's status and body."""

    def once(tpm=tpm, *, certify=True, way=way):
        reply = enroller.enroll(helpers.encode(way.request(world, enroller, tpm, helpers, certify=certify)))
        if reply.status == 200:
            return reply.status, reply.body
        return reply.status, enroller.activate(*helpers.answer(tpm, reply.body))

    return once


def refused(call, *arguments, **options) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*arguments, **options)
    return caught.value


def failed(trace: Trace) -> list[str]:
    return [finding.rule for finding in trace.findings if finding.verdict is Verdict.FAILED]


def refused_by(store, error: Refused) -> list[str]:
    with store.read() as tx:
        return failed(Record.parse(tx.decisions.get(error.decision_id).trace).trace)


def count(store, table: str) -> int:
    with store.read() as tx:
        return tx.connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar()  # noqa: S608 - our tables


def states(store) -> dict[str, int]:
    with store.read() as tx:
        found = [row.state.value for row in tx.certificates.latest()]
    return {state: found.count(state) for state in sorted(set(found))}


def alarms(store):
    with store.read() as tx:
        return tx.alarms.latest()


def instance(store):
    """The only one."""
    with store.read() as tx:
        (row,) = tx.ledger.instances()
    return row


class TestWhatIsIssued:
    def test_three_certificates_of_the_ephemeral_ca(self, world, store, enrol, helpers):
        status, reply = enrol()
        assert status == 201
        assert helpers.signers(world.authority, reply) == EPHEMERAL_ONLY
        ca = world.authority.issuer("ephemeral")
        for entry in helpers.CertificatesReply.parse(reply).entries:
            assert entry.chain == world.authority.chain(ca)
        for certificate in helpers.certificates(reply):
            life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
            assert life == timedelta(days=DAYS)
            assert certificate.not_valid_before_utc == world.time

    def test_an_audit_finds_it_in_order(self, world, store, enrol):
        enrol()
        assert audit_ca(world.authority, store).counts == {}

    @one_way
    @pytest.mark.parametrize("days", [1, 7])
    def test_the_policy_says_for_how_long(self, world, store, enrol, helpers, days):
        world.apply(store, amd_guest.policy(world, volatile=True, days=days))
        for certificate in helpers.certificates(enrol()[1]):
            life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
            assert life == timedelta(days=days)

    def test_never_for_more_than_a_week(self, world):
        with pytest.raises(BadRequest) as caught:
            load(amd_guest.policy(world, days=8))
        assert caught.value.path == "ephemeral.days"

    def test_they_say_what_vouched(self, world, store, enrol, way, helpers):
        """Without a grant there is no key broker to name, and a certificate does not invent one."""
        reply = helpers.CertificatesReply.parse(enrol()[1])
        for entry in reply.entries:
            certificate = x509.load_der_x509_certificate(entry.certificate)
            raw = certificate.extensions.get_extension_for_oid(oids.PROVENANCE).value.value
            common = {
                "evidence_profile": way.profile,
                "measurement": world.launch.measurement,
                "policy_digest": bytes.fromhex(load(amd_guest.policy(world, volatile=True)).digest),
                "decision_id": reply.decision_id,
            }
            if way.profile == VTPM_PROFILE:
                value = structures.decode(structures.UngrantedProvenanceValue, raw)
                assert vars_of(value) == {"version": 2, **common}
            else:
                value = structures.decode(structures.ProvenanceValue, raw)
                thumbprint = unb64url(EcJwk.from_key(world.kbs.public_key()).thumbprint(), "jwk", size=32)
                granted = {"kbs_thumbprint": thumbprint, "resource": helpers.Boot().resource}
                assert vars_of(value) == {"version": 1, **common, **granted}

    def test_nothing_is_bound_for_good(self, world, store, enrol, tpm):
        enrol()
        assert (count(store, "tpm_keys"), count(store, "key_ids")) == (0, 0)
        row = instance(store)
        assert row.kbs_id == "ephemeral:"
        assert row.resource.split("/")[:2] == ["ephemeral", world.launch.report_id.hex()]
        with store.read() as tx:
            assert tx.ledger.occupant(row.id).report_id == world.launch.report_id.hex()


def vars_of(value) -> dict[str, object]:
    return {name: getattr(value, name) for name in type(value).__annotations__}


class TestWhoItIs:
    def test_the_same_tpm_in_the_same_launch_gets_what_is_stored(self, store, enrol, helpers):
        _, first = enrol()
        status, again = enrol(certify=False)
        assert status == 200
        assert helpers.ders(again) == helpers.ders(first)
        assert states(store) == {"issued": 3}

    def test_another_launch_gets_certificates_of_its_own(self, world, store, enrol, helpers):
        _, first = enrol()
        world.launch = world.platform.launch([(0x1000 * i, bytes([i]) * 4096) for i in range(2)])
        assert refused(enrol, certify=False).code == "certify-required"
        status, second = enrol()
        assert status == 201
        assert not set(helpers.ders(first)) & set(helpers.ders(second))
        assert [c.public_key() for c in helpers.certificates(first)] == [
            c.public_key() for c in helpers.certificates(second)
        ]
        assert states(store) == {"issued": 6}
        assert alarms(store) == []
        # Neither what `db check` asks nor what the tests of disasters ask calls that broken.
        with store.read() as tx:
            assert check_invariants(tx, world.time) == []
        invariants.assert_hold(world.url, world.authority.directory)

    @one_way
    def test_another_tpm_in_the_same_launch_too(self, store, enrol, tpms):
        enrol()
        assert enrol(tpms(1))[0] == 201
        assert states(store) == {"issued": 6}
        assert (count(store, "instances"), alarms(store)) == (2, [])

    @one_way
    def test_a_second_ek_makes_it_another_tpm_in_the_same_place(self, store, enrol, tpm, tpm_of):
        """The first EK names the instance; who brings other EKs beside it is not the one who lives there."""
        enrol()
        extended = tpm_of(("L-1", "L-2"))
        extended.ek, extended._ek, extended.iak, extended._iak = tpm.ek, tpm._ek, tpm.iak, tpm._iak
        extended.idevid, extended._idevid = tpm.idevid, tpm._idevid
        with store.write() as tx:
            text = tx.policies.in_force(instance(store).created_at).text.replace(
                'ek = ["L-1"]', 'ek = ["L-1", "L-2"]'
            )
            tx.policies.append(load(text).digest, text, instance(store).created_at, "tests")
        assert refused_by(store, refused(enrol, extended)) == ["ledger.instance-occupied"]


class TestPersistentTpms:
    def test_their_keys_get_nothing_ephemeral(self, world, store, enroller, enrol, tpm, helpers):
        helpers.issue(world, enroller, tpm)
        error = refused(enrol)
        assert refused_by(store, error) == ["ledger.key-unique"]
        assert states(store) == {"issued": 3}
        (alarm,) = alarms(store)
        detail = json.loads(alarm.detail)
        assert alarm.kind == "clone"
        assert detail["newcomer"]["kbs"] == "ephemeral:"
        assert [holder["resource"] for holder in detail["holders"]] == [helpers.Boot().resource]

    @one_way
    @pytest.mark.parametrize("taken", ["iak", "idevid"])
    def test_nor_does_any_single_key_of_theirs(
        self, world, store, enroller, enrol, tpms, tpm_of, helpers, taken
    ):
        helpers.issue(world, enroller, tpms(0))
        hybrid = tpm_of()
        setattr(hybrid, taken, getattr(tpms(0), taken))
        setattr(hybrid, f"_{taken}", getattr(tpms(0), f"_{taken}"))
        assert refused_by(store, refused(enrol, hybrid)) == ["ledger.key-unique"]

    def test_ephemeral_certificates_keep_nobody_out(self, world, store, enroller, enrol, tpm, helpers):
        """Weaker evidence came first; the key becomes the persistent instance's, and from then on its alone."""
        enrol()
        reply = helpers.issue(world, enroller, tpm)
        assert helpers.signers(world.authority, reply) == LASTING
        assert alarms(store) == []
        assert states(store) == {"issued": 6}
        assert refused_by(store, refused(enrol, certify=False)) == ["ledger.key-unique"]


class TestTheEnd:
    def test_is_not_near_in_the_first_two_thirds(self, world, enrol, helpers):
        _, first = enrol()
        world.later(hours=2 * 24 * DAYS // 3 - 1)
        status, again = enrol(certify=False)
        assert (status, helpers.ders(again)) == (200, helpers.ders(first))

    @one_way
    @pytest.mark.parametrize("days", [2 * DAYS // 3, DAYS, 5 * DAYS])
    def test_near_it_and_after_it_all_are_made_anew(self, world, store, enrol, helpers, days):
        _, first = enrol()
        world.later(days=days)
        assert refused(enrol, certify=False).code == "certify-required"
        status, second = enrol()
        assert status == 201
        assert helpers.signers(world.authority, second) == EPHEMERAL_ONLY
        assert not set(helpers.ders(first)) & set(helpers.ders(second))
        assert {c.not_valid_after_utc for c in helpers.certificates(second)} == {
            world.time + timedelta(days=DAYS)
        }
        assert states(store) == {"issued": 3, "superseded": 3}
        # To replace what lives for days is no event that an operator must look at.
        assert alarms(store) == []

    @one_way
    def test_a_revoked_one_waits_for_the_reset(self, world, store, enroller, enrol, helpers):
        serial = serial_hex(helpers.certificates(enrol()[1])[0].serial_number)
        at, limits = world.time, enroller.desk.limits
        revoke(store, world.authority, serial, at=at, reason="keyCompromise", cause="t", limits=limits)
        assert refused_by(store, refused(enrol)) == ["ledger.not-revoked"]
        reset_instance(
            store, world.authority, "ephemeral:", instance(store).resource, at=at, cause="t", limits=limits
        )
        assert enrol()[0] == 201


@pytest.mark.parametrize("way", WAYS[1:], ids=str, indirect=True)
class TestOnEveryDatabase:
    """Identifiers of ephemeral instances and keys are longer than others."""

    @pytest.fixture
    def database_url(self, database: str) -> str:
        return database

    def test_issued_returned_and_reset(self, world, store, enrol, helpers):
        _, first = enrol()
        assert enrol(certify=False)[0] == 200
        who = {"kbs": "ephemeral:", "resource": instance(store).resource}
        assert not helpers.operate(world, store, "instance-reset", **who)["done"]
        assert states(store) == {"issued": 3}
        gone = helpers.operate(world, store, "instance-reset", **who, cause="over", yes=True)
        assert {row["profile"] for row in gone["revoked"]} == {"ek", "iak", "idevid"}
        assert states(store) == {"revoked": 3}
        with store.read() as tx:
            crl = x509.load_der_x509_crl(tx.crls.latest(world.authority.issuer("ephemeral").skid).der)
            others = [tx.crls.latest(world.authority.issuer(role).skid) for role in ("ek", "devid")]
        for certificate in helpers.certificates(first):
            assert crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
        assert [row.number for row in others] == [1, 1]
        assert enrol()[0] == 201
        assert states(store) == {"issued": 3, "revoked": 3}


class TestTheVolatileDowngrade:
    """The host withholds the disk, so the SVSM works with a TPM that dies with the boot, and says so."""

    STOPS = ("store.persistent", "store.format")

    @pytest.fixture(params=[Way(PROFILE)], ids=str)
    def way(self, request):
        return request.param

    @pytest.fixture
    def strict(self, world, store):
        """A policy that admits AMD's profiles and no volatile stores."""
        world.apply(store, amd_guest.policy(world))

    def submission(self, world, enroller, tpm, helpers, way):
        return Submission.parse(helpers.encode(way.request(world, enroller, tpm, helpers)))

    @pytest.mark.usefixtures("strict")
    def test_is_stopped_by_mode_and_format(self, store, enrol):
        assert refused_by(store, refused(enrol)) == list(self.STOPS)
        assert (count(store, "instances"), states(store)) == (0, {})

    def test_each_is_enough_and_nothing_else_is(self, world, enroller, tpm, helpers, way):
        submission = self.submission(world, enroller, tpm, helpers, way)
        policy, at = load(amd_guest.policy(world)), enroller.desk.now()
        for left in (self.STOPS, self.STOPS[:1], self.STOPS[1:], ()):
            off = {rule: UnsafeSkip(rule) for rule in self.STOPS if rule not in left}
            trace = enroller.desk.judge.with_replaced(off).decide(submission, policy, at, certify=True)
            assert failed(trace) == list(left)
            assert trace.admitted == (not left)

    @pytest.mark.parametrize("how", ["checks off", "admitted", "unsafe entry"])
    def test_with_both_off_it_succeeds_and_gains_ephemeral_certificates(
        self, world, store, enroller, tpm, helpers, way, how
    ):
        texts = {
            "checks off": amd_guest.policy(world),
            "admitted": amd_guest.policy(world, profiles=(), volatile=True),
            "unsafe entry": amd_guest.policy(world, profiles=(), extra=UNSAFE),
        }
        world.apply(store, texts[how])
        if how == "checks off":
            off = {rule: UnsafeSkip(rule) for rule in self.STOPS}
            enroller = world.enroller(store, judge=enroller.desk.judge.with_replaced(off))
        reply = enroller.enroll(helpers.encode(way.request(world, enroller, tpm, helpers)))
        issued = enroller.activate(*helpers.answer(tpm, reply.body))
        assert helpers.signers(world.authority, issued) == EPHEMERAL_ONLY
        assert (count(store, "tpm_keys"), count(store, "key_ids")) == (0, 0)

    def test_of_a_tpm_that_is_certified_gains_nothing_at_all(
        self, world, store, enroller, enrol, tpm, helpers
    ):
        helpers.issue(world, enroller, tpm)
        assert refused_by(store, refused(enrol, certify=False)) == ["ledger.key-unique"]
        assert (
            enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, helpers.Boot(certify=False))).status
            == 200
        )

    def test_leaves_the_instance_to_the_persistent_tpm(self, world, store, enroller, enrol, tpms, helpers):
        """The replacement was certified ephemerally under the same grant; the true TPM comes back and is at home."""
        helpers.issue(world, enroller, tpms(0))
        assert enrol(tpms(1))[0] == 201
        nonce = enroller.new_nonce().nonce
        assert enroller.enroll(world.body(nonce, tpms(0), helpers.Boot(certify=False))).status == 200
        assert alarms(store) == []

    def test_a_production_ca_takes_no_policy_that_gives_the_rules_up(self, world, store, helpers):
        before = count(store, "policies")
        world.authority = replace(world.authority, mode="production")
        with pytest.raises(BadRequest) as caught:
            helpers.operate(
                world, store, "policy-apply", text=amd_guest.policy(world, profiles=(), extra=UNSAFE)
            )
        assert caught.value.code == "policy-unsafe"
        assert count(store, "policies") == before

    def test_and_admits_nothing_if_it_has_one_all_the_same(self, world, store, enroller, tpm, helpers, way):
        text = amd_guest.policy(world, profiles=(), extra=UNSAFE)
        world.apply(store, text)
        # Only so can the evidence of a simulated platform come as far as the policy.
        judge = replace(enroller.desk.judge, mode="production", roots=simulated_roots())
        producing = world.enroller(store, judge=judge)
        body = helpers.encode(way.request(world, producing, tpm, helpers))
        found = refused_by(store, refused(producing.enroll, body))
        assert set(found) == {"policy.mode", "launch.simulated", *self.STOPS}
        submission = Submission.parse(body)
        off = {rule: UnsafeSkip(rule) for rule in ("policy.mode", "launch.simulated")}
        trace = judge.with_replaced(off).decide(submission, load(text), world.time, certify=True)
        assert failed(trace) == list(self.STOPS)


@one_way
def test_a_blocked_key_gets_no_ephemeral_certificate_either(world, store, enrol, tpm):
    with store.write() as tx:
        tx.blocked_keys.add(BlockedKeyRow(spki_of(tpm.iak.public), world.time, "tests", "weak"))
    assert refused_by(store, refused(enrol)) == ["key.not-blocked"]
