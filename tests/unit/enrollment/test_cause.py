"""Revoking by cause, after real enrolments: all accepted evidence of a TPM counts, and nothing slips through."""

import copy
import itertools
from dataclasses import replace
from datetime import UTC, timedelta
from importlib import import_module

import amd_guest
import pytest
import sqlalchemy as sa
from cryptography import x509

from ca_service.audit.facts import altered_facts
from ca_service.enrollment import Grounds, Limits, reset_instance, revoke_by_cause
from ca_service.judgment import Refused, Unavailable
from ca_service.keys import ValidityRule
from ca_service.store import Cause, CertificateState, EvidenceFacts, check_invariants, schema
from vtpm.lab.allowlist import launch_entry
from vtpm.wire.amd_evidence import SERVICES_PROFILE, VTPM_PROFILE
from vtpm.wire.jwk import EcJwk

CAPABILITIES = ("verifies-grants", "reports-state")


@pytest.fixture
def database_url(database):
    """Every kind of database in turn."""
    return database


@pytest.fixture
def tpm(tpms):
    return tpms(0)


@pytest.fixture
def builds(world, store):
    """Launches of three builds of the SVSM, of which the policy admits two: "good", "bad" and "refused"."""
    made = {
        name: world.platform.launch([(0x1000, bytes([number]) * 4096)])
        for number, name in enumerate(("good", "bad", "refused"), 7)
    }
    entries = [launch_entry(name, made[name].measurement, CAPABILITIES) for name in ("good", "bad")]
    world.apply(store, world.policy(extra="".join(entries)))
    world.launch = made["good"]
    return made


@pytest.fixture
def boots(helpers):
    """Boots of one guest, each with the next counter; other guests by name."""
    counters = itertools.count(1)

    def boot(guest="a", **options):
        secret = guest.encode() * 32
        return helpers.Boot(f"default/vtpm/{guest}", secret, counter=next(counters), **options)

    return boot


@pytest.fixture
def revoke(world, store, helpers):
    """Does what an operator does; what is not said is a dry run."""
    return lambda **arguments: helpers.operate(world, store, "revoke", **arguments)


def states(store) -> dict[str, int]:
    with store.read() as tx:
        found = [row.state for row in tx.certificates.latest()]
    return {state.value: found.count(state) for state in CertificateState if state in found}


def on_lists(store, world) -> set[int]:
    """Serials on the published lists, as a relying party reads them."""
    with store.read() as tx:
        ders = [tx.crls.latest(ca.skid).der for ca in world.authority.issuers if tx.crls.latest(ca.skid)]
    return {entry.serial_number for der in ders for entry in x509.load_der_x509_crl(der)}


def serials(rows) -> set[int]:
    return {int(row["serial"], 16) for row in rows}


def sound(store, world):
    with store.read() as tx:
        assert {breach.id for breach in check_invariants(tx, world.time)} <= {"database.durable"}


def at_signing(world, store, do):
    """An enroller in the middle of whose next issuance something is done, once it is told to."""
    armed = []

    def fault(point: str) -> None:
        if armed and point == "after signing idevid":
            armed.pop()
            do()

    return world.enroller(store, fault), armed


class TestTheUnion:
    def test_a_later_boot_counts_as_the_first(
        self, world, store, enroller, builds, boots, revoke, tpm, tpms, helpers
    ):
        first = helpers.issue(world, enroller, tpm, boots())
        helpers.issue(world, enroller, tpms(1), boots("b"))
        bad = builds["bad"].measurement.hex()
        assert revoke(measurement=bad)["counts"]["certificates"] == 0
        world.later(minutes=1)
        world.launch = builds["bad"]
        again = enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, boots(certify=False)))
        assert helpers.ders(again.body) == helpers.ders(first)
        world.later(minutes=1)
        world.launch = builds["good"]
        assert helpers.ders(helpers.issue(world, enroller, tpm, boots())) == helpers.ders(first)

        plan = revoke(measurement=bad)
        decision = helpers.CertificatesReply.parse(again.body).decision_id
        assert {row["decision"] for row in plan["certificates"]} == {decision}
        assert serials(plan["certificates"]) == {c.serial_number for c in helpers.certificates(first)}
        done = revoke(measurement=bad, yes=True, reason="keyCompromise")
        assert serials(done["certificates"]) == serials(plan["certificates"]) == on_lists(store, world)
        assert states(store) == {"issued": 3, "revoked": 3}
        sound(store, world)

        with pytest.raises(Refused) as refused:
            helpers.issue(world, enroller, tpm, boots())
        assert refused.value.rule == "ledger.not-revoked"
        # Who resets the instance takes the TPM as it is; its history stays what it was.
        reset_instance(
            store, world.authority, "org-kbs", "default/vtpm/a", at=world.time, cause="t", limits=Limits()
        )
        helpers.issue(world, enroller, tpm, boots())
        assert revoke(measurement=bad)["counts"]["certificates"] == 3

    def test_evidence_that_was_accepted_and_never_led_to_certificates(
        self, world, enroller, builds, boots, revoke, tpm, helpers
    ):
        world.launch = builds["bad"]
        assert enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, boots())).status == 201
        assert revoke(measurement=builds["bad"].measurement.hex())["counts"]["tpms"] == 0
        world.later(minutes=20)
        world.launch = builds["good"]
        helpers.issue(world, enroller, tpm, boots())
        assert revoke(measurement=builds["bad"].measurement.hex())["counts"]["certificates"] == 3

    def test_evidence_that_was_refused_does_not_count(
        self, world, enroller, builds, boots, revoke, tpm, helpers
    ):
        helpers.issue(world, enroller, tpm, boots())
        world.launch = builds["refused"]
        with pytest.raises(Refused):
            helpers.issue(world, enroller, tpm, boots())
        assert revoke(measurement=builds["refused"].measurement.hex())["counts"] == {
            "decisions": 0,
            "unknown": 0,
            "tpms": 0,
            "certificates": 0,
            "being_issued": 0,
            "beside": 0,
        }

    def test_another_tpm_in_the_instance_has_its_own_past(
        self, world, store, enroller, builds, boots, revoke, tpms, helpers
    ):
        world.launch = builds["bad"]
        helpers.issue(world, enroller, tpms(0), boots())
        reset_instance(
            store, world.authority, "org-kbs", "default/vtpm/a", at=world.time, cause="t", limits=Limits()
        )
        world.launch = builds["good"]
        helpers.issue(world, enroller, tpms(1), boots())
        bad = builds["bad"].measurement.hex()
        plan = revoke(measurement=bad)
        # It may be what the other one has left there, and may not: that is for people.
        assert (plan["counts"]["certificates"], plan["counts"]["beside"]) == (0, 1)
        assert revoke(measurement=builds["good"].measurement.hex())["counts"]["certificates"] == 3
        # Both lived there, and only one has anything left.
        assert revoke(instance={"kbs": "org-kbs", "resource": "default/vtpm/a"})["counts"]["tpms"] == 1


class TestBeside:
    """What had the volume and the secret in its hands may have left a TPM there whose keys it never stated."""

    @staticmethod
    def less(tpm):
        """The same TPM, of whose EKs only the first is stated."""
        fewer = copy.copy(tpm)
        fewer._others = []
        return fewer

    @pytest.fixture
    def two_eks(self, world, store, builds, helpers):
        with store.read() as tx:
            text = tx.policies.in_force(world.time).text
        world.apply(store, text.replace('ek = ["L-1"]', 'ek = ["L-1", "H-3"]'))
        return helpers.SoftTpm(("L-1", "H-3"))

    def test_a_tpm_that_came_after_such_evidence_is_named(
        self, world, store, enroller, builds, boots, revoke, two_eks, tpms, helpers
    ):
        bad = builds["bad"].measurement.hex()
        for guest, first, later in (("a", two_eks, self.less(two_eks)), ("b", tpms(0), tpms(1))):
            world.launch = builds["bad"]
            enroller.enroll(world.body(enroller.new_nonce().nonce, first, boots(guest)))
            world.later(minutes=1)
            world.launch = builds["good"]
            helpers.issue(world, enroller, later, boots(guest))
        helpers.issue(world, enroller, tpms(2), boots("c"))
        plan = revoke(measurement=bad)
        assert plan["counts"]["certificates"] == 0
        assert [row["resource"] for row in plan["beside"]] == ["default/vtpm/a", "default/vtpm/b"]
        assert "--instance" in plan["advice"][-1]
        assert revoke(measurement=bad, limit=1)["counts"]["beside"] == 2
        assert len(revoke(measurement=bad, limit=1)["beside"]) == 1
        assert revoke(kbs="org-kbs", all=True)["beside"] == []
        done = revoke(measurement=bad, yes=True)
        assert (done["beside"], states(store)) == (plan["beside"], {"issued": 9})
        for name in ("a", "b"):
            revoke(instance={"kbs": "org-kbs", "resource": f"default/vtpm/{name}"}, yes=True)
        assert revoke(measurement=bad)["beside"] == []


class TestUnderWay:
    def test_a_first_issuance_is_given_up(self, world, store, builds, boots, revoke, tpm, helpers):
        bad = builds["bad"].measurement.hex()
        results = []
        enroller, armed = at_signing(world, store, lambda: results.append(revoke(measurement=bad, yes=True)))
        world.launch = builds["bad"]
        armed.append(True)
        reply = enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, boots()))
        enrolment, answer = helpers.answer(tpm, reply.body)
        with pytest.raises(Unavailable, match="abandoned"):
            enroller.activate(enrolment, answer)
        assert results[0]["counts"] == {"tpms": 1, "certificates": 0, "being_issued": 3, "beside": 0}
        assert {row["state"] for row in results[0]["certificates"]} == {"abandoned"}
        assert states(store) == {"abandoned": 3}
        assert serials(results[0]["certificates"]) == on_lists(store, world)
        with pytest.raises(Refused, match="ended"):
            enroller.activate(enrolment, answer)
        sound(store, world)
        # Whatever comes later of the same keys, the evidence is remembered.
        world.launch = builds["good"]
        helpers.issue(world, enroller, tpm, boots())
        assert revoke(measurement=bad, yes=True)["counts"]["certificates"] == 3

    def test_a_renewal_is_given_up_and_what_it_replaced_is_revoked(
        self, world, store, builds, boots, revoke, tpm, helpers
    ):
        world.authority = replace(
            world.authority,
            validity=ValidityRule(kind="bounded", root_days=90, issuing_days=90, device_days=90),
        )
        results = []
        enroller, armed = at_signing(
            world,
            store,
            lambda: results.append(revoke(kbs="org-kbs", all=True, yes=True)),
        )
        helpers.issue(world, enroller, tpm, boots())
        world.later(days=89)
        armed.append(True)
        with pytest.raises(Unavailable):
            helpers.issue(world, enroller, tpm, boots())
        assert results[0]["counts"] == {"tpms": 1, "certificates": 3, "being_issued": 3, "beside": 0}
        assert states(store) == {"revoked": 3, "abandoned": 3}
        sound(store, world)
        with pytest.raises(Refused) as refused:
            helpers.issue(world, enroller, tpm, boots())
        assert refused.value.rule == "ledger.not-revoked"

    def test_what_cannot_be_given_up_is_not_said_to_be(
        self, world, store, enroller, builds, boots, revoke, tpm, helpers
    ):
        """Rows that contradict each other, as whoever edits a database makes them."""
        helpers.issue(world, enroller, tpm, boots())
        with store.write() as tx:
            tx.connection.exec_driver_sql("UPDATE certificates SET state = 'intended'")
        done = revoke(kbs="org-kbs", all=True, yes=True)
        assert (done["counts"]["being_issued"], done["certificates"], done["more"]) == (0, [], False)
        assert states(store) == {"intended": 3}

    def test_what_a_failed_renewal_brings_back_is_revoked_though_it_has_expired(
        self, world, store, builds, boots, revoke, tpm, helpers
    ):
        world.authority = replace(
            world.authority,
            validity=ValidityRule(kind="bounded", root_days=90, issuing_days=90, device_days=90),
        )

        def later():
            world.later(days=2)
            revoke(kbs="org-kbs", all=True, yes=True)

        enroller, armed = at_signing(world, store, later)
        helpers.issue(world, enroller, tpm, boots())
        world.later(days=89)
        armed.append(True)
        with pytest.raises(Unavailable):
            helpers.issue(world, enroller, tpm, boots())
        assert states(store) == {"revoked": 3, "abandoned": 3}
        sound(store, world)


class TestBatches:
    @pytest.fixture
    def many(self, world, store, enroller, boots, tpms, helpers):
        for number in range(3):
            helpers.issue(world, enroller, tpms(number), boots(f"guest{number}"))
        return Cause(policy_version=1)

    @staticmethod
    def numbers(store, world) -> list[int]:
        with store.read() as tx:
            rows = [tx.crls.latest(ca.skid) for ca in world.authority.issuers]
        return [0 if row is None else row.number for row in rows]

    def test_each_is_whole_and_published_and_the_next_goes_on(self, world, store, many):
        grounds, before = Grounds(world.time, "keyCompromise", "tests"), self.numbers(store, world)
        for step in (1, 2, 3):
            ended = revoke_by_cause(store, world.authority, many, grounds, Limits(), most=1)
            assert (len(ended.rows), len({row.tpm_id for row in ended.rows})) == (3, 1)
            assert ended.more == (step < 3)
            assert len(on_lists(store, world)) == 3 * step
            sound(store, world)
            # One list per issuer and step, none for the ephemeral CA.
            after = self.numbers(store, world)
            assert sorted(b - a for a, b in zip(before, after, strict=True)) == [0, step, step]
        assert not revoke_by_cause(store, world.authority, many, grounds, Limits()).rows

    def test_all_at_once_if_they_are_few(self, world, store, many):
        grounds = Grounds(world.time, "keyCompromise", "tests")
        ended = revoke_by_cause(store, world.authority, many, grounds, Limits())
        assert (len(ended.rows), ended.more) == (9, False)

    @pytest.mark.parametrize(
        "point",
        ["after UPDATE certificates SET", "before commit"],
    )
    def test_one_that_fails_in_the_middle_leaves_nothing(self, world, store, many, point):
        seen = []

        def fault(here: str) -> None:
            if here == point:
                seen.append(here)
                raise RuntimeError(here)

        failing = world.open_store(fault)
        grounds = Grounds(world.time, "keyCompromise", "tests")
        with pytest.raises(RuntimeError, match=point):
            revoke_by_cause(failing, world.authority, many, grounds, Limits())
        failing.close()
        assert seen
        assert states(store) == {"issued": 9}
        assert on_lists(store, world) == set()
        assert len(revoke_by_cause(store, world.authority, many, grounds, Limits()).rows) == 9

    def test_without_a_key_nothing_is_revoked(self, world, store, many):
        lacking = replace(
            world.authority, issuers=tuple(ca for ca in world.authority.issuers if ca.role != "devid")
        )
        grounds = Grounds(world.time, "keyCompromise", "tests")
        with pytest.raises(Unavailable) as caught:
            revoke_by_cause(store, lacking, many, grounds, Limits())
        assert caught.value.code == "issuer"
        assert states(store) == {"issued": 9}
        assert on_lists(store, world) == set()


class TestTimes:
    def test_the_kbs_cannot_say_when_it_was(self, world, enroller, boots, revoke, tpm, helpers):
        """The grant says an hour ago, or in half a minute; the CA decides now."""
        for minutes, claimed in ((-59, "early"), (0.5, "late")):
            iat = int((world.time + timedelta(minutes=minutes)).timestamp())
            boot = boots(claimed, change_claims=lambda c, iat=iat: replace(c, iat=iat, exp=iat + 300))
            helpers.issue(world, enroller, tpm if claimed == "early" else helpers.SoftTpm(), boot)
        at = world.time

        def hit(since):
            text = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            return revoke(kbs="org-kbs", compromised_since=text)["counts"]["tpms"]

        assert [hit(at - timedelta(seconds=1)), hit(at), hit(at + timedelta(seconds=1))] == [2, 2, 0]

    def test_a_key_is_asked_for_by_its_thumbprint(self, world, store, enroller, boots, revoke, tpm, helpers):
        helpers.issue(world, enroller, tpm, boots())
        thumbprint = EcJwk.from_key(world.kbs.public_key()).thumbprint()
        assert revoke(kbs_key=thumbprint, all=True)["counts"]["certificates"] == 3
        assert revoke(kbs_key=thumbprint[::-1], all=True)["counts"]["decisions"] == 0


@pytest.mark.parametrize("profile", [SERVICES_PROFILE, VTPM_PROFILE])
def test_ephemeral_certificates_too(world, store, enroller, revoke, tpm, profile):
    world.apply(store, amd_guest.policy(world))
    amd_guest.Guest(world, enroller, tpm).issue(profile)
    measurement = world.launch.measurement.hex()
    broker = revoke(kbs="org-kbs", all=True)["counts"]["certificates"]
    assert broker == (3 if profile == SERVICES_PROFILE else 0)
    assert revoke(measurement=measurement, yes=True)["counts"]["certificates"] == 3
    assert states(store) == {"revoked": 3}
    sound(store, world)
    with pytest.raises(Refused) as refused:
        amd_guest.Guest(world, enroller, tpm).issue(profile)
    assert refused.value.rule == "ledger.not-revoked"


@pytest.mark.parametrize("profile", [None, SERVICES_PROFILE, VTPM_PROFILE])
def test_what_is_kept_is_what_the_migration_reads(world, store, enroller, boots, tpm, helpers, profile):
    if profile is None:
        helpers.issue(world, enroller, tpm, boots())
    else:
        world.apply(store, amd_guest.policy(world))
        amd_guest.Guest(world, enroller, tpm).issue(profile)
    migration = import_module("ca_service.store.migrations.versions.v0003_evidence_facts")
    with store.read() as tx:
        rows = tx.connection.execute(sa.select(schema.evidence)).mappings().all()
    assert rows
    for row in rows:
        kept = {name: row[name] for name in vars(EvidenceFacts())}
        assert kept == migration._facts(bytes(row["body"]))
        assert all(kept.values()) == (profile != VTPM_PROFILE)
        # Nobody changes it unnoticed.
        body, facts = bytes(row["body"]), EvidenceFacts(**kept)
        assert altered_facts(body, facts) == []
        for name, value in kept.items():
            for other in (None, "ab" * 8) if value else ("ab" * 8,):
                assert altered_facts(body, replace(facts, **{name: other})) == [name]
        assert altered_facts(b"{}", EvidenceFacts()) == []
