"""What only a server can do to the CA: sessions that end, writers that hang, settings that promise less."""

import re
import sys
import threading

import psycopg
import pytest
import sqlalchemy as sa
from postgres_cluster import ROLE, PostgresCluster

from ca_service.judgment import BadRequest, Unavailable
from ca_service.store import Store, SubmissionRow, Taken, backends, open_store, parse_url


@pytest.fixture
def server(postgres: PostgresCluster):
    return postgres


@pytest.fixture
def database(server, templates, request):
    """A database of the test's own, since these tests change its settings."""
    name = server.new_database()
    store = Store(server.url(name))
    store.upgrade()
    store.close()
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
def name(database):
    return sa.make_url(database).database


def append(store: Store, at) -> None:
    with store.write() as tx:
        tx.policies.append("d", "t", at, "me")


def count(store: Store) -> int:
    with store.read() as tx:
        return len(tx.policies.all())


def shown(store: Store, setting: str) -> str:
    with store.read() as tx:
        return tx.connection.exec_driver_sql(f"SHOW {setting}").scalar()


@pytest.mark.parametrize(
    ("given", "kept"),
    [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")],
)
def test_no_setting_of_the_role_weakens_a_commit(server, database, name, given, kept):
    server.admin(f"ALTER ROLE {ROLE} IN DATABASE {name} SET synchronous_commit = '{given}'")
    store = open_store(database)
    assert shown(store, "synchronous_commit") == kept
    store.close()


def test_text_comes_as_it_went_whatever_the_environment_says(database, at, monkeypatch):
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    store = open_store(database)
    with store.write() as tx:
        tx.policies.append("d", "Größe 測量", at, "me")
    with store.read() as tx:
        assert tx.policies.all()[0].text == "Größe 測量"
    store.close()


def test_a_reader_sees_one_moment_and_cannot_write(database, at):
    store = open_store(database)
    with store.read() as tx:
        assert tx.policies.all() == []
        append(store, at)
        assert tx.policies.all() == []
    with pytest.raises(Unavailable, match="read-only"), store.read() as tx:
        tx.policies.append("d", "t", at, "me")
    assert count(store) == 1
    store.close()


def test_all_sessions_end_and_the_next_call_finds_new_ones(server, database, name, at):
    store = open_store(database)
    append(store, at)
    for _ in range(3):
        server.disconnect(name)
        assert count(store) == 1
    server.disconnect(name)
    append(store, at)
    assert count(store) == 2
    store.close()


def test_a_session_that_ends_within_a_transaction_leaves_nothing(server, database, name, at):
    store = open_store(database)
    for again in (True, False):
        with pytest.raises(Unavailable), store.write() as tx:  # noqa: PT012 - it ends within the block, or at its end
            tx.policies.append("d", "t", at, "me")
            server.disconnect(name)
            if again:
                tx.policies.append("d", "t", at, "me")
    with pytest.raises(Unavailable), store.read() as tx:  # noqa: PT012 - the first statement works
        tx.policies.all()
        server.disconnect(name)
        tx.policies.all()
    assert count(store) == 0
    append(store, at)
    assert count(store) == 1
    store.close()


def test_a_server_that_crashes_and_comes_back(at):
    server = PostgresCluster(durable=True)
    try:
        store = Store(server.url(server.new_database()))
        store.upgrade()
        append(store, at)
        server.stop(how=3)
        for _ in range(2):
            with pytest.raises(Unavailable):
                count(store)
            with pytest.raises(Unavailable):
                append(store, at)
            with pytest.raises(Unavailable):
                store.check_writable()
        server.start()
        assert count(store) == 1
        append(store, at)
        assert count(store) == 2
        store.close()
    finally:
        server.close()


def test_a_writer_that_hangs_stops_nobody_for_good(server, database, at, monkeypatch):
    """Another node takes the writers' lock and goes silent; the server ends its transaction."""
    session = backends._SESSION.replace("'60000'", "'400'").replace("'15000'", "'100'")
    monkeypatch.setattr(backends, "_SESSION", session)
    hung, store = open_store(database), open_store(database)
    go, done = threading.Event(), threading.Event()
    ends = []

    def hang() -> None:
        try:
            with hung.write() as tx:
                tx.policies.append("d", "t", at, "hung")
                go.set()
                done.wait(60)
        except Unavailable as error:
            ends.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    go.wait(60)
    refusals = 0
    for _ in range(100):
        try:
            append(store, at)
            break
        except Unavailable as error:
            refusals += "another writer holds it too long" in error.detail
    done.set()
    thread.join()
    assert refusals > 0
    assert len(ends) == 1
    assert count(store) == 1
    hung.close()
    store.close()


def test_a_read_only_server_is_read_and_not_written(server, database, name, at):
    server.admin(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    store = open_store(database)
    for attempt in (lambda: append(store, at), store.check_writable):
        with pytest.raises(Unavailable, match="read-only") as error:
            attempt()
        assert error.value.remedy
    assert count(store) == 0
    server.admin(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    server.disconnect(name)
    append(store, at)
    assert count(store) == 1
    store.close()


def test_errors_repeat_no_value(database, at):
    """PostgreSQL's own text names the key that is there twice, and the value that is too long."""
    store = open_store(database)
    with store.write() as tx:
        tx.policies.append("d", "t", at, "me")
        tx.connection.exec_driver_sql("INSERT INTO key_ids VALUES ('secret-value', 'a', 'b')")
    with pytest.raises(Taken) as taken, store.write() as tx:
        tx.ledger.bind_key_id("secret-value", "c", "d")
    assert "pk_key_ids" in taken.value.detail
    with pytest.raises(Exception, match="does not fit") as long, store.write() as tx:
        tx.ledger.bind_key_id("secret-value" * 10, "c", "d")
    with pytest.raises(Exception, match="does not fit") as null, store.write() as tx:
        tx.ledger.bind_key_id("secret-value\x00", "c", "d")
    for caught in (taken, long, null):
        assert "secret-value" not in f"{caught.value!r} {caught.value.diagnostics()}"
        assert caught.value.__suppress_context__
    store.close()


class TestUrl:
    @pytest.mark.parametrize("name", ["postgresql", "postgresql+psycopg"])
    def test_the_plain_name_is_enough(self, name):
        url = parse_url(f"{name}://user@host/database")
        assert url.drivername == "postgresql+psycopg"

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "nonsense",
            "mysql://h/d",
            "postgresql+psycopg2://u:pass-word@h/d",
            "postgresql://u@h:pass-word/d",
            "sqlite+aiosqlite:///x",
        ],
    )
    def test_others_are_refused_without_repeating_them(self, url):
        with pytest.raises(BadRequest, match="database: must be the URL") as error:
            parse_url(url)
        assert "pass-word" not in error.value.diagnostics()

    def test_a_missing_driver_is_named_with_the_remedy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(BadRequest, match="driver is an extra") as error:
            parse_url("postgresql://user:pass-word@host/database")
        assert error.value.code == "driver"
        assert "vtpm-ca[postgresql]" in error.value.remedy
        assert "pass-word" not in error.value.diagnostics()

    def test_a_wrong_password_stays_inside(self):
        server = PostgresCluster(durable=False, tcp=True)
        try:
            good = server.url(server.new_database(), tcp=True)
            Store(good).close()
            bad = good.replace(server.password, "pass-word")
            with pytest.raises(Unavailable) as error:
                open_store(bad)
            assert "pass-word" not in f"{error.value!r} {error.value.diagnostics()}"
            assert error.value.detail == "the database cannot be read now: it does not let the CA in"
            assert "pass-word" not in repr(Store(bad))
            with pytest.raises(psycopg.OperationalError):
                backends.connect_apart(parse_url(bad))
        finally:
            server.close()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("/{name}?", "/nowhere?"), "there is no database of that name"),
        ((f"{ROLE}@", "nobody@"), "does not let the CA in"),
        (("port=5432", "port=1"), "no connection to it comes about"),
        (("?host=", "?service=none&host="), "no connection to it comes about"),
        (("?host=", "?nonsense=pass-word&host="), "an option that PostgreSQL's driver does not know"),
    ],
)
def test_a_connection_that_does_not_come_about_is_explained(database, name, change, told):
    """libpq says it in words alone, which may name user and host."""
    old, new = change
    with pytest.raises(Unavailable, match=told) as error:
        open_store(database.replace(old.format(name=name), new))
    assert error.value.remedy
    assert not {"pass-word", "nobody", "nowhere"} & set(re.findall("[a-z-]+", error.value.diagnostics()))


def test_a_duplicate_is_taken_whoever_was_faster(database, at):
    """Two nodes consume one nonce: the second waits for the first and is told."""
    one, other = open_store(database), open_store(database)
    with one.write() as tx:
        tx.connection.exec_driver_sql(
            "INSERT INTO decisions VALUES ('d1', '2026-11-23T12:00:00Z', 'enroll', 1, '', '', 1, '', '', '', '')"
        )
    inside, results = threading.Event(), []

    def consume(store: Store, started: threading.Event | None) -> None:
        try:
            with store.write() as tx:
                seen = tx.submissions.get("n")
                if started is not None:
                    started.set()
                tx.submissions.add(SubmissionRow("n", "b", at, "d1", 201, b""))
            results.append(seen)
        except Taken:
            results.append("taken")

    first = threading.Thread(target=consume, args=(one, inside))
    first.start()
    inside.wait(60)
    consume(other, None)
    first.join()
    assert sorted(map(str, results)) == ["None", "taken"]
    one.close()
    other.close()
