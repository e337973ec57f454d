"""Sessions that stay open between transactions: nothing of one transaction may show in the next."""

import sqlite3
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from ca_service.judgment import Unavailable, VtpmCaError
from ca_service.store import (
    BlockedKeyRow,
    CertificateState,
    DecisionRow,
    EnrollmentState,
    IntentState,
    IssuerState,
    Store,
    Taken,
    create_store,
    open_store,
    sessions,
)


def test_sessions_are_used_again(store: Store):
    def connection() -> object:
        with store.read() as tx:
            return tx.connection

    first = connection()
    assert connection() is first
    with store.write() as tx, store.read() as other:
        assert tx.connection is first
        assert other.connection is not first


def test_a_session_whose_options_were_changed_is_not(store: Store):
    with store.read() as tx:
        first = tx.connection
        first.execution_options(yield_per=1)
    with store.read() as tx:
        assert tx.connection is not first
    assert first.closed


def test_a_commit_that_fails_leaves_a_session_that_works(tmp_path: Path, at: datetime):
    """By a statement of SQLAlchemy and by one of ours; only SQLite lets a commit fail so easily."""
    store = create_store(f"sqlite:///{tmp_path}/a.sqlite3")
    row = DecisionRow("d", at, "enroll", 1, "", "[]", 1, "", "nowhere", "org", "r")
    with pytest.raises(Taken), store.write() as tx:  # noqa: PT012 - it fails at the block's end
        tx.connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        tx.connection.exec_driver_sql("INSERT INTO tpm_keys VALUES ('n', 7, 'ek', 'L-1')")
    with pytest.raises(Taken), store.write() as tx:  # noqa: PT012 - likewise
        tx._session._driver.execute("PRAGMA defer_foreign_keys=ON")
        tx.ledger.bind_keys([("n", "ek", "L-1")], 7)
    with store.write() as tx:
        assert tx.connection.exec_driver_sql("SELECT count(*) FROM tpm_keys").scalar() == 0
        tx.decisions.add(row)
    with store.read() as tx:
        assert tx.decisions.latest() == [row]
    store.close()


def test_there_are_so_many_and_no_more(database: str, monkeypatch):
    monkeypatch.setattr(sessions, "MOST", 2)
    monkeypatch.setattr(sessions, "WAIT_S", 0.05)
    store = open_store(database)
    with store.read(), store.read():
        with pytest.raises(Unavailable, match="no connection is free"), store.read():
            pass
        with pytest.raises(Unavailable, match="no connection is free"), store.write():
            pass
    for _ in range(3):
        with store.read(), store.write():
            pass
    store.close()


def test_few_of_them_stay_open(database: str, monkeypatch):
    monkeypatch.setattr(sessions, "KEPT", 1)
    store = open_store(database)
    with store.read() as one, store.read() as other:
        both = [one.connection, other.connection]
    assert sorted(connection.closed for connection in both) == [False, True]
    store.close()
    assert all(connection.closed for connection in both)


def test_one_that_is_in_use_is_closed_at_its_end(store: Store):
    with store.read() as tx:
        store.close()
        assert tx.policies.all() == []
        connection = tx.connection
    assert connection.closed


def test_a_transaction_is_not_used_after_its_end(store: Store, at: datetime):
    with store.write() as tx:
        tx.blocked_keys.add(BlockedKeyRow("k", at, "me", "why"))
    for use in (
        lambda: tx.views.standing(at),
        lambda: tx.blocked_keys.add(BlockedKeyRow("l", at, "me", "why")),
    ):
        with pytest.raises(VtpmCaError, match="after its end"):
            use()
    with store.read() as other:
        assert [row.spki for row in other.blocked_keys.all()] == ["k"]


def test_the_driver_of_sqlite_need_not_ask_what_becomes_of_a_value(tmp_path: Path):
    create_store(f"sqlite:///{tmp_path}/a.sqlite3").close()
    states = [*CertificateState, *EnrollmentState, *IntentState, *IssuerState]
    for value in (None, b"", b"\x00\xff", *states):
        adapted = sqlite3.adapters[type(value), sqlite3.PrepareProtocol](value)
        assert adapted == value
        assert type(adapted) in {type(None), bytes, str}


def test_a_reader_without_a_database_is_told_so(store: Store):
    error = OperationalError("SELECT", None, Exception("no"))
    with pytest.raises(Unavailable, match="cannot be read"), store.read():
        raise error
    with pytest.raises(KeyError, match="a fault"), store.read():
        raise KeyError("a fault")
    with store.read() as tx:
        assert tx.policies.all() == []


def test_an_error_of_the_driver_is_one_of_sqlalchemy(store: Store, at: datetime):
    with store.write() as tx:
        tx.blocked_keys.add(BlockedKeyRow("k", at, "me", "why"))
    with store.write() as tx, pytest.raises(DBAPIError) as error:
        tx.blocked_keys.add(BlockedKeyRow("k", at, "somebody", "why"))
    assert isinstance(error.value, IntegrityError)
    assert error.value.orig is error.value.__cause__
    assert "somebody" not in str(error.value)
