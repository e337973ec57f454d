"""Schema, durability settings, and transactions across threads, forks and errors."""

import multiprocessing
import os
import threading
from datetime import datetime

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from ca_service.judgment import Unavailable
from ca_service.store import Store, SubmissionRow, Taken, create_store, open_store, schema
from ca_service.store.database import REVISION


def test_migrations_make_exactly_the_tables_that_the_code_describes(store: Store):
    with store.read() as tx:
        context = MigrationContext.configure(tx.connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


def test_the_newest_migration_is_what_the_program_asks_for(store: Store):
    config = Config()
    config.set_main_option("script_location", "ca_service.store:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION == store.revision()
    with store.read() as tx:
        assert MigrationContext.configure(tx.connection).get_current_revision() == REVISION


@pytest.mark.parametrize("rows", [[], ["0003"], ["9999"], ["0003", "0004"]])
def test_another_schema_is_not_opened(rows, databases):
    url = databases.new()
    store = create_store(url)
    with store.write() as tx:
        tx.connection.exec_driver_sql("DELETE FROM alembic_version")
        for row in rows:
            tx.connection.execute(sa.text("INSERT INTO alembic_version VALUES (:row)"), {"row": row})
    with pytest.raises(Unavailable) as caught:
        store.check()
    assert caught.value.code == "schema"
    store.close()


def test_every_commit_is_flushed_and_foreign_keys_hold(store: Store):
    if store.backend == "postgresql":
        with store.read() as tx:
            assert tx.connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        return
    with store.read() as tx:
        pragma = {
            name: tx.connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragma == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_database_without_schema_is_not_opened(databases):
    url = databases.new()
    with pytest.raises(Unavailable, match="schema"):
        open_store(url)
    create_store(url).close()
    open_store(url).close()


def test_upgrade_twice_changes_nothing(store: Store):
    store.upgrade()
    store.check()
    store.check_writable()


def test_an_exception_rolls_everything_back(store: Store, at: datetime):
    def fail() -> None:
        with store.write() as tx:
            tx.policies.append("d", "t", at, "me")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with store.read() as tx:
        assert tx.policies.in_force(at) is None


def test_a_broken_constraint_is_reported_as_taken(store: Store, at: datetime):
    with pytest.raises(Taken), store.write() as tx:
        # The decision does not exist: a foreign key.
        tx.submissions.add(SubmissionRow("n", "d", at, "nowhere", 403, b""))


def test_times_without_zone_are_not_stored(store: Store):
    with pytest.raises(Exception, match="time zone"), store.write() as tx:
        tx.policies.append("d", "t", datetime(2026, 1, 1), "me")  # noqa: DTZ001 - the point of the test


def test_writers_wait_for_each_other(store: Store, at: datetime):
    """Two stores on one database stand for two processes: no lost version, no error."""
    other = open_store(store.url)

    def append(which: Store) -> None:
        for _ in range(10):
            with which.write() as tx:
                tx.policies.append("d", "t", at, "me")

    threads = [threading.Thread(target=append, args=(s,)) for s in (store, other, store, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as tx:
        assert [row.version for row in tx.policies.all()] == list(range(1, 41))
    other.close()


def _child(store: Store, at: datetime, parents: object) -> None:
    with store.write() as tx:
        tx.policies.append("child", "t", at, "me")
        own = tx.connection is not parents
    os._exit(0 if own else 1)


def test_a_forked_child_gets_connections_of_its_own(store: Store, at: datetime):
    with store.write() as tx:
        tx.policies.append("parent", "t", at, "me")
        connection = tx.connection
    child = multiprocessing.get_context("fork").Process(target=_child, args=(store, at, connection))
    child.start()
    child.join()
    assert child.exitcode == 0
    with store.read() as tx:
        assert [row.digest for row in tx.policies.all()] == ["parent", "child"]


def test_faults_are_told_of_every_write_and_commit(database: str, at: datetime):
    points: list[str] = []
    store = open_store(database, points.append)
    with store.write() as tx:
        tx.policies.append("d", "t", at, "me")
    assert points == [
        "before BEGIN IMMEDIATE",
        "after BEGIN IMMEDIATE",
        "before INSERT INTO policies",
        "after INSERT INTO policies",
        "before INSERT INTO policy_starts",
        "after INSERT INTO policy_starts",
        "before commit",
        "after commit",
    ] or points[-6:] == [
        "before INSERT INTO policies",
        "after INSERT INTO policies",
        "before INSERT INTO policy_starts",
        "after INSERT INTO policy_starts",
        "before commit",
        "after commit",
    ]
    store.close()
