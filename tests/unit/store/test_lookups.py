"""Queries about lists whose length differs from call to call."""

import sqlite3
from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from ca_service.store import (
    BlockedKeyRow,
    IssuerRow,
    IssuerState,
    LeafRow,
    LedgerQuery,
    Store,
    create_store,
    issuance,
    open_store,
    publication,
    views,
)
from ca_service.store.statements import prepare


class TestLook:
    def test_each_place_counts(self, store: Store, enrolled: int, at: datetime):
        """A key is found whichever place it stands at, and whatever stands at that place in the other lists."""
        with store.write() as tx:
            tx.ledger.bind_keys([("name", "ek", "L-1")], 1)
            tx.blocked_keys.add(BlockedKeyRow("spki", at, "me", "why"))
        for count in range(1, 7):
            for place in range(count):
                names = tuple("name" if i == place else f"n{i}" for i in range(count))
                query = LedgerQuery("org", "default/vtpm/a", "", "k", names, ("no", "spki"), ("live",))
                with store.read() as tx:
                    view = tx.views.look(query, at)[1]
                    assert tx.views.spoilt(
                        enrolled, tuple("spki" if i == place else f"s{i}" for i in range(count))
                    )
                assert (view.key_instances, view.blocked) == ({"name": 1}, {"spki"})
                assert (view.instance_id, view.occupant.id, view.live) == (1, enrolled, {})

    def test_nothing_is_asked(self, store: Store, at: datetime):
        with store.read() as tx:
            standing, view = tx.views.look(LedgerQuery(), at)
            assert not tx.views.spoilt(1, ())
        assert (standing.policy_version, standing.epoch, standing.issuers) == (0, 1, {})
        assert (view.instance_id, view.occupant, view.key_id_owner, view.blocked) == (None, None, None, set())

    def test_seven_keys_are_too_many(self, store: Store, at: datetime):
        for names in ({"names": tuple("1234567")}, {"spkis": tuple("1234567")}, {"lives": tuple("1234567")}):
            with pytest.raises(ValueError, match="at most 6"), store.read() as tx:
                tx.views.look(LedgerQuery(**names), at)

    def test_issuers_by_their_states(self, store: Store, at: datetime):
        states = {"a": "active", "b": "prepared", "c": "old", "d": "tainted", "e": "retired"}
        with store.write() as tx:
            for skid, state in states.items():
                active = "ek:p" if state == "active" else None
                tx.issuers.add(IssuerRow(skid, "ek", "p", IssuerState(state), active, b"", at, at))
            tx.policies.append("d", "t", at, "me")
            standing = tx.views.standing(at)
        assert (standing.issuers, standing.given_up, standing.policy_version) == (
            {"ek:p": "a"},
            {"d", "e"},
            1,
        )

    def test_what_is_in_force_is_seen_anew_each_time(self, store: Store, at: datetime):
        """It is remembered by the rows that say so, and each of these changes one or another of them."""
        with store.write() as tx:
            for skid, active in (("a", "ek:p"), ("b", None)):
                state = IssuerState.PREPARED if active is None else IssuerState.ACTIVE
                tx.issuers.add(IssuerRow(skid, "ek", "p", state, active, b"", at, at))
        changes = (
            "SELECT 1",
            "UPDATE issuers SET active = 'ek:q' WHERE skid = 'a'",
            "UPDATE issuers SET active = NULL, state = 'old' WHERE skid = 'a'",
            "UPDATE issuers SET active = 'ek:p', state = 'active' WHERE skid = 'b'",
            "UPDATE issuers SET state = 'tainted' WHERE skid = 'a'",
            "INSERT INTO epochs VALUES (2, '', '2026-11-23T12:00:00Z', 'a test')",
        )
        found = []
        for change in changes:
            with store.write() as tx:
                tx.connection.exec_driver_sql(change)
            with store.read() as tx:
                standing = tx.views.standing(at)
                assert tx.views.standing(at) == standing
                found.append((standing.epoch, standing.issuers, standing.given_up))
        assert found == [
            (1, {"ek:p": "a"}, set()),
            (1, {"ek:q": "a"}, set()),
            (1, {}, set()),
            (1, {"ek:p": "b"}, set()),
            (1, {"ek:p": "b"}, {"a"}),
            (2, {"ek:p": "b"}, {"a"}),
        ]


class TestLog:
    @pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 64, 65, 256, 257, 600])
    def test_hashes_at_any_number_of_places(self, store: Store, count):
        def hash_at(level, position):
            return bytes([level, position // 256, position % 256, *bytes(29)])

        def completed(leaf):
            return [(level, leaf >> level) for level in range(11) if (leaf + 1) % (1 << level) == 0]

        leaves = [
            LeafRow(i, "decision", f"s{i}", b"x", b"".join(hash_at(*place) for place in completed(i)))
            for i in range(count)
        ]
        places = [place for i in range(count) for place in completed(i)]
        nowhere = [(0, 1 << 40), (1, count // 2), (5, count >> 5), (20, 0)]
        with store.write() as tx:
            tx.log.add_leaves(leaves)
            found, more = tx.log.nodes(places), tx.log.nodes([*places, *nowhere])
        expected = {place: hash_at(*place) for place in places}
        assert (found, more) == (expected, expected)

    @pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 20])
    def test_leaves_about_any_number_of_subjects(self, store: Store, count):
        kinds = ("decision", "certificate")
        leaves = [LeafRow(i, kinds[i % 2], f"s{i}", b"x") for i in range(count)]
        with store.write() as tx:
            tx.log.add_leaves(leaves)
            wanted = [(row.kind, row.subject) for row in leaves]
            assert tx.log.about([*wanted, ("decision", "none")]) == {
                (row.kind, row.subject): row for row in leaves
            }

    def test_a_number_where_a_hash_should_be_is_no_hash(self, tmp_path: Path):
        """SQLite takes it, and a row of that many zeros would be made of it."""
        create_store(f"sqlite:///{tmp_path}/a.sqlite3").close()
        with sqlite3.connect(tmp_path / "a.sqlite3") as database:
            database.execute("INSERT INTO log_leaves VALUES (0, 'decision', 'd', x'00', 32)")
        store = open_store(f"sqlite:///{tmp_path}/a.sqlite3")
        with pytest.raises(TypeError), store.read() as tx:
            tx.log.nodes([(0, 0)])
        store.close()


def test_sqlite_makes_no_table_of_a_list_of_keys(tmp_path: Path):
    """To make one takes it longer than to find all of the keys."""
    store = create_store(f"sqlite:///{tmp_path}/a.sqlite3")
    with store.read() as tx:
        for statement in (views._look(6), views._spoilt(6)):
            prepared = prepare(statement, tx.connection.dialect)
            asked = "EXPLAIN " + prepared.sql.replace("?", "'x'")
            steps = {row[1] for row in tx.connection.exec_driver_sql(asked)}
            assert "ResultRow" in steps
            assert not steps & {"OpenEphemeral", "OpenAutoindex", "SorterOpen"}
    store.close()


def test_indexes_of_some_rows_serve_what_is_asked_about_those(tmp_path: Path, at: datetime):
    """SQLite takes one only for a statement that says in the same words which rows it wants."""
    plans: list[str] = []

    def explain(_connection, cursor, statement, parameters, *_rest):
        cursor.execute("EXPLAIN QUERY PLAN " + statement, parameters)
        plans.extend(row[3] for row in cursor.fetchall())

    store = create_store(f"sqlite:///{tmp_path}/a.sqlite3")
    with store.read() as tx:
        sa.event.listen(tx.connection, "before_cursor_execute", explain)
        tx.intents.open()
        tx.issuers.live_counts(at)
        tx.issuers.resting(["aa", "bb"], at)
        tx.issuers.signing(["aa"])
        sa.event.remove(tx.connection, "before_cursor_execute", explain)
        for statement in (
            issuance._OPEN_OF,
            issuance._OF_INTENT,
            publication._ANY_EXPIRED,
            publication._EXPIRED,
        ):
            prepared = prepare(statement, tx.connection.dialect)
            asked = "EXPLAIN QUERY PLAN " + prepared.sql.replace("?", "'x'")
            plans += [row[3] for row in tx.connection.exec_driver_sql(asked)]
    store.close()
    assert [plan for plan in plans if "TEMP B-TREE" not in plan] == [
        "SCAN intents USING INDEX ix_intents_open",
        "SCAN certificates USING COVERING INDEX ix_certificates_settled",
        "SEARCH certificates USING INDEX ix_certificates_settled (issuer=? AND state=?)",
        "SCAN intents USING INDEX ix_intents_open",
        "SEARCH certificates USING INDEX ix_certificates_tpm_id (tpm_id=?)",
        "SEARCH intents USING INDEX ix_intents_open (enrollment_id=?)",
        "SEARCH intents USING INDEX sqlite_autoindex_intents_1 (id=?)",
        "SEARCH certificates USING INDEX ix_certificates_tpm_id (tpm_id=?)",
        "SEARCH certificates USING INDEX ix_certificates_settled (issuer=? AND state=? AND not_after<?)",
        "SEARCH certificates USING INDEX ix_certificates_settled (issuer=? AND state=? AND not_after<?)",
        "SEARCH revocations USING INDEX sqlite_autoindex_revocations_1 (issuer=? AND serial=?)",
    ]
