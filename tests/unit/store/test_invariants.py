"""Each invariant finds the rows that break it, and a database that keeps them passes."""

# ruff: noqa: S608 - rows that no repository would write are written in plain SQL, from constants

import pytest
import sqlalchemy as sa
from databases import Databases

from ca_service.store import INVARIANTS, Store, check_invariants, schema
from ca_service.store.invariants import EXAMPLES

_AT = "'2026-11-23T12:00:00Z'"

_GOOD = (
    f"INSERT INTO intents VALUES ('i1', 'e1', 1, 'd1', 1, 'aa', 'me', 'issued', {_AT}, NULL)",
    f"INSERT INTO intents VALUES ('i3', 'e2', 2, 'd1', 1, 'aa', 'me', 'issued', {_AT}, NULL)",
    f"INSERT INTO intents VALUES ('i2', 'e1', 1, 'd1', 1, 'aa', 'me', 'abandoned', {_AT}, NULL)",
    *(
        "INSERT INTO certificates (serial, issuer, profile, template, key_name, live, intent_id, tpm_id, state, der,"
        f" tbs, tbs_digest) VALUES ({values})"
        for values in (
            "'01', 'ca', 'ek', 'L-1', 'aa', 'ek:aa', 'i1', 1, 'issued', 'd', '', 'aa'",
            "'02', 'ca', 'ek', 'L-1', 'bb', NULL, 'i1', 1, 'revoked', 'd', 'tbs', NULL",
            "'03', 'ca', 'ek', 'L-1', 'cc', NULL, 'i2', 1, 'abandoned', NULL, 'tbs', 'aa'",
            "'04', 'ca', 'ek', 'L-1', 'dd', NULL, 'i1', 1, 'superseded', 'd', '', 'aa'",
            # The same key in two launches has a live ephemeral certificate in each.
            f"'05', 'ca', 'ek', 'L-1', 'aa', 'ephemeral-ek:{'0' * 64}', 'i3', 2, 'issued', 'd', '', 'aa'",
            f"'06', 'ca', 'ek', 'L-1', 'aa', 'ephemeral-ek:{'1' * 64}', 'i3', 2, 'issued', 'd', '', 'aa'",
        )
    ),
    f"INSERT INTO revocations VALUES ('ca', '02', {_AT}, 'superseded', '', 0)",
    f"INSERT INTO revocations VALUES ('ca', '03', {_AT}, 'superseded', '', 0)",
    f"INSERT INTO revocations VALUES ('ca', '08', {_AT}, 'unspecified', '', 0)",
    f"INSERT INTO responders VALUES ('07', 'ca', 'issued', '', 'd', {_AT}, {_AT}, {_AT}, 0)",
    f"INSERT INTO responders VALUES ('08', 'ca', 'abandoned', '', NULL, {_AT}, NULL, {_AT}, 0)",
    f"INSERT INTO issuers VALUES ('01', 'ek', 'default', 'active', 'ek:default', '', {_AT}, {_AT})",
    f"INSERT INTO issuers VALUES ('02', 'ek', 'default', 'prepared', NULL, '', {_AT}, {_AT})",
    f"INSERT INTO policy_starts VALUES (1, {_AT}, {_AT})",
    f"INSERT INTO policy_verdicts VALUES (1, 'approve', 'me', {_AT})",
    f"INSERT INTO policy_verdicts VALUES (2, 'withdraw', 'me', {_AT})",
)

_BREACHES = {
    "certificate.one-live": "UPDATE certificates SET state = 'issued', live = 'ek:aa', key_name = 'aa'"
    " WHERE serial = '04'",
    "certificate.live-key": "UPDATE certificates SET live = 'ek:dd' WHERE serial = '04'",
    "certificate.stored": "UPDATE certificates SET der = NULL WHERE serial = '01'",
    "certificate.ended-revoked": "DELETE FROM revocations WHERE serial = '02'",
    "certificate.revoked-ended": "UPDATE certificates SET state = 'superseded' WHERE serial = '02'",
    "certificate.to-be-signed": "UPDATE certificates SET tbs = '' WHERE serial = '02'",
    "certificate.intent": "UPDATE certificates SET intent_id = 'i3' WHERE serial = '01'",
    "responder.accounted": "DELETE FROM revocations WHERE serial = '08'",
    "intent.whole": "UPDATE certificates SET state = 'intended', live = 'ek:dd' WHERE serial = '04'",
    "intent.closed": "UPDATE intents SET state = 'open', created_at = '2026-11-23T11:00:00Z' WHERE id = 'i2'",
    "instance.one-tpm": "INSERT INTO tpms SELECT 3, instance_id, occupies, ek_set, counter, root, salt, report_id,"
    " first_at, last_at, freed_at FROM tpms WHERE id = 1",
    "instance.occupied": "UPDATE tpms SET freed_at = last_at WHERE id = 1",
    "issuer.one-active": "UPDATE issuers SET state = 'active' WHERE skid = '02'",
    "policy.ended": "UPDATE policy_verdicts SET verdict = 'withdraw'",
    "epoch.present": "DELETE FROM epochs",
}


@pytest.fixture
def worked(databases, templates, tmp_path_factory):
    """A database whose rows keep everything, and whose tables have no constraint that would help."""
    key = f"{databases.kind} without constraints"
    if key not in templates:
        maker = Databases(databases.kind, tmp_path_factory.mktemp("bare"), databases.cluster)
        url = maker.new()
        make_bare(url)
        templates[key] = url
    store = Store(databases.new(templates[key]))
    yield store
    store.close()


def make_bare(url: str) -> None:
    store = Store(url)
    bare = sa.MetaData()
    for table in schema.metadata.sorted_tables:
        sa.Table(table.name, bare, *(sa.Column(c.name, c.type, nullable=True) for c in table.columns))
    with store.write() as tx:
        bare.create_all(tx.connection)
        for statement in (
            f"INSERT INTO epochs VALUES (1, 'aa', {_AT}, '')",
            f"INSERT INTO tpms VALUES (1, 1, 1, 'ek-set', '{7:039}', '00', '01', '02', {_AT}, {_AT}, NULL)",
            f"INSERT INTO tpms VALUES (2, 2, 2, 'ek-set', '{7:039}', '00', '01', '02', {_AT}, {_AT}, NULL)",
            f"INSERT INTO instances VALUES (1, 'org', 'default/vtpm/a', '', {_AT})",
            f"INSERT INTO instances VALUES (2, 'ephemeral:', 'ephemeral/00/11', '', {_AT})",
            *_GOOD,
        ):
            tx.connection.execute(sa.text(statement))
    store.close()


def found(store: Store, at) -> dict[str, tuple[int, tuple[str, ...]]]:
    with store.read() as tx:
        breaches = check_invariants(tx, at)
    # The tests' server does not flush, and says so.
    return {b.id: (b.count, b.examples) for b in breaches if b.id != "database.durable"}


def test_what_keeps_them_all_passes(worked, at):
    assert found(worked, at) == {}


def test_the_ca_s_own_tables_pass(store, enrolled, at):
    assert found(store, at) == {}


def test_there_is_a_breach_for_each():
    assert set(_BREACHES) == {invariant.id for invariant in INVARIANTS}


@pytest.mark.parametrize("name", sorted(_BREACHES))
def test_each_finds_its_breach(worked, at, name):
    with worked.write() as tx:
        tx.connection.execute(sa.text(_BREACHES[name]))
    breaches = found(worked, at)
    assert name in breaches
    assert breaches[name][0] == 1


@pytest.mark.parametrize(
    "change",
    [
        # of a TPM that is not ephemeral; of another profile; of no hash; ended
        "tpm_id = 1, intent_id = 'i1'",
        "profile = 'iak'",
        "live = 'ephemeral-ek:00'",
        "state = 'superseded'",
    ],
)
def test_the_mark_of_an_ephemeral_certificate_is_looked_at_too(worked, at, change):
    with worked.write() as tx:
        tx.connection.execute(sa.text(f"UPDATE certificates SET {change} WHERE serial = '05'"))
    assert found(worked, at) == {"certificate.live-key": (1, ("05",))}


def test_two_live_ephemeral_certificates_of_one_launch_are_found(worked, at):
    with worked.write() as tx:
        tx.connection.execute(
            sa.text(f"UPDATE certificates SET live = 'ephemeral-ek:{'0' * 64}' WHERE serial = '06'")
        )
    assert found(worked, at) == {"certificate.one-live": (1, ("05",))}


def test_a_few_examples_are_named(worked, at):
    with worked.write() as tx:
        for number in range(10, 20):
            values = f"'{number}', 'ca', 'ek', 'L-1', 'k{number}', NULL, 'i1', 1, 'revoked', 'd', 'tbs', NULL"
            columns = "serial, issuer, profile, template, key_name, live, intent_id, tpm_id, state, der, tbs,"
            columns += " tbs_digest"
            tx.connection.execute(sa.text(f"INSERT INTO certificates ({columns}) VALUES ({values})"))
    count, examples = found(worked, at)["certificate.ended-revoked"]
    assert (count, len(examples), examples[0]) == (10, EXAMPLES, "10")


def test_a_damaged_file_is_found(databases, at):
    if databases.kind != "sqlite":
        pytest.skip("PostgreSQL's files are not ours to look into")
    store = Store(databases.new())
    store.upgrade()
    with store.write() as tx:
        tx.connection.exec_driver_sql("PRAGMA writable_schema=ON")
        tx.connection.exec_driver_sql(
            "UPDATE sqlite_master SET rootpage = 3 WHERE name = 'ix_decisions_refused'"
        )
    store.close()
    store = Store(store.url)
    assert "database.integrity" in found(store, at)
    store.close()


def test_a_server_that_does_not_flush_is_named(databases, at):
    if databases.kind != "postgresql":
        pytest.skip("SQLite is told to flush on each connection")
    store = Store(databases.new())
    store.upgrade()
    with store.read() as tx:
        (breach,) = check_invariants(tx, at)
    assert (breach.id, breach.examples) == ("database.durable", ("fsync", "full_page_writes"))
    store.close()
