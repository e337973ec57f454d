"""Drafts of the policy over a real history: what flips, who would get no certificate today, who is revoked."""

import shutil
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from functools import cache

import enrollment_world as w
import pytest
import simulated_history

from ca_service.enrollment.simulation import Outcome, Said, compare, entry_of
from ca_service.judgment import BadRequest, Record, Refused
from ca_service.operations import simulation
from ca_service.operations.draft_revocation import ADMITTED, CHANGED, NO_CERTIFICATE
from ca_service.operations.forecast import basis, forecast
from ca_service.operations.recorded import recorded as recorded_one
from ca_service.operations.recorded import recorded_all
from ca_service.operations.simulation import Request, read_draft, simulate
from ca_service.policy import load
from ca_service.store import CertificateState, schema
from vtpm.lab.allowlist import platform_entry
from vtpm.wire.enrollment import ActivationRequest

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def history(ceremony, tmp_path_factory, tpms):
    """A CA with a hundred decisions; nobody may change it."""
    with simulated_history.history(ceremony, tmp_path_factory.mktemp("history") / "world", tpms) as made:
        yield made


@pytest.fixture(scope="module")
def asked(history):
    """A simulation of a draft over the history; each is made once."""

    @cache
    def simulated(text, **changes):
        request = replace(Request.usual(read_draft(text, "simulation"), history.world.time), **changes)
        return simulate(history.store, request)

    return simulated


def flips(found) -> set[tuple[str, str, str]]:
    """(decision, what it becomes, rule)."""
    told = found.to_json()
    assert told["flips_omitted"] == 0
    return {(row["decision"], row["becomes"], row["rule"]) for row in told["flips"]}


def refused(found) -> dict[int, str]:
    told = found.to_json()
    assert told["certified"]["refused_tpms"] == len(told["refused"]) == len(found.certified.refused)
    return {row["tpm"]: row["rule"] for row in told["refused"]}


def raised(since: str = "", build: int = 30) -> str:
    """The platform with one more floor for Milan."""
    levels = "{ bootloader = 4, tee = 0, snp = 27, microcode = 219 }"
    return f"""{platform_entry()}
[[platform.tcb]]
product = "Milan"
from = {since}
firmware = "1.55.{build}"
reported = {levels}
committed = {levels}
launch = {levels}
"""


class TestTheHistory:
    def test_it_is_one(self, history):
        assert len(history.sent) == 100
        rules = Counter(sent.rule for sent in history.sent)
        assert rules == {"": 94, "launch.measurement": 5, "kbs.resource": 1}
        assert len(history.newest()) == 10

    def test_the_policy_in_force_changes_nothing(self, history, asked):
        told = asked(history.document()).to_json()
        assert told["decisions"] == {
            "judged": 100, "left_out": 0, "same": 100, "refused": 0, "admitted": 0, "outside": 0,
            "not_comparable": 0,
        }  # fmt: skip
        assert told["certified"] == {
            "tpms": 10, "certificates": 30, "refused_tpms": 0, "refused_certificates": 0, "unknown_tpms": 0,
        }  # fmt: skip
        assert told["flips"] == told["groups"] == told["refused"] == told["unknown"] == []


class TestFlips:
    def test_a_build_that_is_taken_out(self, history, asked):
        found = asked(history.document(builds=("good",)))
        bad = [sent for sent in history.sent if sent.build == "bad" and not sent.rule]
        assert len(bad) == 11
        assert flips(found) == {(sent.decision, "refused", "launch.measurement") for sent in bad}
        told = found.to_json()
        assert [(g["becomes"], g["rule"], g["entry"], g["kbs"], g["decisions"]) for g in told["groups"]] == [
            ("refused", "launch.measurement", "no launch", "own", 8),
            ("refused", "launch.measurement", "no launch", "partner", 3),
        ]
        # The one that came back from it is good today.
        last = {number for number, sent in history.newest().items() if sent.build == "bad"}
        assert last == {history.numbers[tpm] for tpm in (2, 3, 6)}
        assert refused(found) == dict.fromkeys(last, "launch.measurement")

    def test_a_build_that_is_let_in_and_a_broker_that_is_suspended(self, history, asked):
        text = history.document(builds=("good", "bad", "stray"), kbs_partner='status = "suspended"')
        found, looked_at = asked(text, last=50), history.sent[50:]
        stray = [sent for sent in looked_at if sent.build == "stray" and sent.kbs == "own"]
        theirs = [sent for sent in looked_at if sent.kbs == "partner" and not sent.rule]
        assert (len(stray), len(theirs)) == (3, 18)
        assert flips(found) == {
            *((sent.decision, "admitted", "launch.measurement") for sent in stray),
            *((sent.decision, "refused", "kbs.status") for sent in theirs),
        }
        assert refused(found) == dict.fromkeys((history.numbers[n] for n in range(6, 10)), "kbs.status")
        told = found.to_json()
        assert [(g["rule"], g["entry"], g["tpms"]) for g in told["refused_groups"]] == [
            ("kbs.status", "kbs partner", 4)
        ]
        assert {row["resource"] for row in told["refused"]} == {
            f"partner/vtpm/guest-{n}" for n in range(6, 10)
        }

    def test_only_the_newest(self, history, asked):
        told = asked(history.document(), last=10).to_json()
        assert (told["decisions"]["judged"], told["decisions"]["left_out"]) == (10, 90)
        half = history.world.time - timedelta(seconds=30 * 9)
        told = asked(history.document(), since=half).to_json()
        assert (told["decisions"]["judged"], told["decisions"]["left_out"]) == (10, 0)
        found = asked(history.document(builds=("good",)), last=10)
        assert {row[0] for row in flips(found)} == {
            sent.decision for sent in history.sent[90:] if sent.build == "bad"
        }

    def test_what_is_not_listed_is_counted(self, history, asked):
        told = asked(history.document(builds=("good",)), listed=2, last=20).to_json()
        assert (len(told["flips"]), told["flips_omitted"]) == (2, 4)
        assert (len(told["refused"]), told["refused_omitted"]) == (2, 1)
        assert told["certified"]["refused_tpms"] == 3
        assert sum(group["decisions"] for group in told["groups"]) == 6

    def test_page_by_page_it_is_the_same(self, history, asked, monkeypatch):
        text = history.document(builds=("good",))
        whole = asked(text, last=20).to_json()
        monkeypatch.setattr(simulation, "BATCH", 7)
        request = replace(Request.usual(load(text), history.world.time), last=20)
        assert simulate(history.store, request).to_json() == whole

    def test_as_each_decision_alone(self, history, asked):
        text = history.document(builds=("bad", "stray"), platform=raised("2026-11-23T12:46:45Z"))
        since = history.world.time - timedelta(seconds=30 * 14)
        in_force, draft, wanted = load(history.document()), load(text), set()
        for row, recorded in recorded_all(history.store, since):
            before, after = recorded.judge(in_force), recorded.judge(draft)
            if before.admitted != after.admitted:
                said = before.refusal or after.refusal
                wanted.add((row.id, "admitted" if after.admitted else "refused", said.rule))
        assert {rule for _, _, rule in wanted} == {"launch.measurement", "platform.build"}
        assert flips(asked(text, since=since)) == wanted


class TestToday:
    """What is said of TPMs with certificates; no past decision is looked at."""

    @pytest.fixture
    def today(self, asked):
        return lambda text, **changes: asked(text, last=0, **changes)

    def test_a_floor_with_a_date_to_come(self, history, today):
        """It is nobody's fault yet; from its day on nobody who has not updated gets a certificate."""
        begins = history.world.time + timedelta(days=5)
        text = history.document(platform=raised(begins.strftime("%Y-%m-%dT%H:%M:%SZ")))
        assert refused(today(text)) == {}
        later = today(text, at=begins)
        assert refused(later) == dict.fromkeys(history.numbers.values(), "platform.build")
        rows = later.to_json()["refused"]
        assert {(row["entry"], row["by_date"], row["refused_in_force"]) for row in rows} == {
            ("platform simulated", True, False)
        }

    def test_ages_are_those_of_the_evidence(self, history, today):
        """Every grant was a second old when it came, and today is a month later."""
        text = history.document(grant="2")
        assert refused(today(text, at=history.world.time + timedelta(days=30))) == {}

    def test_a_broker_whose_time_is_over(self, history, today):
        ends = history.world.time + timedelta(days=5)
        text = history.document(kbs_own=f'status = "trusted"\nvalid_to = {ends.isoformat()}')
        assert refused(today(text, at=ends - timedelta(seconds=1))) == {}
        assert refused(today(text, at=ends)) == dict.fromkeys(
            (history.numbers[n] for n in range(6)), "kbs.valid"
        )

    def test_a_broker_whose_time_has_come_since(self, history, asked, today):
        """At its own time the evidence would have been refused; today it is not, and nobody loses anything."""
        begins = history.world.time + timedelta(seconds=1)
        text = history.document(kbs_own=f'status = "trusted"\nvalid_from = {begins.isoformat()}')
        assert len(flips(asked(text, last=10))) == 6
        assert refused(today(text, at=begins)) == {}


class TestWhatCannotBeCompared:
    @pytest.fixture
    def copy(self, history, tmp_path):
        """The history in a database of its own, and a way to ask about it."""
        shutil.copytree(history.world.directory, tmp_path / "world")
        world = w.World(tmp_path / "world", history.world.authority)
        world.time = history.world.time
        store = world.open_store()

        def simulated(text, **changes):
            usual = Request.usual(read_draft(text, "simulation"), world.time)
            return simulate(store, replace(usual, **{"last": 12, **changes}))

        yield world, store, simulated
        store.close()
        world.close()

    def test_decisions_without_inputs_and_others(self, history, copy):
        world, store, simulated = copy
        first, second, third, fourth = (sent.decision for sent in history.sent[90:94])
        table = schema.decisions
        with store.write() as tx:
            row = tx.decisions.get(first)
            plain = Record.parse(row.trace).trace.text()

            def change(decision_id, **values):
                tx.connection.execute(table.update().where(table.c.id == decision_id).values(**values))

            change(first, trace=plain)
            change(second, trace="{}")
            change(third, policy_version=-1)
            # A verdict that nobody comes to by this evidence.
            other = Record.parse(tx.decisions.get(history.sent[51].decision).trace)
            kept = Record.parse(tx.decisions.get(fourth).trace)
            change(fourth, trace=replace(kept, trace=other.trace).text())
        told = simulated(history.document(builds=("good",))).to_json()
        assert told["decisions"]["not_comparable"] == 4
        why = {row["decision"]: row["why"] for row in told["not_comparable"]}
        assert why.keys() == {first, second, third, fourth}
        assert "before 0.5" in why[first]
        assert "-1" in why[third]
        assert told["decisions"]["judged"] == 12
        assert not {first, second, third, fourth} & {row["decision"] for row in told["flips"]}
        # TPMs 0, 1 and 2: nobody can tell, so nobody is revoked. What they would be refused by is TPM 2's.
        unknown = {row["tpm"] for row in told["unknown"]}
        assert unknown == {history.numbers[0], history.numbers[1]}
        del world

    def test_evidence_that_is_gone(self, history, copy):
        world, store, simulated = copy
        with store.write() as tx:
            row = tx.decisions.get(history.sent[-1].decision)
            tx.connection.execute(
                schema.evidence.update()
                .where(schema.evidence.c.digest == row.evidence_digest)
                .values(body=b"x")
            )
        told = simulated(history.document(builds=("good",))).to_json()
        assert [row["decision"] for row in told["not_comparable"]] == [history.sent[-1].decision]
        assert [row["tpm"] for row in told["unknown"]] == [history.numbers[9]]
        counts = forecast(store, basis(store, "simulation", world.time), "simulation", world.time).counts
        assert (counts["unknown"], counts["safe"]) == (1, 9)

    def test_each_decision_against_its_own_version(self, history, copy):
        """What an earlier version let in and the one in force does not is no flip of the draft, unless it is asked."""
        world, store, simulated = copy
        narrowed = history.document(builds=("good",))
        world.apply(store, narrowed)
        assert flips(simulated(narrowed)) == set()
        assert len(flips(simulated(narrowed, all_versions=True))) == 3
        back = history.document()
        assert {row[1] for row in flips(simulated(back))} == {"admitted"}
        assert flips(simulated(back, all_versions=True)) == set()
        found = simulated(narrowed).to_json()
        assert (found["in_force"], {row["refused_in_force"] for row in found["refused"]}) == (2, {True})

    def test_an_answer_that_was_wrong(self, history, copy, tpms):
        world, store, simulated = copy
        enroller, soft = world.enroller(store), tpms(10)
        world.launch = history.launches["bad"]
        boot = w.Boot("own/vtpm/new", b"n" * 32, kbs=simulated_history.SOFT_KEYS["own"])
        reply = enroller.enroll(world.body(enroller.new_nonce().nonce, soft, boot))
        enrollment_id, _ = w.answer(soft, reply.body)
        with pytest.raises(Refused):
            enroller.activate(enrollment_id, w.encode(ActivationRequest((bytes(32),))))
        told = simulated(history.document(builds=("good",)), since=world.time).to_json()
        counts = told["decisions"]
        assert (counts["outside"], counts["refused"], counts["not_comparable"]) == (1, 1, 0)
        assert told["certified"]["tpms"] == 10

    def test_a_ca_without_a_policy_or_a_history(self, world, helpers, tmp_path):
        store = world.new_store()
        told = simulate(store, Request.usual(load(world.policy()), world.time)).to_json()
        assert (told["in_force"], told["decisions"]["judged"], told["certified"]["tpms"]) == (None, 0, 0)
        store.close()


class TestRevoking:
    @pytest.fixture
    def copy(self, history, tmp_path):
        shutil.copytree(history.world.directory, tmp_path / "world")
        world = w.World(tmp_path / "world", history.world.authority)
        world.time = history.world.time
        store = world.open_store()
        yield world, store
        store.close()
        world.close()

    def test_those_and_no_others(self, history, copy, asked):
        world, store = copy
        text = history.document(builds=("good",))
        bad, all_ = [history.numbers[n] for n in (2, 3, 6)], sorted(history.numbers.values())
        plan = w.operate(world, store, "policy-revoke", text=text, tpms=all_)
        assert (plan["done"], plan["counts"]) == (False, {"tpms": 3, "certificates": 9, "being_issued": 0})
        with store.read() as tx:
            assert tx.connection.execute(schema.revocations.select()).all() == []
        done = w.operate(
            world, store, "policy-revoke", text=text, tpms=all_, reason="cessationOfOperation", yes=True
        )
        assert (done["done"], done["counts"]) == (True, plan["counts"])
        assert {row["tpm"] for row in done["certificates"]} == set(bad)
        assert {row["tpm"]: row["why"] for row in done["spared"]} == dict.fromkeys(
            set(all_) - set(bad), ADMITTED
        )
        with store.read() as tx:
            revoked = tx.connection.execute(schema.revocations.select()).all()
        digest = load(text).digest
        assert {row.cause for row in revoked} == {f"revoked by alice: policy simulate {digest}"}
        assert {row.reason for row in revoked} == {"cessationOfOperation"}
        assert {row.serial for row in revoked} == {row["serial"] for row in done["certificates"]}
        # What is revoked is offered no more, and to ask again changes nothing.
        request = replace(Request.usual(load(text), world.time), last=0)
        assert simulate(store, request).certified.refused == []
        again = w.operate(world, store, "policy-revoke", text=text, tpms=bad, yes=True)
        assert again["counts"] == {"tpms": 0, "certificates": 0, "being_issued": 0}
        assert {row["why"] for row in again["spared"]} == {NO_CERTIFICATE}

    def test_a_stale_list_revokes_nobody(self, history, copy, tpms):
        world, store = copy
        text = history.document(builds=("good",))
        number = history.numbers[2]
        world.later(minutes=5)
        world.launch = history.launches["good"]
        boot = w.Boot(
            "own/vtpm/guest-2",
            bytes([3]) * 32,
            counter=50,
            kbs=simulated_history.SOFT_KEYS["own"],
            certify=False,
        )
        w.issue(world, world.enroller(store), tpms(2), boot)
        done = w.operate(world, store, "policy-revoke", text=text, tpms=[number], yes=True)
        assert done["spared"] == [{"tpm": number, "why": ADMITTED}]
        assert done["certificates"] == done["advice"] == []

    def test_who_enrols_while_it_is_judged(self, history, copy, tpms, monkeypatch):
        world, store = copy
        number, enroller = history.numbers[2], world.enroller(store)
        judge = simulation.judge_newest

        def meanwhile(*given):
            found = judge(*given)
            world.later(minutes=5)
            boot = w.Boot(
                "own/vtpm/guest-2",
                bytes([3]) * 32,
                counter=60,
                kbs=simulated_history.SOFT_KEYS["own"],
                certify=False,
            )
            w.issue(world, enroller, tpms(2), boot)
            return found

        monkeypatch.setattr("ca_service.operations.draft_revocation.judge_newest", meanwhile)
        world.launch = history.launches["good"]
        done = w.operate(
            world, store, "policy-revoke", text=history.document(builds=("good",)), tpms=[number], yes=True
        )
        assert (done["counts"]["certificates"], done["spared"]) == (0, [{"tpm": number, "why": CHANGED}])
        with store.read() as tx:
            assert {row.state for row in tx.certificates.latest()} == {CertificateState.ISSUED}

    def test_what_is_no_list_of_tpms_and_no_draft(self, history):
        world, store = history.world, history.store
        for tpms in ([], [0], [True], ["1"], list(range(1, 102)), 1):
            with pytest.raises(BadRequest, match="tpms"):
                w.operate(world, store, "policy-revoke", text=history.document(), tpms=tpms)
        with pytest.raises(BadRequest, match="schema"):
            w.operate(world, store, "policy-revoke", text="schema = 2", tpms=[1])


@pytest.mark.parametrize(
    ("rule", "entry"),
    [
        ("launch.measurement", "launch good"),
        ("platform.reported-tcb", "platform simulated"),
        ("kbs.resource", "kbs partner"),
        ("ear.present", "kbs partner"),
        ("grant.age", "grant"),
        ("grant.signature", "evidence"),
        ("store.format", "store"),
        ("tpm.template-allowed", "tpm"),
        ("tpm.keys-distinct", "evidence"),
        ("profile.admitted", "ephemeral"),
        ("ledger.counter", "ledger"),
        ("key.not-blocked", "ledger"),
        ("policy.mode", "policy"),
        ("snp.chain", "evidence"),
    ],
)
def test_what_of_a_policy_a_rule_is_about(history, rule, entry):
    with history.store.read() as tx:
        _, recorded = recorded_one(tx, history.sent[-1].decision)
    assert entry_of(load(history.document()), recorded.submission, rule) == entry
    if rule.startswith(("launch.", "platform.")):
        assert entry_of(load(history.document(builds=("bad",))), recorded.submission, rule) == "no launch"
    if rule.startswith(("kbs.", "ear.")):
        assert entry_of(load(history.document(brokers=("own",))), recorded.submission, rule) == "no kbs"
    assert entry_of(None, recorded.submission, rule) == ""


class TestForecast:
    @pytest.fixture
    def told(self, history):
        def forecast_of(text, days=0):
            about = basis(history.store, "simulation", history.world.time, text)
            return forecast(history.store, about, "simulation", history.world.time + days * DAY).to_json()

        return forecast_of

    def test_by_the_policy_in_force(self, history, told):
        found = told(None)
        assert (found["version"], found["groups"], found["endings"]) == (1, [], [])
        assert found["counts"] == {
            "tpms": 10, "below": 0, "falling": 0, "safe": 10, "unlisted": 0, "unknown": 0,
        }  # fmt: skip

    def test_who_falls_when(self, history, told):
        begins = (history.world.time + 5 * DAY).strftime("%Y-%m-%dT%H:%M:%SZ")
        text = history.document(builds=("good",), platform=raised(begins))
        found, bad = told(text), {history.numbers[n] for n in (2, 3, 6)}
        assert found["counts"] == {
            "tpms": 10, "below": 0, "falling": 7, "safe": 0, "unlisted": 3, "unknown": 0,
        }  # fmt: skip
        (group,) = found["groups"]
        assert (group["from"], group["platform"], group["product"], group["count"]) == (
            begins, "simulated", "Milan", 7,
        )  # fmt: skip
        chip = history.world.launch.report(bytes(64), 0)[0x1A0:0x1E0].hex()
        newest = history.newest()
        assert {row["tpm"] for row in group["tpms"]} == set(newest) - bad
        for row in group["tpms"]:
            assert (row["chip"], row["decision"]) == (chip, newest[row["tpm"]].decision)
            assert row["resource"] == newest[row["tpm"]].resource
            assert row["short"] == [
                {"rule": "platform.build", "component": "firmware", "has": "1.55.29", "needs": "1.55.30"}
            ]
        later = told(text, days=5)
        assert (later["counts"]["below"], later["groups"][0]["from"]) == (7, None)

    def test_brokers_that_end(self, history, told):
        ends = history.world.time + 80 * DAY
        text = history.document(kbs_partner=f'status = "trusted"\nvalid_to = {ends.isoformat()}')
        assert told(text)["endings"] == [
            {"kbs": "partner", "ends": ends.strftime("%Y-%m-%dT%H:%M:%SZ"), "tpms": 4}
        ]
        assert told(text, days=80)["endings"] == []
        assert told(text, days=-11)["endings"] == []


def test_a_production_ca_takes_no_unsafe_draft(history):
    text = history.document() + '[[unsafe]]\nname = "UnsafeAllowAnyOrigin"\ngives_up = "origins"\n'
    assert read_draft(text, "simulation").unsafe
    with pytest.raises(BadRequest, match="Unsafe"):
        read_draft(text, "production")


def test_a_refusal_that_only_asks_for_certify_is_none(history):
    """A draft that names another form of IAK certificate: the client comes again with what is asked for."""
    text = history.document().replace(
        'idevid = ["H-3"]\n', 'idevid = ["H-3"]\niak_profile = "iak-webauthn"\n'
    )
    with history.store.read() as tx:
        row, recorded = recorded_one(tx, history.sent[-1].decision)
    draft, in_force = load(text), load(history.document())
    assert recorded.judge(draft).refusal.rule == "certify.present"
    stored = Record.parse(row.trace).trace
    assert compare(stored, recorded, in_force, in_force, draft).outcome is Outcome.SAME
    assert Said.of(recorded.judge(draft), draft, recorded.submission) == Said()
