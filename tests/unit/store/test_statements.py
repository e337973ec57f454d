"""Statements that are compiled once and run by the driver: they store and find what SQLAlchemy's execution does."""

import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from ca_service.store import BlockedKeyRow, LedgerQuery, Store, create_store
from ca_service.store.schema import Counter, Instant
from ca_service.store.statements import insert_into, select_by, update_by

TYPES = sa.Table(
    "types",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("instant", Instant),
    sa.Column("counter", Counter),
    sa.Column("octets", sa.LargeBinary),
    sa.Column("number", sa.BigInteger),
    sa.Column("text", sa.Text),
)

INSTANTS = st.datetimes(
    datetime(1, 1, 3),  # noqa: DTZ001 - Hypothesis adds the zone
    datetime(9999, 12, 29),  # noqa: DTZ001
    timezones=st.sampled_from(
        [UTC, timezone(timedelta(hours=-11)), timezone(timedelta(hours=5, minutes=45))]
    ),
).map(lambda at: at.replace(microsecond=0))

ROWS = st.fixed_dictionaries(
    {
        "instant": st.none() | INSTANTS,
        "counter": st.none() | st.integers(0, (1 << 128) - 1),
        "octets": st.none() | st.binary(max_size=40),
        "number": st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
        "text": st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
    }
)


def all_of(tx) -> list[dict[str, object]]:
    return [dict(row) for row in tx.connection.execute(sa.select(TYPES).order_by(TYPES.c.id)).mappings()]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory):
    """One SQLite database for all examples."""
    store = create_store(f"sqlite:///{tmp_path_factory.mktemp('scratch')}/a.sqlite3")
    yield store
    store.close()


@given(rows=st.lists(ROWS, min_size=1, max_size=4))
def test_a_statement_converts_as_sqlalchemy_does(scratch: Store, rows):
    check_conversions(scratch, rows)


def test_a_statement_converts_as_sqlalchemy_does_on_each_database(store: Store):
    full = {
        "instant": datetime(2026, 11, 23, 12, tzinfo=timezone(timedelta(hours=2))),
        "counter": (1 << 128) - 1,
        "octets": b"\x00\xff",
        "number": -(1 << 63),
        "text": "ä%:x%s",
    }
    check_conversions(store, [full, dict.fromkeys(full), full])


def check_conversions(store: Store, rows: list[dict[str, object]]) -> None:
    names = tuple(rows[0])
    with pytest.raises(ZeroDivisionError), store.write() as tx:  # noqa: PT012 - rolled back at the end
        session = tx._session
        TYPES.create(tx.connection)
        for row in rows:
            tx.connection.execute(TYPES.insert(), row)
        theirs = all_of(tx)
        found_names, found = session.rows(select_by(TYPES, ()))
        assert [dict(zip(found_names, row, strict=True)) for row in found] == theirs
        tx.connection.execute(TYPES.delete())
        numbers = [session.insert(insert_into(TYPES, names), row) for row in rows]
        assert [{**row, "id": i} for row, i in zip(all_of(tx), numbers, strict=True)] == all_of(tx)
        without = [{**row, "id": 0} for row in theirs]
        assert [{**row, "id": 0} for row in all_of(tx)] == without
        tx.connection.execute(TYPES.delete())
        session.run_all(insert_into(TYPES, ("id", *names)), [{**row, "id": i} for i, row in enumerate(rows)])
        assert [{**row, "id": 0} for row in all_of(tx)] == without
        change = update_by(TYPES, ("id",), names)
        assert session.run(change, {"old_id": 0, **rows[-1]}) == 1
        assert session.run(change, {"old_id": 99, **rows[-1]}) == 0
        assert {**all_of(tx)[0], "id": 0} == {**theirs[-1], "id": 0}
        raise ZeroDivisionError


def test_times_are_stored_in_utc(store: Store, at: datetime):
    """The same moment has one text, and the same clock in two zones has two."""
    east, west = timezone(timedelta(hours=2)), timezone(timedelta(hours=-8))
    times = [
        at,
        at.astimezone(east),
        at.replace(tzinfo=east),
        at.replace(tzinfo=west),
        at + timedelta(seconds=1),
    ]
    with store.write() as tx:
        for i, time in enumerate(times):
            tx.blocked_keys.add(BlockedKeyRow(str(i), time, "me", "why"))
        stored = tx.connection.exec_driver_sql("SELECT at FROM blocked_keys ORDER BY spki").scalars().all()
    assert stored == [
        "2026-11-23T12:00:00Z",
        "2026-11-23T12:00:00Z",
        "2026-11-23T10:00:00Z",
        "2026-11-23T20:00:00Z",
        "2026-11-23T12:00:01Z",
    ]


def test_what_no_column_takes_is_not_bound(store: Store):
    for bad in ({"instant": datetime(2026, 1, 1)}, {"counter": -1}, {"counter": 1 << 128}):  # noqa: DTZ001
        (name,) = bad
        with pytest.raises(ValueError, match=r"time zone|2\*\*128"), store.write() as tx:
            tx._session.run(insert_into(TYPES, (name,)), bad)


def test_two_kinds_of_database_in_one_process(tmp_path: Path, postgres, at: datetime):
    """What was compiled for one must not be given to the other."""
    name = postgres.new_database()
    stores = [create_store(f"sqlite:///{tmp_path}/a.sqlite3"), create_store(postgres.url(name))]
    for i in range(2):
        for store in stores:
            with store.write() as tx:
                tx.blocked_keys.add(BlockedKeyRow(f"{i:064}", at, "me", "why"))
                tx.decisions.keep_evidence(str(i), b"body", at)
    for store in stores:
        with store.read() as tx:
            assert tx.decisions.evidence("1") == b"body"
            assert len(tx.blocked_keys.all()) == 2
        store.close()
    postgres.drop_database(name)


def test_many_threads_get_their_own(store: Store, at: datetime):
    """Statements are compiled for the first time by all of them at once."""
    start, failures = threading.Barrier(8), []

    def work(number: int) -> None:
        try:
            start.wait(30)
            for i in range(5):
                with store.write() as tx:
                    tx.blocked_keys.add(BlockedKeyRow(f"{number}-{i}", at, "me", "why"))
                with store.read() as tx:
                    look = tx.views.look(LedgerQuery(spkis=(f"{number}-{i}", "x")), at)[1]
                    assert look.blocked == {f"{number}-{i}"}
        except Exception as error:  # noqa: BLE001 - shown by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
