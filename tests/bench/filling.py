"""Fills a CA's SQLite database as if many TPMs had enrolled, in minutes instead of days.

The rows are in all tables that an enrolment writes, with keys spread over their whole range, and the log is a log: its
tree, frontier and checkpoint fit. Evidence, answers and certificates are short: what matters here is how many rows
there are to look through, not how much a row holds.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import enrollment_world as w

from ca_service.audit.merkle import Frontier, leaf_hash
from ca_service.audit.note import sign_note, verifier_key
from ca_service.store import schema
from vtpm.wire.log import Checkpoint

CERTIFICATES = 3
"""Per TPM: EK, IAK, IDevID."""

MEASUREMENTS, CHIPS, KBS_KEYS = 10, 4_000, 3
"""How many different ones there are in the evidence."""

_ROLES = (("ek", "L-1", "000b"), ("iak", "H-3", "000c"), ("idevid", "H-3", "000c"))
_AT = "2026-11-23T12:00:00Z"
_SPACE = 1 << 128
_KBS = "org-kbs"
_SHORT = bytes(32)


def fill(world: w.World, certificates: int) -> None:
    """Bring the database to so many stored certificates, rounded up to whole TPMs.

    Args:
        world: a CA whose database has its schema and its policy, and which nobody has open.
        certificates: how many there shall be.
    """
    count = -(-certificates // CERTIFICATES)
    path = Path(world.url.removeprefix("sqlite:///"))
    database = sqlite3.connect(path, isolation_level=None)
    try:
        if database.execute("SELECT count(*) FROM log_leaves").fetchone() != (0,):
            raise SystemExit("only the database of a new CA can be filled")
        # It is a file that can be made again: nothing here needs to survive a power cut.
        database.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-1000000; PRAGMA temp_store=MEMORY"
        )
        indices = database.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall()
        database.execute("BEGIN IMMEDIATE")
        for name, _ in indices:
            database.execute(f'DROP INDEX "{name}"')
        _fill_tables(database, world, count)
        _fill_log(database, world, count)
        for _, sql in indices:
            database.execute(sql)
        database.execute("COMMIT")
        database.execute("PRAGMA journal_mode=WAL")
    finally:
        database.close()


def _spread(number: int, count: int) -> str:
    """The hex digits of a key: in ascending order, so that rows are appended, and all over the range."""
    return f"{(2 * number + 1) * _SPACE // (2 * count):032x}"


def _insert(
    database: sqlite3.Connection, table: str, columns: str, rows: Iterable[tuple[object, ...]]
) -> None:
    names = columns.split()
    known = schema.metadata.tables[table].columns
    if missing := [c.name for c in known if not c.nullable and c.name not in names]:
        raise SystemExit(f"the table {table} has columns that the bench does not fill: {missing}")
    marks = ", ".join("?" * len(names))
    database.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)  # noqa: S608 - our names


def _fill_tables(database: sqlite3.Connection, world: w.World, count: int) -> None:
    version, digest = database.execute(
        "SELECT version, digest FROM policies ORDER BY version DESC"
    ).fetchone()
    issuers = {issuer.role: issuer.skid for issuer in world.authority.issuers}
    shard_of = world.authority.issuers[0].info.shard_of

    def ids() -> Iterator[tuple[int, str, str]]:
        return ((i + 1, _spread(i, count), f"default/vtpm/filled-{i}") for i in range(count))

    def certificates() -> Iterator[tuple[int, str, str, str, str, str]]:
        for k, (role, template, head) in enumerate(_ROLES):
            for i, id_, _ in ids():
                key = head + _spread(CERTIFICATES * (i - 1) + k, CERTIFICATES * count) * 2
                yield i, id_, role, template, key, _serial(i - 1, k, count)

    _insert(
        database, "decisions",
        "id at stage admitted rule trace policy_version policy_digest evidence_digest kbs_id resource salt",
        ((id_, _AT, "enroll", 1, "", "[]", version, digest, id_ * 2, _KBS, name, "") for _, id_, name in ids()),
    )  # fmt: skip
    _insert(
        database, "evidence",
        "digest body received_at measurement chip_id kbs_key product reported_tcb ek_set",
        ((id_ * 2, _SHORT, _AT, *_facts(i), id_ * 2) for i, id_, _ in ids()),
    )  # fmt: skip
    _insert(
        database, "submissions", "nonce body_digest consumed_at decision_id status reply",
        ((id_ * 2, id_ * 2, _AT, id_, 201, _SHORT) for _, id_, _ in ids()),
    )  # fmt: skip
    _insert(
        database, "enrollments", "id nonce state expires_at decision_id policy_version evidence_digest reply",
        ((id_, id_ * 2, "issued", _AT, id_, version, id_ * 2, _SHORT) for _, id_, _ in ids()),
    )  # fmt: skip
    _insert(
        database, "instances", "id kbs_id resource salt created_at",
        ((i, _KBS, name, "", _AT) for i, _, name in ids()),
    )  # fmt: skip
    _insert(
        database, "tpms", "id instance_id occupies ek_set counter root salt report_id first_at last_at",
        ((i, i, i, id_ * 2, f"{1:039}", id_ * 2, id_, id_ * 2, _AT, _AT) for i, id_, _ in ids()),
    )  # fmt: skip
    _insert(
        database, "key_ids", "key_id kbs_id resource", ((id_ * 2, _KBS, name) for _, id_, name in ids()),
    )  # fmt: skip
    _insert(
        database, "intents",
        "id enrollment_id tpm_id decision_id policy_version evidence_digest owner state created_at closed_at",
        ((id_, id_, i, id_, version, id_ * 2, "0" * 32, "issued", _AT, _AT) for i, id_, _ in ids()),
    )  # fmt: skip
    _insert(
        database, "tpm_keys", "name instance_id role template",
        ((key, i, role, template) for i, _, role, template, key, _ in certificates()),
    )  # fmt: skip
    _insert(
        database, "certificates",
        "serial issuer profile template key_name live intent_id tpm_id state tbs tbs_digest der issued_at not_after"
        " shard",
        (
            (
                serial, issuers["ek" if role == "ek" else "devid"], role, template, key, f"{role}:{key}", id_, i,
                "issued", b"", id_ * 2, _SHORT, _AT, "9999-12-31T23:59:59Z", shard_of(int(serial, 16)),
            )
            for i, id_, role, template, key, serial in certificates()
        ),
    )  # fmt: skip


def _facts(number: int) -> tuple[str, str, str, str, str]:
    """Measurement, chip, KBS key, product and TCB, as in a fleet: few builds and keys, some thousand machines."""
    build, chip, broker = number % MEASUREMENTS, number % CHIPS, number % KBS_KEYS
    tcb = bytes([4, 0, 0, 0, 0, 0, 20 + number % 8, 200]).hex()
    return f"{build:096x}", f"{chip + 1:0128x}", f"{broker:043}", "Milan", tcb


def _serial(number: int, kind: int, count: int) -> str:
    return "2a" + _spread(CERTIFICATES * number + kind, CERTIFICATES * count)


def _fill_log(database: sqlite3.Connection, world: w.World, count: int) -> None:
    """The leaves of all these decisions and certificates, in the log of a CA that has logged nothing yet."""
    tree = Frontier()

    def leaves() -> Iterator[tuple[int, str, str, bytes, bytes]]:
        nonlocal tree
        for i in range(count):
            subjects = [("decision", _spread(i, count))]
            subjects += [("certificate", _serial(i, k, count)) for k in range(CERTIFICATES)]
            for kind, subject in subjects:
                data = f'{{"at":"{_AT}","kind":"{kind}","subject":"{subject}","v":1}}'.encode("ascii")
                tree, completed = tree.append(leaf_hash(data))
                yield tree.size - 1, kind, subject, data, b"".join(hash_ for _, _, hash_ in completed)

    _insert(database, "log_leaves", "position kind subject data hashes", leaves())
    authority = world.authority
    key = verifier_key(authority.log.origin, authority.log_key)
    note = sign_note(Checkpoint(key.name, tree.size, tree.root()).to_text(), key, authority.log_key)
    database.execute(
        "INSERT OR REPLACE INTO log_head (id, size, frontier, checkpoint, at) VALUES (1, ?, ?, ?, ?)",
        (tree.size, tree.to_bytes(), note.decode("utf-8"), _AT),
    )
