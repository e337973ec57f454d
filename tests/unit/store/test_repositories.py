"""The rules that the database itself holds, whatever the code above does."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from ca_service.store import (
    CertificateRow,
    CertificateState,
    CrlRow,
    EnrollmentState,
    IntentRow,
    IntentState,
    LedgerQuery,
    RevocationRow,
    Store,
    SubmissionRow,
    Taken,
    TpmState,
    live_key,
)


def intent(tpm: int, at: datetime, name: str = "i1") -> IntentRow:
    return IntentRow(name, "e1", tpm, "d1", 1, "aa", "me", IntentState.OPEN, at, None)


def certificate(tpm: int, serial: str, key: str = "000b11", intent_id: str = "i1") -> CertificateRow:
    return CertificateRow(
        serial, "ca", "ek", "L-1", key, live_key("ek", key), intent_id, tpm, CertificateState.INTENDED, b"tbs", None,
        None, None,
    )  # fmt: skip


def test_a_nonce_is_consumed_once(store: Store, enrolled: int, at: datetime):
    with pytest.raises(Taken), store.write() as tx:
        tx.submissions.add(SubmissionRow("n1", "bb", at, "d1", 201, b"{}"))
    with store.read() as tx:
        assert tx.submissions.get("n1").body_digest == "aa"


def test_evidence_is_kept_once_and_comes_back(store: Store, enrolled: int, at: datetime):
    with store.write() as tx:
        tx.decisions.keep_evidence("aa", b"body", at)
    with store.read() as tx:
        assert tx.decisions.evidence("aa") == b"body"
        assert tx.decisions.evidence("bb") is None
        assert [row.id for row in tx.decisions.latest()] == ["d1"]


def test_a_state_moves_only_from_where_it_is(store: Store, enrolled: int):
    with store.write() as tx:
        assert tx.enrollments.move("e1", EnrollmentState.PENDING, EnrollmentState.ISSUING)
        assert not tx.enrollments.move("e1", EnrollmentState.PENDING, EnrollmentState.FAILED)
        assert tx.enrollments.move("e1", EnrollmentState.ISSUING, EnrollmentState.ISSUED, reply=b"r")
    with store.read() as tx:
        row = tx.enrollments.get("e1")
    assert (row.state, row.reply) == (EnrollmentState.ISSUED, b"r")


def test_one_live_tpm_per_instance(store: Store, enrolled: int, at: datetime):
    state = TpmState(0, "", "", "", at)
    with store.read() as tx:
        instance = tx.ledger.instance("org", "default/vtpm/a").id
    with pytest.raises(Taken), store.write() as tx:
        tx.ledger.add_tpm(instance, "other", state)
    with store.write() as tx:
        tx.ledger.free(enrolled, at)
        tx.ledger.add_tpm(instance, "other", state)
    with store.read() as tx:
        assert tx.ledger.occupant(instance).ek_set == "other"
        assert [tpm.ek_set for tpm in tx.ledger.tpms(instance)] == ["ek-set", "other"]


def test_a_key_and_a_secret_are_bound_once(store: Store, enrolled: int, at: datetime):
    with store.write() as tx:
        tx.ledger.bind_keys([("000b", "ek", "L-1")], 1)
        tx.ledger.bind_key_id("k", "org", "default/vtpm/a")
        tx.ledger.add_instance("org", "default/vtpm/b", "", at)
    with pytest.raises(Taken), store.write() as tx:
        tx.ledger.bind_keys([("000c", "iak", "H-3"), ("000b", "ek", "L-1")], 2)
    with pytest.raises(Taken), store.write() as tx:
        tx.ledger.bind_key_id("k", "org", "default/vtpm/b")
    with store.read() as tx:
        _, view = tx.views.look(LedgerQuery(key_id="k", names=("000b", "000c")), at)
        assert view.key_instances == {"000b": 1}
        assert view.key_id_owner == ("org", "default/vtpm/a")
        assert tx.ledger.keys(1) == [("ek", "L-1", "000b")]


@pytest.mark.parametrize("start", [7, 2**63, 2**64 - 1, 2**127 - 1, 10**38 - 1, 2**128 - 2, 2**128 - 1])
def test_the_counter_never_goes_back_and_goes_round(store: Store, enrolled: int, at: datetime, start: int):
    last = start, "00"
    with store.write() as tx:
        instance = tx.ledger.add_instance("org", "default/vtpm/b", "", at)
        tpm = tx.ledger.add_tpm(instance, "other", TpmState(*last, "", "", at))
        for way, root in (
            (-1, "01"),
            (2, "02"),
            (-(2**127), "03"),
            (0, "04"),
            (2**127 - 1, "05"),
            (-2, "06"),
        ):
            state = (last[0] + way) % 2**128, root
            tx.ledger.seen(tpm, TpmState(*state, "", "", at))
            last = state if way >= 0 else last
            row = tx.ledger.occupant(instance)
            assert (row.counter, row.root) == last
        assert tx.ledger.occupant(1).counter == 7


def test_one_live_certificate_per_profile_and_key(store: Store, enrolled: int, at: datetime):
    with store.write() as tx:
        tx.intents.add(intent(enrolled, at))
        tx.certificates.add_all([certificate(enrolled, "01")])
    with pytest.raises(Taken), store.write() as tx:
        tx.certificates.add_all([certificate(enrolled, "03", key="000b33"), certificate(enrolled, "02")])
    with store.write() as tx:
        tx.certificates.end("01", CertificateState.ABANDONED)
        tx.certificates.add_all([certificate(enrolled, "02")])
        assert tx.certificates.issued_all({"02": b"der"}, at)
        assert not tx.certificates.issued_all({"02": b"other"}, at)
        assert not tx.certificates.issued_all({"01": b"der"}, at)
        assert tx.certificates.issued_all({}, at)
    with store.read() as tx:
        key = live_key("ek", "000b11")
        _, view = tx.views.look(LedgerQuery(lives=(key, live_key("ek", "000b33"))), at)
        assert {live: row.serial for live, row in view.live.items()} == {key: "02"}
        row = tx.certificates.get("02")
        assert (row.der, row.tbs, row.issued_at, row.state) == (b"der", b"", at, CertificateState.ISSUED)
        assert [row.serial for row in tx.certificates.latest(state=CertificateState.ISSUED)] == ["02"]


def test_a_serial_is_used_once(store: Store, enrolled: int, at: datetime):
    with store.write() as tx:
        tx.intents.add(intent(enrolled, at))
        tx.certificates.add_all([certificate(enrolled, "01")])
    with pytest.raises(Taken), store.write() as tx:
        tx.certificates.add_all([certificate(enrolled, "01", key="000b22")])


def test_an_intent_closes_once(store: Store, enrolled: int, at: datetime):
    with store.write() as tx:
        tx.intents.add(intent(enrolled, at))
        assert [row.id for row in tx.intents.open_of("e1")] == ["i1"]
        assert tx.intents.close("i1", IntentState.ABANDONED, at)
        assert not tx.intents.close("i1", IntentState.ISSUED, at)
        assert tx.intents.open() == []


def test_revocations_stay_and_crl_numbers_are_unique(store: Store, at: datetime):
    row = RevocationRow("ca", "01", at, "superseded", "test")
    with store.write() as tx:
        assert tx.revocations.add(row)
        assert not tx.revocations.add(replace(row, reason="keyCompromise"))
        tx.crls.add(CrlRow("ca", 1, at, at + timedelta(days=1), b"one"))
        tx.crls.add(CrlRow("ca", 2, at, at + timedelta(days=1), b"two"))
    with pytest.raises(Taken), store.write() as tx:
        tx.crls.add(CrlRow("ca", 2, at, at, b"again"))
    with store.read() as tx:
        assert tx.crls.latest("ca").der == b"two"
        assert tx.revocations.of_issuer("ca") == [row]


def test_policies_count_up_and_the_last_is_in_force(store: Store, at: datetime):
    with store.write() as tx:
        assert tx.policies.version_in_force(at) == 0
        assert tx.policies.append("d1", "t1", at, "me").version == 1
        assert tx.policies.append("d2", "t2", at, "me").version == 2
    with store.read() as tx:
        assert tx.policies.in_force(at).text == "t2"
        assert tx.policies.get(1).digest == "d1"


def test_alarms_come_newest_first(store: Store, at: datetime):
    with store.write() as tx:
        tx.alarms.add("clone", "d1", "{}", at)
        tx.alarms.add("clone", "d2", "{}", at)
    with store.read() as tx:
        assert [row.decision_id for row in tx.alarms.latest()] == ["d2", "d1"]
