"""Databases of every released version come to this program's schema, whole or not at all, and keep all rows."""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import signal
import sqlite3
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from asn1crypto.x509 import Certificate, TbsCertificate
from databases import Databases
from old_releases import FIRST_SCHEMA, RELEASES, Release

from ca_service.audit.merkle import Frontier, leaf_hash
from ca_service.enrollment.submission import Submission
from ca_service.judgment import Unavailable
from ca_service.store import create_store, open_store, read_schedule
from ca_service.store.backends import parse_url
from vtpm.wire.encoding import b64url, unb64url

FACTS = ("measurement", "chip_id", "kbs_key", "product", "reported_tcb", "ek_set")
ADDED = {
    "certificates": {"not_after", "replaces", "shard", "tbs_digest"},
    "decisions": {"salt"},
    "evidence": set(FACTS),
    "revocations": {"shard"},
    "crls": {"shard"},
    "policies": {"base", "requested_from"},
}
_IN_THE_MIDDLE = (
    "after CREATE TABLE issuers",
    "after UPDATE certificates SET",
    "after UPDATE evidence SET",
    "after CREATE INDEX ix_evidence_measurement",
    "after UPDATE alembic_version SET",
)


class Disturbed(Exception):
    pass


@pytest.fixture(scope="session")
def filled(templates, tmp_path_factory):
    """Gives, for a release and a kind of database, the URL of one that is filled once and only copied."""

    def url_of(released, databases):
        key = f"{databases.kind} of {released.version}"
        if key not in templates:
            maker = Databases(databases.kind, tmp_path_factory.mktemp("released"), databases.cluster)
            url = maker.new()
            released.put_database(url)
            templates[key] = url
        return templates[key]

    return url_of


@pytest.fixture(scope="session")
def release():
    """A release by its version, read once."""
    return functools.cache(Release)


@pytest.fixture
def put(release, filled, databases):
    """Makes a database of a release: the release, and its URL."""

    def put(version):
        released = release(version)
        return released, databases.new(filled(released, databases))

    return put


def content(url: str, tables: list[str]) -> dict[str, list[dict]]:
    """All rows by table, as they lie in the database."""
    engine = sa.create_engine(parse_url(url))
    with engine.connect() as connection:
        rows = {
            name: [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM {name}")).mappings()]  # noqa: S608
            for name in tables
        }
    engine.dispose()
    return rows


def names(url: str) -> dict[str, list[str]]:
    """Columns by table."""
    engine = sa.create_engine(parse_url(url))
    inspector = sa.inspect(engine)
    found = {
        table: [column["name"] for column in inspector.get_columns(table)]
        for table in inspector.get_table_names()
    }
    engine.dispose()
    return found


def in_order(rows: list[dict]) -> list[str]:
    return sorted(repr(sorted(row.items())) for row in rows)


@pytest.fixture(params=RELEASES)
def upgraded(request, release, filled, databases, templates, tmp_path_factory):
    """A database of each release, upgraded; it is only read."""
    released = release(request.param)
    key = f"{databases.kind} of {released.version}, upgraded"
    if key not in templates:
        maker = Databases(databases.kind, tmp_path_factory.mktemp("upgraded"), databases.cluster)
        templates[key] = maker.new(filled(released, databases))
        create_store(templates[key]).close()
    return released, templates[key]


@pytest.fixture
def latest(put):
    """The database of the last release before the schema changed."""
    return put("0.3")


@pytest.mark.parametrize("version", RELEASES)
def test_the_files_are_those_that_the_release_made(release, version):
    released = release(version)
    assert "WORTHLESS TEST KEYS" in released.manifest["warning"]
    files = {
        str(path.relative_to(released.folder)): path for path in released.folder.rglob("*") if path.is_file()
    }
    del files["manifest.json"]
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert digests == released.manifest["sha256"]


def test_no_row_is_lost_or_changed(upgraded):
    released, url = upgraded
    assert len(released.tables) == 14
    found = content(url, released.tables)
    for table in released.tables:
        before = released.rows(table)
        added = ADDED.get(table, set())
        now = [{name: value for name, value in row.items() if name not in added} for row in found[table]]
        assert in_order(now) == in_order(before), table
        assert before, f"nothing is proven about {table}"


def test_each_version_has_been_in_force_since_it_was_applied_and_the_last_one_is(upgraded):
    """By any clock, also one that is behind that of the release."""
    _, url = upgraded
    assert_all_began_when_applied(url)


def test_by_number_and_not_by_a_clock_that_went_back(latest):
    """A release before took the highest version, whenever it was applied."""
    _, url = latest
    engine = sa.create_engine(parse_url(url))
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO policies (version, digest, text, applied_at, applied_by)"
            " SELECT version + 1, digest, text, '2020-01-01T00:00:00Z', 'tests' FROM policies WHERE version ="
            " (SELECT max(version) FROM policies)"
        )
    engine.dispose()
    create_store(url).close()
    assert_all_began_when_applied(url)


def assert_all_began_when_applied(url):
    rows = content(url, ["policies", "policy_starts", "policy_verdicts"])
    assert [row["base"] for row in rows["policies"]] == [row["version"] - 1 for row in rows["policies"]]
    assert rows["policies"]
    assert in_order(rows["policy_starts"]) == in_order(
        {
            "version": row["version"],
            "in_force_from": row["applied_at"],
            "released_at": row["applied_at"],
        }
        for row in rows["policies"]
    )
    assert rows["policy_verdicts"] == []
    last = max(row["version"] for row in rows["policies"])
    store = open_store(url)
    with store.read() as tx:
        for year in (2000, 2026, 2100):
            at = datetime(year, 1, 1, tzinfo=UTC)
            assert tx.policies.version_in_force(at) == tx.views.standing(at).policy_version == last
            states = [read_schedule(tx.policies, at, 1).state(row) for row in tx.policies.records()]
            assert states[-1] == "in-force"
    store.close()


def test_the_ends_of_the_certificates_are_recorded(upgraded):
    _, url = upgraded
    rows = content(url, ["certificates"])["certificates"]
    assert {row["state"] for row in rows} == {"issued", "revoked", "abandoned", "intended"}
    assert any(row["der"] is None for row in rows)
    for row in rows:
        tbs = (
            Certificate.load(row["der"])["tbs_certificate"] if row["der"] else TbsCertificate.load(row["tbs"])
        )
        assert row["not_after"] == tbs["validity"]["not_after"].native.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert row["replaces"] is None


def test_what_certificates_are_revoked_by_stands_beside_the_evidence(upgraded):
    """Read as this program reads a request, and never where nothing can be read."""
    _, url = upgraded
    rows = content(url, ["evidence", "decisions", "tpms"])
    known = {row["ek_set"] for row in rows["tpms"]}
    for row in rows["evidence"]:
        submission = Submission.parse(bytes(row["body"]))
        assert {name: row[name] for name in FACTS} == {
            "measurement": submission.report.measurement.hex(),
            "chip_id": submission.report.chip_id.hex(),
            "kbs_key": submission.claims.grant.jwk.thumbprint(),
            "product": "Milan",
            "reported_tcb": submission.report.reported_tcb.hex(),
            "ek_set": submission.ek_set(),
        }
    admitted = {row["evidence_digest"] for row in rows["decisions"] if row["admitted"]}
    assert known <= {row["ek_set"] for row in rows["evidence"] if row["digest"] in admitted}


def rewrite(url, change):
    """Put other bodies into the evidence of a database; `change` gets (number, body) in the order of the digests."""
    engine = sa.create_engine(parse_url(url))
    table = sa.table("evidence", sa.column("digest"), sa.column("body", sa.LargeBinary))
    with engine.begin() as connection:
        rows = connection.execute(sa.select(table).order_by(table.c.digest)).all()
        for number, row in enumerate(rows):
            body = change(number, bytes(row.body))
            connection.execute(table.update().where(table.c.digest == row.digest).values(body=body))
    engine.dispose()


def test_evidence_that_cannot_be_read_does_not_stop_an_upgrade(latest):
    released, url = latest
    intents = {row["evidence_digest"]: row["tpm_id"] for row in released.rows("intents")}
    ek_sets = {row["id"]: row["ek_set"] for row in released.rows("tpms")}
    broken = itertools.cycle(
        (
            b"",
            b"{}",
            b"[]",
            b"\xff",
            b'{"evidence": 1}',
            b'{"evidence": {"report": 1}}',
            b"1" * 9999,
            b"[" * 9999,
        )
    )
    rewrite(url, lambda _, __: next(broken))
    if url.startswith("sqlite:"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as file:
            file.execute(
                "UPDATE evidence SET body = 'text' WHERE digest = (SELECT max(digest) FROM evidence)"
            )
        file.close()
    create_store(url).close()
    rows = content(url, ["evidence"])["evidence"]
    # Whose it is, the intents still say.
    assert {row["digest"]: row["ek_set"] for row in rows} == {
        row["digest"]: ek_sets.get(intents.get(row["digest"])) for row in rows
    }
    assert [row for row in rows if row["ek_set"]]
    assert {row[name] for row in rows for name in FACTS if name != "ek_set"} == {None}


def test_a_report_without_cpuid_has_the_product_that_was_judged(latest):
    released, url = latest

    def older(_, body):
        request = json.loads(body)
        report = bytearray(unb64url(request["evidence"]["report"], "report"))
        report[0:4], report[0x188:0x18B], report[0x1A0:0x1E0] = bytes([2, 0, 0, 0]), bytes(3), bytes(64)
        request["evidence"]["report"] = b64url(bytes(report))
        return json.dumps(request).encode()

    rewrite(url, older)
    create_store(url).close()
    admitted = {row["evidence_digest"] for row in released.rows("decisions") if row["admitted"]}
    rows = content(url, ["evidence"])["evidence"]
    assert {row["digest"]: row["product"] for row in rows} == {
        row["digest"]: "Milan" if row["digest"] in admitted else None for row in rows
    }
    # A chip that is masked is none.
    assert {row["chip_id"] for row in rows} == {None}


def test_the_schema_is_that_of_a_new_database(upgraded, database):
    _, url = upgraded
    assert {table: sorted(columns) for table, columns in names(url).items()} == {
        table: sorted(columns) for table, columns in names(database).items()
    }


def test_two_copies_of_one_database_get_different_epochs(put):
    salts = []
    for _ in range(2):
        store = create_store(put("0.3")[1])
        with store.read() as tx:
            (epoch,) = tx.epochs.all()
        store.close()
        assert epoch.number == 1
        salts.append(bytes.fromhex(epoch.salt))
    assert len(salts[0]) == len(salts[1]) == 32
    assert salts[0] != salts[1]


def assert_as_before(released, url):
    """Still the release's own: no column, table or value of the new schema."""
    (row,) = content(url, ["alembic_version"])["alembic_version"]
    assert row == {"version_num": FIRST_SCHEMA}
    assert set(names(url)) == {*released.tables, "alembic_version"}
    found = content(url, released.tables)
    assert {table: in_order(rows) for table, rows in found.items()} == {
        table: in_order(released.rows(table)) for table in released.tables
    }


def at(point, do):
    """Faults that do something at one point, and say so if it never comes."""
    seen = []

    def faults(here):
        if here == point and not seen:
            seen.append(here)
            do()

    faults.seen = seen
    return faults


@pytest.mark.parametrize("point", _IN_THE_MIDDLE)
def test_an_error_in_the_middle_leaves_the_old_schema(latest, point):
    released, url = latest

    def fail():
        raise Disturbed(point)

    faults = at(point, fail)
    with pytest.raises(Disturbed):
        create_store(url, faults)
    assert faults.seen
    assert_as_before(released, url)
    create_store(url).close()
    open_store(url).close()
    assert all(row["not_after"] for row in content(url, ["certificates"])["certificates"])


def test_a_killed_upgrade_leaves_the_old_schema(latest):
    released, url = latest
    child = os.fork()
    if not child:
        try:
            create_store(
                url, at("after UPDATE alembic_version SET", lambda: os.kill(os.getpid(), signal.SIGKILL))
            )
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert_as_before(released, url)
    create_store(url).close()
    open_store(url).close()


def test_two_nodes_may_upgrade_at_once(latest):
    released, url = latest
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            try:
                create_store(url).close()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    found = content(url, ["epochs", "certificates"])
    assert len(found["epochs"]) == 1
    assert len(found["certificates"]) == len(released.rows("certificates"))


def test_more_certificates_than_are_read_at_once(latest):
    released, url = latest
    row = max(released.rows("certificates"), key=lambda row: row["serial"])
    engine = sa.create_engine(parse_url(url))
    table = sa.table("certificates", *(sa.column(name) for name in row))
    copies = [{**row, "serial": f"{number:032x}", "live": None} for number in range(2500)]
    for number, der in ((7, b"\x30\x03no"), (1000, b"")):
        copies[number].update(der=der, tbs=der)
    with engine.begin() as connection:
        connection.execute(table.insert(), copies)
    engine.dispose()
    create_store(url).close()
    found = content(url, ["certificates"])["certificates"]
    assert len(found) == len(released.rows("certificates")) + 2500
    # A damaged certificate has no end on record, and keeps no other from having one.
    without = sorted(row["serial"] for row in found if row["not_after"] is None)
    assert without == [f"{number:032x}" for number in (7, 1000)]


def test_a_later_schema_is_refused_and_left_alone(latest):
    _, url = latest
    create_store(url).close()
    engine = sa.create_engine(parse_url(url))
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0099'"))
    engine.dispose()
    for opening in (open_store, create_store):
        with pytest.raises(Unavailable) as caught:
            opening(url)
        assert caught.value.code == "schema"
    assert "later" in caught.value.remedy
    assert content(url, ["alembic_version"])["alembic_version"] == [{"version_num": "0099"}]


def old_log(url, count):
    """Give a database of release 0.6 a log of so many leaves; returns each with the hashes of what it completes."""
    engine, tree, beside = sa.create_engine(parse_url(url)), Frontier(), []
    leaves = sa.table(
        "log_leaves",
        *(sa.column(name) for name in ("position", "kind", "subject")),
        sa.column("data", sa.LargeBinary),
    )
    nodes = sa.table(
        "log_nodes", sa.column("level"), sa.column("position"), sa.column("hash", sa.LargeBinary)
    )
    with engine.begin() as connection:
        for table in (leaves, nodes):
            connection.execute(table.delete())
        for position in range(count):
            tree, completed = tree.append(leaf_hash(b"%d" % position))
            beside.append((b"%d" % position, [hash_ for _, _, hash_ in completed]))
            rows = [{"level": level, "position": at, "hash": hash_} for level, at, hash_ in completed]
            connection.execute(nodes.insert(), rows)
        rows = [
            {"position": position, "kind": "decision", "subject": f"s{position}", "data": data}
            for position, (data, _) in enumerate(beside)
        ]
        if rows:
            connection.execute(leaves.insert(), rows)
    return engine, beside


def leaves_of(url):
    rows = content(url, ["log_leaves"])["log_leaves"]
    return {row["position"]: (bytes(row["data"]), bytes(row["hashes"])) for row in rows}


@pytest.mark.parametrize("count", [0, 1, 2100])
def test_the_hashes_of_the_log_stand_beside_their_leaves(put, count):
    """More leaves than are read at once, too."""
    _, url = put("0.6")
    engine, beside = old_log(url, count)
    engine.dispose()
    create_store(url).close()
    assert leaves_of(url) == {i: (data, b"".join(hashes)) for i, (data, hashes) in enumerate(beside)}
    assert "log_nodes" not in names(url)


def test_a_damaged_log_does_not_stop_an_upgrade_and_lacks_what_it_lacked(put):
    _, url = put("0.6")
    engine, beside = old_log(url, 20)
    with engine.begin() as connection:
        # Of leaf 3 what lies over it; leaf 7 itself; leaf 12 and its hash; and hashes of leaves that are not there.
        connection.exec_driver_sql("DELETE FROM log_nodes WHERE level = 2 AND position = 0")
        connection.exec_driver_sql("DELETE FROM log_leaves WHERE position IN (7, 12)")
        connection.exec_driver_sql("DELETE FROM log_nodes WHERE level = 0 AND position IN (12, 19)")
        connection.exec_driver_sql(
            "INSERT INTO log_nodes SELECT 3, 9, hash FROM log_nodes WHERE level = 3 LIMIT 1"
        )
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("UPDATE log_nodes SET hash = 'text' WHERE level = 1 AND position = 4")
    engine.dispose()
    create_store(url).close()
    expected = {i: [data, *hashes] for i, (data, hashes) in enumerate(beside) if i not in {7, 12}}
    del expected[3][3:]
    if url.startswith("sqlite:"):
        del expected[9][2:]
    del expected[19][1:]
    assert leaves_of(url) == {i: (data, b"".join(hashes)) for i, (data, *hashes) in expected.items()}


def test_a_leaf_that_stands_nowhere_stops_an_upgrade(put):
    """SQLite took it; there is no place for it any more, and to drop it would hide it."""
    _, url = put("0.6")
    if not url.startswith("sqlite:"):
        pytest.skip("PostgreSQL has never taken it")
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        database.execute("INSERT INTO log_leaves VALUES ('x', 'decision', 'x', x'00')")
        database.commit()
    before = names(url), content(url, ["log_leaves", "log_nodes", "tpm_keys"])
    with pytest.raises(Unavailable, match="a position that is no number"):
        create_store(url)
    assert (names(url), content(url, ["log_leaves", "log_nodes", "tpm_keys"])) == before


def test_only_what_is_small_is_copied(put):
    """SQLite has no other way to change some tables; evidence, decisions and certificates stay where they are."""
    _, url = put("0.6")
    if not url.startswith("sqlite:"):
        pytest.skip("PostgreSQL changes tables in place")
    places = (
        "SELECT name, rootpage FROM sqlite_master WHERE name IN ('evidence', 'decisions', 'certificates')"
    )
    found = []
    for _ in range(2):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
            found.append(sorted(database.execute(places)))
        create_store(url).close()
    assert found[0] == found[1]
    assert len(found[0]) == 3
