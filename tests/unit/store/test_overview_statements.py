"""What the status page reads: the right rows in the right order, page by page, and never by looking at all rows."""

import re
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from ca_service.store import (
    CertificateRow,
    CertificateState,
    CrlRow,
    DecisionRow,
    EnrollmentRow,
    EnrollmentState,
    IntentRow,
    IntentState,
    LeafRow,
    ResponderRow,
    StatusSources,
    SubmissionRow,
    TpmState,
    certificate,
    certificates_of,
    certified,
    decision,
    decisions_of,
    hourly,
    policy_versions,
    refusals,
    status_sources,
)

AT = datetime(2026, 11, 26, 8, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def decide(tx, number, at=AT, *, admitted=0, stage="enroll", resource="default/vtpm/a"):
    rule = "" if admitted else "kbs.listed"
    row = DecisionRow(
        f"d{number:03}", at, stage, admitted, rule, "[]", 1, "00", "ee", "org", resource, salt=""
    )
    tx.decisions.add(row)


def certify(tx, tpm_id, count):
    """As many issued certificates, each with its leaf behind two of decisions."""
    tx.decisions.keep_evidence("ee", b"", AT)
    decide(tx, 900, admitted=1)
    tx.submissions.add(SubmissionRow("n", "aa", AT, "d900", 201, b"{}"))
    tx.enrollments.add(EnrollmentRow("e", "n", EnrollmentState.ISSUED, AT, "d900", 1, "ee", None))
    tx.intents.add(IntentRow("i", "e", tpm_id, "d900", 1, "ee", "me", IntentState.ISSUED, AT, AT))
    leaves = []
    for number in range(count):
        serial = f"{number:034x}"
        row = CertificateRow(
            serial, "aa", "ek", "L-1", "00", None, "i", tpm_id, CertificateState.ISSUED, b"t", None, b"d",
            AT + timedelta(seconds=number),
        )  # fmt: skip
        tx.certificates.add_all([row])
        for kind, subject in (
            ("decision", f"x{number}"),
            ("decision", f"y{number}"),
            ("certificate", serial),
        ):
            leaves.append(LeafRow(len(leaves), kind, subject, b"{}"))
    tx.log.add_leaves(leaves)


@pytest.fixture
def tpm_id(store):
    with store.write() as tx:
        instance = tx.ledger.add_instance("org", "default/vtpm/a", "", AT)
        return tx.ledger.add_tpm(instance, "set", TpmState(1, "00", "", "00", AT))


def test_decisions_of_an_hour(store):
    with store.write() as tx:
        for number, (at, admitted, stage) in enumerate(
            [
                (AT - timedelta(seconds=1), 1, "enroll"),
                (AT, 1, "enroll"),
                (AT + timedelta(minutes=59), 1, "enroll"),
                # The same enrolment once more, under a newer policy.
                (AT, 1, "activate"),
                (AT, 0, "enroll"),
                (AT, 0, "activate"),
                (AT + HOUR, 0, "enroll"),
            ]
        ):
            decide(tx, number, at, admitted=admitted, stage=stage)
    with store.read() as tx:
        found = hourly(tx, AT, AT + HOUR)
        assert (found.admitted, found.refused) == (2, 2)
        empty = hourly(tx, AT + 2 * HOUR, AT + 3 * HOUR)
        assert (empty.admitted, empty.refused) == (0, 0)


def test_refusals_page_by_page(store):
    """Many of one second: each comes once, whatever the size of a page."""
    with store.write() as tx:
        for number in range(12):
            decide(tx, number, AT + timedelta(seconds=number // 6))
        decide(tx, 50, AT + HOUR, admitted=1)
    seen, before = [], None
    with store.read() as tx:
        while rows := refusals(tx, 5, before):
            seen += rows
            before = rows[-1].at, rows[-1].id
    assert [row.id for row in seen] == [f"d{number:03}" for number in reversed(range(12))]


def test_a_decision_knows_its_instance(store, tpm_id):
    with store.write() as tx:
        decide(tx, 1)
        decide(tx, 2, resource="default/vtpm/unknown")
    with store.read() as tx:
        assert decision(tx, "d001").instance is not None
        assert decision(tx, "d002").instance is None
        assert decision(tx, "d003") is None
        assert [row.id for row in decisions_of(tx, "org", "default/vtpm/a", "", 5)] == ["d001"]


def test_certificates_page_by_page(store, tpm_id):
    with store.write() as tx:
        certify(tx, tpm_id, 7)
    seen, end = [], 21
    with store.read() as tx:
        while rows := certified(tx, 3, end=end, window=100):
            seen += rows
            end = rows[-1].position
        assert [int(row.serial, 16) for row in seen] == [6, 5, 4, 3, 2, 1, 0]
        assert {row.resource for row in seen} == {"default/vtpm/a"}
        # A window ends where it is told to, also if it holds none.
        assert [int(row.serial, 16) for row in certified(tx, 3, end=21, window=4)] == [6, 5]
        assert certified(tx, 3, end=20, window=2) == []
        assert certificate(tx, seen[0].serial).position == 20
        assert certificate(tx, "ff") is None
        assert len(certificates_of(tx, seen[0].instance, 5)) == 5
        assert certificates_of(tx, seen[0].instance + 1, 5) == []


def test_policy_versions_come_without_their_texts(store):
    with store.write() as tx:
        for number in range(4):
            tx.policies.append(f"{number}", "x" * 1000, AT, "alice")
    with store.read() as tx:
        rows = policy_versions(tx, AT, 3)
    assert [(row.version, row.applied_by, str(state)) for row, state in rows] == [
        (4, "alice", "in-force"),
        (3, "alice", "past"),
        (2, "alice", "past"),
    ]


def test_by_what_an_issuer_says_what_is_revoked(store):
    states = (CertificateState.ISSUED, CertificateState.ISSUED, CertificateState.INTENDED)
    with store.write() as tx:
        for number, state in enumerate(states):
            tx.responders.add(ResponderRow(f"{number}", "aa", state, b"", b"", AT, AT, AT + number * HOUR))
            tx.crls.add(CrlRow("aa", 7, AT, AT, b"", shard=number))
    with store.read() as tx:
        # The responder that holds longest counts, and one that has no certificate yet does not.
        assert status_sources(tx, "aa") == StatusSources(3, AT + HOUR)
        assert status_sources(tx, "bb") == StatusSources(0, None)


def test_no_statement_looks_at_every_row(store):
    """By the plans of SQLite, for each statement that a page may make."""
    if store.backend != "sqlite":
        pytest.skip("PostgreSQL plans by the numbers of rows")
    statements: list[str] = []
    with store.read() as tx:
        sa.event.listen(tx.connection, "before_cursor_execute", lambda *given: statements.append(given[2]))
        hourly(tx, AT, AT + HOUR)
        refusals(tx, 5)
        refusals(tx, 5, (AT, "d"))
        decision(tx, "d")
        decisions_of(tx, "org", "r", "", 5)
        certified(tx, 5, end=100, window=50)
        certificate(tx, "aa")
        certificates_of(tx, 1, 5)
        policy_versions(tx, AT, 5)
        status_sources(tx, "aa")
        made = tuple(statements)
        assert len(made) == 13
        plans = [
            " ".join(
                str(row[-1])
                for row in tx.connection.exec_driver_sql(
                    "EXPLAIN QUERY PLAN " + re.sub(r"\?", "'x'", statement)
                )
            )
            for statement in made
        ]
    for statement, plan in zip(made, plans, strict=True):
        # A policy version is a change by an operator: to go through them backwards is to read the newest. So is to
        # go through an index that has the refusals alone.
        looked_through = re.findall(r"SCAN (\w+)\b(?! USING INDEX ix_decisions_refused)", plan)
        assert set(looked_through) <= {"policies", "CONSTANT"}, (statement, plan)
    assert plans[0].count("COVERING INDEX ix_decisions_at_admitted_stage") == 2
    assert "ix_decisions_refused" in plans[1]
    assert "ix_decisions_refused" in plans[2]
    # From place to place in the log, and not through all leaves about certificates.
    assert re.search(r"SEARCH log_leaves USING INTEGER PRIMARY KEY \(rowid>\? AND rowid<\?\)", plans[5]), (
        plans[5]
    )
    assert not [plan for plan in plans if "(kind=?)" in plan]
    # What is of one second may be sorted, all of it may not.
    for plan in (plans[1], plans[2], plans[5]):
        assert "TEMP B-TREE FOR ORDER BY" not in plan
