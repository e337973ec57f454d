"""Decisions are kept with all that they rest on, and come out the same when they are made anew."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace

import enrollment_world as w
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_service.audit import audit_folder, export_log
from ca_service.collateral import items_of
from ca_service.enrollment import Judge
from ca_service.enrollment.ledger_state import LedgerKnown, Occupant
from ca_service.enrollment.recorded import MODES, Inputs, Recorded
from ca_service.enrollment.replay import Comparison, Outcome, compare
from ca_service.evidence.snp import Collateral
from ca_service.judgment import BadRequest, Finding, NotFound, Record, Refused, Trace, Verdict
from ca_service.operations.log_identity import log_key
from ca_service.operations.recorded import recorded, recorded_all
from ca_service.operations.replay import replay_database, replay_export
from ca_service.policy import load
from vtpm.snp import Platform
from vtpm.wire.encoding import b64std
from vtpm.wire.errors import WireError
from vtpm.wire.report import Product


def refused(world, enroller, tpm, boot=None) -> str:
    world.later(seconds=1)
    with pytest.raises(Refused) as caught:
        w.issue(world, enroller, tpm, boot or w.Boot())
    return caught.value.rule


def outcomes(store) -> Counter:
    return Counter(found.outcome for found in replay_database(store))


def _an_admission(tx):
    return next(row for row in tx.decisions.latest() if row.admitted)


@pytest.fixture
def history(world, store, enroller, tpms):
    """All kinds of decisions: admitted, known, refused by policy, by the ledger, and for a wrong answer."""
    w.issue(world, enroller, tpms(0))
    w.issue(world, enroller, tpms(0), w.Boot(counter=2))
    assert refused(world, enroller, tpms(0), w.Boot(counter=1)) == "ledger.counter"
    assert refused(world, enroller, tpms(1)) == "ledger.instance-occupied"
    assert refused(world, enroller, tpms(0), w.Boot(resource="default/vtpm/b")) == "ledger.key-unique"
    other = w.Boot(resource="default/vtpm/c", secret=bytes(32))
    assert refused(world, enroller, tpms(1), replace(other, resource="elsewhere/vtpm/c")) == "kbs.resource"
    reply = enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(1), other))
    enrolment, answer = w.answer(tpms(1), reply.body)
    with pytest.raises(Refused) as caught:
        enroller.activate(enrolment, answer[:-10] + b'AAAAAAA"]}')
    assert caught.value.rule == "activation.secret"
    # Between challenge and answer another policy came in force: the answer is judged by that one.
    reply = enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(1), other))
    world.apply(store, world.policy(status="suspended"))
    with pytest.raises(Refused) as caught:
        enroller.activate(*w.answer(tpms(1), reply.body))
    assert caught.value.rule == "kbs.status"
    world.apply(store, world.policy(extra="[ephemeral]\ndays = 3\nvolatile_stores = true"))
    w.issue(world, enroller, tpms(1), other)
    return store


def test_every_decision_comes_out_as_it_was_stored(history):
    assert outcomes(history) == {Outcome.AGREES: 10, Outcome.BEYOND: 1}


def test_one_decision_is_replayed_by_its_id(history):
    with history.read() as tx:
        rows = tx.decisions.latest()
    for row in rows:
        (found,) = replay_database(history, row.id)
        assert (found.id, found.rule, found.admitted) == (row.id, row.rule, bool(row.admitted))
    with pytest.raises(NotFound):
        list(replay_database(history, "00"))


def test_a_decision_without_policy_is_replayed_without(world, store, tpms):
    with closing(sqlite3.connect(world.directory / "ca.sqlite3")) as database:
        database.execute("DELETE FROM policy_starts")
        database.execute("DELETE FROM policies")
        database.commit()
    enroller = world.enroller(store)
    assert refused(world, enroller, tpms(0)) == "policy.in-force"
    assert outcomes(store) == {Outcome.AGREES: 1}
    (row, found) = next(iter(recorded_all(store)))
    assert found.ledger is None
    # Under a draft it is judged as by a CA that has never seen it.
    assert found.judge(load(world.policy())).admitted
    assert row.policy_version == 0


def test_the_operators_certificates_are_kept_with_the_decision(world, store, tpms):
    """Without them the report could not be judged at all."""
    request = world.request("0", tpms(0))
    offered = Collateral.of_file(request.evidence.certificates)
    assert offered is not None
    assert offered.leaves
    other = Platform.create(world.directory / "other", Product.GENOA, clock=lambda: w.START)
    strange = other.launch([(0, bytes(4096))]).cert_table()
    held = offered + Collateral.of_file(strange)
    judge = Judge.of(world.authority.ca_id, world.authority.mode, lambda: held)
    enroller = world.enroller(store, judge=judge)
    nonce = enroller.new_nonce().nonce
    bare = world.request(nonce, tpms(0))
    bare = replace(bare, evidence=replace(bare.evidence, certificates=None))
    enroller.enroll(w.encode(bare))
    (row, found) = next(iter(recorded_all(store)))
    assert isinstance(found, Recorded)
    # The other chip's certificate vouches for nothing here.
    assert [leaf.der for leaf in found.collateral.leaves] == [leaf.der for leaf in offered.leaves]
    assert outcomes(store) == {Outcome.AGREES: 1}
    with closing(sqlite3.connect(world.directory / "ca.sqlite3")) as database:
        database.execute("DELETE FROM collateral")
        database.commit()
    assert outcomes(store) == {Outcome.UNREADABLE: 1}
    assert row.admitted


def _in_trace(old: str, new: str) -> str:
    return f"UPDATE decisions SET trace = replace(trace, '{old}', '{new}')"  # noqa: S608 - of these tests alone


class TestTampering:
    @pytest.mark.parametrize(
        ("statement", "outcome"),
        [
            (
                _in_trace('"verdict":"passed","reason":"","expected":"trusted"', '"verdict":"failed"'),
                Outcome.UNREADABLE,
            ),
            (
                _in_trace(
                    '"passed","reason":"","expected":"trusted"', '"failed","reason":"","expected":"trusted"'
                ),
                Outcome.DIFFERS,
            ),
            (_in_trace('"actual":"trusted"', '"actual":"liked"'), Outcome.DIFFERS),
            # Another release may have other words.
            (
                """UPDATE decisions SET trace = replace(replace(trace, '"actual":"trusted"', '"actual":"liked"'),
                '"release":"', '"release":"another ')""",
                Outcome.REPHRASED,
            ),
            (_in_trace('"occupant":null', '"occupant":{}'), Outcome.UNREADABLE),
            ("UPDATE decisions SET trace = 'x'", Outcome.UNREADABLE),
            ("UPDATE decisions SET at = '2026-12-30T00:00:00Z'", Outcome.DIFFERS),
            ("UPDATE policies SET text = text || char(10) || 'unsafe = []'", Outcome.UNREADABLE),
            (
                "UPDATE policies SET text = replace(text, 'max_age_s = 3600', 'max_age_s = 3601')",
                Outcome.UNREADABLE,
            ),
            ("DELETE FROM policies", Outcome.UNREADABLE),
            ("DELETE FROM evidence", Outcome.UNREADABLE),
        ],
    )
    def test_it_shows(self, world, store, enroller, tpms, statement, outcome):
        enroller.enroll(world.body(enroller.new_nonce().nonce, tpms(0)))
        assert outcomes(store) == {Outcome.AGREES: 1}
        with closing(sqlite3.connect(world.directory / "ca.sqlite3")) as database:
            assert database.execute(statement).rowcount
            database.commit()
        assert outcomes(store) == {outcome: 1}

    def test_what_the_ledger_knew_counts(self, world, store, enroller, tpms):
        w.issue(world, enroller, tpms(0), w.Boot(counter=2))
        refused(world, enroller, tpms(0), w.Boot(counter=1))
        with closing(sqlite3.connect(world.directory / "ca.sqlite3")) as database:
            database.execute(
                """UPDATE decisions SET trace = replace(trace, '"counter":"2"', '"counter":"0"')"""
            )
            database.commit()
        found = [one for one in replay_database(store) if one.outcome is not Outcome.AGREES]
        assert [(one.outcome, one.rules) for one in found] == [(Outcome.DIFFERS, ("ledger.counter",))]


def test_an_auditor_replays_an_export(history, world, tmp_path):
    key, dest = log_key(world.authority), tmp_path / "export"
    with history.read() as tx:
        export_log(tx, key, dest, {})
    assert audit_folder(dest, key).counts.keys() == {"issuer.missing"}
    assert Counter(found.outcome for found in replay_export(dest)) == outcomes(history)
    with history.read() as tx:
        row = _an_admission(tx)
    (one,) = replay_export(dest, row.id)
    assert (one.id, one.outcome) == (row.id, Outcome.AGREES)
    with pytest.raises(NotFound):
        list(replay_export(dest, "00"))
    policy = next((dest / "policies").iterdir())
    policy.unlink()
    assert Outcome.UNREADABLE in {found.outcome for found in replay_export(dest)}


class TestUnderAnotherPolicy:
    """What the ledger knew is about one instance and its keys; another policy may ask about others."""

    @pytest.fixture
    def known(self, world, store, enroller, tpms) -> Recorded:
        """A known TPM that came back without TPM2_Certify."""
        w.issue(world, enroller, tpms(0))
        world.later(minutes=1)
        w.issue(world, enroller, tpms(0), w.Boot(counter=2, certify=False))
        *_, (_, found) = recorded_all(store)
        return found

    def test_it_gets_its_certificates_again(self, known, world):
        assert known.judge(load(world.policy())).admitted

    def test_another_id_of_its_key_broker_makes_it_a_stranger(self, known, world):
        renamed = load(world.policy().replace('id = "org-kbs"', 'id = "renamed"'))
        failed = [f.rule for f in known.judge(renamed).findings if f.verdict is Verdict.FAILED]
        assert failed == ["ledger.key-unique", "ledger.key-id-unique"]

    def test_another_profile_of_its_iak_is_new_issuance(self, known, world):
        other = load(world.policy().replace("[tpm]", '[tpm]\niak_profile = "iak-webauthn"'))
        assert known.judge(other).refusal.rule == "certify.present"


class TestFile:
    @pytest.fixture
    def found(self, history) -> Recorded:
        with history.read() as tx:
            return recorded(tx, _an_admission(tx).id)[1]

    def test_a_decision_as_a_file_is_the_same_decision(self, found, world):
        text = json.dumps(found.to_json())
        again = Recorded.from_json(json.loads(text))
        assert again == found
        policy = load(world.policy())
        assert again.judge(policy) == found.judge(policy)

    @pytest.mark.parametrize(
        ("member", "value", "path"),
        [
            ("kind", "something", "kind"),
            ("schema", 2, "schema"),
            ("stage", "later", "stage"),
            ("mode", "test", "mode"),
            ("at", "yesterday", "at"),
            ("body", "%", "body"),
            ("ledger", {}, "ledger.instance"),
            ("collateral", ["vcek-" + "0" * 64 + ".der"], "items"),
            ("collateral", ["../../etc/passwd"], "items"),
            ("items", {"x": "%"}, "items.x"),
            ("surprise", 1, "surprise"),
        ],
    )
    def test_a_bad_file_names_what_is_wrong(self, found, member, value, path):
        with pytest.raises(BadRequest) as caught:
            Recorded.from_json({**found.to_json(), member: value})
        assert caught.value.path == path
        assert caught.value.code == "recorded"

    def test_what_is_no_object_is_no_file(self):
        for value in (None, [], "x", 1, {}):
            with pytest.raises(BadRequest):
                Recorded.from_json(value)

    def test_certificates_that_nothing_names_are_left_out(self, found):
        members = found.to_json()
        members["items"] = {**members["items"], "unasked": b64std(b"x")}
        assert Recorded.from_json(members) == found

    def test_another_mode_is_judged_as_such(self, found, world):
        policy = load(world.policy())
        assert found.judge(policy).admitted
        assert found.judge(policy, mode="production").refusal.rule == "snp.chain"


_words = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
_known = st.builds(
    LedgerKnown,
    instance=st.tuples(_words, _words, _words),
    instance_id=st.none() | st.integers(0, 2**53 - 1),
    occupant=st.none()
    | st.builds(Occupant, ek_set=_words.filter(bool), counter=st.integers(0, 2**128 - 1), root=_words),
    key_instances=st.dictionaries(_words, st.integers(0, 2**53 - 1), max_size=4),
    key_id_owner=st.none() | st.tuples(_words, _words),
    standing=st.frozensets(_words, max_size=4),
    revoked=st.lists(_words, max_size=4).map(tuple),
    blocked=st.frozensets(_words, max_size=4),
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=8,
)


@given(_known, st.sampled_from(MODES))
def test_inputs_come_back_as_they_were_stored(known, mode):
    inputs = Inputs("ca", mode, "0.5.0", known, ("crl-" + "a" * 64 + ".der",))
    text = Record(Trace((Finding("a.b", Verdict.PASSED),)), inputs.to_json()).text()
    read = Record.parse(text)
    assert Inputs.from_json(read.inputs) == inputs
    assert Record.parse(read.text()) == read


@pytest.mark.parametrize("member", ["standing", "blocked"])
@pytest.mark.parametrize("texts", [["", ""], ["b", "a"]])
def test_a_set_has_one_form(member, texts):
    """Else two records would be one and the same, and what is read would be written another way."""
    known = LedgerKnown(("kbs", "resource", ""), None, None, {}, None, frozenset(), (), frozenset())
    with pytest.raises(WireError, match="sorted") as caught:
        LedgerKnown.from_json({**known.to_json(), member: texts})
    assert caught.value.path == member


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(_known, st.sampled_from(["instance", "number", "occupant", "keys", "key_id_owner", "standing"]), _json)
def test_other_inputs_are_refused_or_read(known, member, value):
    members = {**known.to_json(), member: value}
    try:
        read = LedgerKnown.from_json(members)
    except WireError as error:
        assert error.path.startswith(member)  # noqa: PT017 - most values are refused, some are good
        return
    assert read.to_json() == members


@given(_json)
def test_any_text_is_a_record_or_none(value):
    try:
        Record.parse(json.dumps(value))
    except ValueError:
        return
    assert isinstance(value, list | dict)


def _trace(*findings: tuple[str, str]) -> Trace:
    return Trace(tuple(Finding(rule, Verdict(verdict)) for rule, verdict in findings))


@pytest.mark.parametrize(
    ("stored", "anew", "outcome"),
    [
        ([("nonce.a", "passed"), ("b.c", "passed")], [("b.c", "passed")], Outcome.AGREES),
        ([("activation.secret", "failed")], [("b.c", "passed")], Outcome.BEYOND),
        ([("activation.secret", "passed"), ("b.c", "failed")], [("b.c", "failed")], Outcome.AGREES),
        (
            [("b.c", "passed"), ("lint.x", "passed"), ("lint.y", "failed")],
            [("b.c", "passed")],
            Outcome.BEYOND,
        ),
        ([("b.c", "passed"), ("lint.y", "failed")], [("b.c", "failed")], Outcome.DIFFERS),
        ([("b.c", "passed")], [("b.c", "failed")], Outcome.DIFFERS),
        ([("b.c", "failed"), ("b.d", "failed")], [("b.d", "failed"), ("b.c", "failed")], Outcome.DIFFERS),
        ([("b.c", "passed")], [("b.c", "passed"), ("b.d", "passed")], Outcome.REPHRASED),
        ([("b.c", "passed")], [("b.c", "unsafe-skipped")], Outcome.REPHRASED),
        ([("b.c", "passed")], [], Outcome.DIFFERS),
    ],
)
def test_how_decisions_compare(stored, anew, outcome):
    assert compare(_trace(*stored), _trace(*anew)).outcome is outcome


def test_at_most_so_many_rules_are_named():
    many = [(f"a.{n}", "passed") for n in range(100)]
    found = compare(_trace(*many), _trace(*((rule, "failed") for rule, _ in many)))
    assert found == Comparison(Outcome.DIFFERS, tuple(rule for rule, _ in many[:20]))


def test_a_decisions_names_are_those_of_its_items(history):
    for _, found in recorded_all(history):
        assert list(found.inputs.collateral) == [item.name for item in items_of(found.collateral)]
