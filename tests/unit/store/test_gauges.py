"""What monitoring reads, on both databases; and that it never looks at every row."""

import os
import re
import resource
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from ca_service.judgment import Unavailable
from ca_service.store import (
    CrlRow,
    IssuerRow,
    IssuerState,
    RevocationRow,
    open_store,
    read_gauges,
    revocations_by_reason,
)

AT = datetime(2026, 11, 26, 8, 0, 0, tzinfo=UTC)


@pytest.fixture
def store(database):
    store = open_store(database)
    yield store
    store.close()


def test_an_empty_database(store):
    with store.read() as tx:
        found = read_gauges(tx, AT)
        assert revocations_by_reason(tx) == {}
    assert (found.policy_version, found.log_size, found.epoch, found.open_intents) == (0, 0, 1, 0)
    assert (found.policy_applied_at, found.log_at, found.decided_at, found.oldest_intent_at) == (None,) * 4
    assert (found.issuers, found.lists) == ((), ())
    assert found.size > 0


def test_how_things_stand(store):
    with store.write() as tx:
        tx.policies.append("00", "one", AT, "tests")
        tx.policies.append("11", "two", AT + timedelta(seconds=1), "tests")
        for skid, active in (("aa", "ek:default"), ("bb", None)):
            state = IssuerState.ACTIVE if active else IssuerState.OLD
            tx.issuers.add(IssuerRow(skid, "ek", "default", state, active, b"", AT, AT))
        for number in range(1, 12):
            at = AT + timedelta(days=number)
            tx.crls.add(CrlRow("aa", number, at, at + timedelta(days=7), b"x" * 10_000))
        for serial, reason in (("1", "keyCompromise"), ("2", "superseded"), ("3", "superseded")):
            tx.revocations.add(RevocationRow("aa", serial, AT, reason, "tests"))
    with store.read() as tx:
        found = read_gauges(tx, AT)
        assert revocations_by_reason(tx) == {"keyCompromise": 1, "superseded": 2}
    assert (found.policy_version, found.policy_applied_at) == (2, AT + timedelta(seconds=1))
    assert [(issuer.skid, issuer.state) for issuer in found.issuers] == [("aa", "active"), ("bb", "old")]
    # Of the newest list, and none for who has none.
    assert [(row.skid, row.number, row.next_update) for row in found.lists] == [
        ("aa", 11, AT + timedelta(days=18))
    ]


def test_of_several_lists_the_stalest_counts_and_all_are_named(store):
    """Not what was published once: a list of the future that was followed by one of now is forgotten."""
    with store.write() as tx:
        tx.issuers.add(IssuerRow("aa", "ek", "default", IssuerState.OLD, None, b"", AT, AT))
        for shard, number, days in ((0, 1, 400), (0, 2, 2), (1, 7, 1), (3, 1, 3), (10**9, 1, 0)):
            at = AT + timedelta(days=days)
            tx.crls.add(CrlRow("aa", number, at, at + timedelta(days=7), b"", shard))
    with store.read() as tx:
        (row,) = read_gauges(tx, AT).lists
    assert (row.number, row.this_update, row.shards) == (7, AT + timedelta(days=1), {0, 1, 3})
    assert row.made_last == AT + timedelta(days=3)


def test_no_statement_looks_at_every_row(store):
    """By the plans of SQLite: only the tables that hold a few rows for good may be gone through."""
    if store.backend != "sqlite":
        pytest.skip("PostgreSQL plans by the numbers of rows")
    statements: list[str] = []
    with store.write() as tx:
        tx.issuers.add(IssuerRow("aa", "ek", "default", IssuerState.ACTIVE, "ek:default", b"", AT, AT))
    with store.read() as tx:
        sa.event.listen(tx.connection, "before_cursor_execute", lambda *given: statements.append(given[2]))
        read_gauges(tx, AT)
        assert len(statements) >= 7
        for statement in [s for s in statements if "pragma" not in s]:
            plan = tx.connection.exec_driver_sql(
                "EXPLAIN QUERY PLAN " + re.sub(r"\?", "'x'", statement)
            ).fetchall()
            text = " ".join(str(row[-1]) for row in plan)
            # An index that has the open intents alone is short.
            for table in re.findall(r"SCAN (\w+)\b(?! USING INDEX ix_intents_open)", text):
                assert table in (
                    "issuers",
                    "log_head",
                    "policy_starts",
                    "epochs",
                    "s",
                    "shards",
                    "CONSTANT",
                ), (
                    statement,
                    text,
                )


class TestWritable:
    def test_it_writes_and_leaves_nothing(self, store):
        def state() -> tuple[object, ...]:
            with store.read() as tx:
                if store.backend == "sqlite":
                    return (
                        read_gauges(tx, AT).size,
                        tx.connection.exec_driver_sql("PRAGMA user_version").scalar(),
                    )
                lsn = "SELECT pg_current_wal_flush_lsn() - '0/0', (SELECT count(*) FROM pg_class)"
                return tuple(tx.connection.exec_driver_sql(lsn).one())[::-1]

        (size, before), times = state(), 300
        for _ in range(times):
            store.check_writable()
        grown, after = state()
        assert grown == size
        assert after >= before + (times if store.backend == "sqlite" else times * 32)

    def test_a_disk_that_takes_nothing_more_is_noticed(self, store):
        """To begin a transaction and roll it back would succeed here."""
        if store.backend != "sqlite":
            pytest.skip("the files of PostgreSQL are another process's")
        with store.write() as tx:
            tx.policies.append("00", "one", AT, "tests")
        store.close()

        def code() -> int:
            with store.read() as tx:
                tx.connection.exec_driver_sql("SELECT 1")
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            try:
                store.check_writable()
            except Unavailable as error:
                return 7 if "written" in error.detail else 1
            return 0

        pid = os.fork()
        if pid == 0:
            os._exit(code())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        store.check_writable()
