"""Pages of TPMs and of decisions, and the newest evidence of each TPM: on every kind of database."""

from datetime import datetime, timedelta

import pytest

from ca_service.store import (
    Cause,
    CertificateState,
    DecisionRow,
    EvidenceFacts,
    RevocationRow,
    Store,
    TpmState,
    schema,
)

S = CertificateState
DAY = timedelta(days=1)


def decide(tx, name: str, at: datetime, ek_set: str | None, resource: str, *, admitted: int = 1) -> None:
    facts = EvidenceFacts(measurement="aa", product="Milan", ek_set=ek_set)
    tx.decisions.keep_evidence(f"e-{name}", b"body", at, facts)
    tx.decisions.add(DecisionRow(name, at, "enroll", admitted, "", "[]", 1, "", f"e-{name}", "org", resource))


def certify(tx, tpm: int, serial: str, state: CertificateState, not_after: datetime | None) -> None:
    tx.connection.execute(
        schema.certificates.insert().values(
            serial=serial, issuer="i", profile="ek", template="L-1", key_name=serial, live=None, intent_id="i1",
            tpm_id=tpm, state=state.value, tbs=b"", der=b"", not_after=not_after,
        )
    )  # fmt: skip


@pytest.fixture
def tpms(store: Store, enrolled: int, at: datetime) -> list[int]:
    """Five TPMs more than the one of `enrolled`, each in an instance of its own but for the last two."""
    made = [enrolled]
    with store.write() as tx:
        tx.connection.execute(
            schema.intents.insert().values(
                id="i1", enrollment_id="e1", tpm_id=enrolled, decision_id="d1", policy_version=1,
                evidence_digest="aa", owner="o", state="issued", created_at=at,
            )
        )  # fmt: skip
        for number in range(1, 6):
            if number != 5:
                instance = tx.ledger.add_instance("org", f"default/vtpm/{number}", "", at)
            else:
                tx.ledger.free(made[-1], at)
            made.append(tx.ledger.add_tpm(instance, f"ek-{number}", TpmState(1, "0", "1", "2", at)))
    return made


def test_who_has_certificates_that_are_good(store, tpms, at):
    soon = at + DAY
    states = {
        1: [(S.ISSUED, soon), (S.SUPERSEDED, None), (S.REVOKED, soon)],
        2: [(S.REVOKED, soon), (S.INTENDED, soon), (S.ABANDONED, soon)],
        3: [(S.ISSUED, at - DAY)],
        4: [(S.ISSUED, at)],
        5: [(S.ISSUED, None)],
    }
    with store.write() as tx:
        for number, listed in states.items():
            for i, (state, end) in enumerate(listed):
                certify(tx, tpms[number], f"{number}{i}", state, end)
    with store.read() as tx:
        found = tx.fleet.certified(at, 0, 10)
        assert [(tpm.tpm_id, tpm.certificates, tpm.live, tpm.resource) for tpm in found] == [
            (tpms[1], 2, True, "default/vtpm/1"),
            (tpms[4], 1, False, "default/vtpm/4"),
            (tpms[5], 1, True, "default/vtpm/4"),
        ]
        assert tx.fleet.certified(at, 0, 2) == found[:2]
        assert tx.fleet.certified(at, tpms[1], 1) == found[1:2]
        assert tx.fleet.certified(at, tpms[5], 1) == []
        assert tx.fleet.certified_of(at, [tpms[5], tpms[2], 999]) == found[2:]
        assert tx.fleet.certified_of(at, []) == []
        assert [tpm.tpm_id for tpm in tx.fleet.certified(at + DAY / 2, 0, 10)] == [tpms[1], tpms[5]]


def test_the_newest_evidence_of_each(store, tpms, at):
    with store.write() as tx:
        decide(tx, "first", at, "ek-1", "default/vtpm/1")
        decide(tx, "later", at + DAY, "ek-1", "default/vtpm/1")
        decide(tx, "refused", at + 2 * DAY, "ek-1", "default/vtpm/1", admitted=0)
        decide(tx, "elsewhere", at + 2 * DAY, "ek-1", "default/vtpm/2")
        decide(tx, "other", at + 2 * DAY, "ek-9", "default/vtpm/1")
        decide(tx, "unread", at + 2 * DAY, None, "default/vtpm/3")
        # Two TPMs of one instance, one after the other.
        decide(tx, "gone", at, "ek-4", "default/vtpm/4")
        decide(tx, "here", at, "ek-5", "default/vtpm/4")
    with store.read() as tx:
        found = tx.fleet.newest_evidence(tpms)
        assert {number: row.decision_id for number, row in found.items()} == {
            tpms[1]: "later", tpms[4]: "gone", tpms[5]: "here",
        }  # fmt: skip
        assert found[tpms[1]].at == at + DAY
        assert (found[tpms[1]].evidence_digest, found[tpms[1]].product) == ("e-later", "Milan")
        assert tx.fleet.newest_evidence([]) == {}


def test_decisions_from_the_newest_on(store, at):
    """Every one once, whatever the size of the page, also those of one second."""
    with store.write() as tx:
        for number in range(9):
            decide(tx, f"n{number}", at + DAY * (number // 3), None, "default/vtpm/1")
    wanted = ["n8", "n7", "n6", "n5", "n4", "n3", "n2", "n1", "n0"]
    for size in (1, 2, 4, 9, 20):
        found, after = [], None
        with store.read() as tx:
            while page := tx.fleet.newest_decisions(at, after, size):
                assert len(page) <= size
                found += page
                after = (page[-1].at, page[-1].id)
        assert [row.id for row in found] == wanted
    with store.read() as tx:
        assert [row.id for row in tx.fleet.newest_decisions(at + DAY, None, 20)] == wanted[:6]
        assert [tx.fleet.count_decisions(at + day * DAY) for day in (0, 1, 2, 3)] == [9, 6, 3, 0]


def test_a_cause_that_names_tpms(store, tpms, at):
    with store.write() as tx:
        for number in (1, 2, 3):
            certify(tx, tpms[number], f"{number}", S.ISSUED, None)
        tx.revocations.add(RevocationRow("i", "9", at, "unspecified", "c"))

    def hit(*numbers):
        cause = Cause(tpm_ids=tuple(tpms[number] for number in numbers))
        with store.read() as tx:
            return tx.causes.tpms(cause, at), {row.serial for row in tx.causes.hits(cause, at, 10)}

    assert hit(1, 3) == ([tpms[1], tpms[3]], {"1", "3"})
    # None is nobody, and not everybody.
    assert hit() == ([], set())


def test_no_page_looks_at_all_rows(store, at):
    if store.backend != "sqlite":
        pytest.skip("SQLite says in words what it does")
    said = []
    with store.read() as tx:
        raw = tx.connection.connection.dbapi_connection
        raw.set_trace_callback(said.append)
        tx.fleet.certified(at, 5, 10)
        tx.fleet.newest_evidence([1, 2])
        tx.fleet.newest_decisions(at, (at, "x"), 10)
        raw.set_trace_callback(None)
        queries = [text for text in said if text.startswith("SELECT")]
        plans = [row[3] for text in queries for row in raw.execute(f"EXPLAIN QUERY PLAN {text}").fetchall()]
    assert len(queries) >= 3
    assert any("USING INDEX" in plan for plan in plans)
    assert {plan.split()[1] for plan in plans if plan.startswith("SCAN ")} & set(
        schema.metadata.tables
    ) == set()
