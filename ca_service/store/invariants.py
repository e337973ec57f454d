"""What must hold in the CA's database whatever happened to it, as questions that find the rows where it does not.

Constraints hold most of it already. Here it is asked again of the rows as they are: a restored, repaired or
hand-edited database may have lost its constraints, and states must fit across tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from ca_service.store.schema import Instant
from ca_service.store.transaction import Transaction

OPEN_FOR = timedelta(minutes=15)
"""Signing takes less than a second; an intent that is open for longer waits for the next start of a server."""

EXAMPLES = 5
"""How many offending rows are named."""


@dataclass(frozen=True)
class Breach:
    """An invariant that does not hold.

    Attributes:
        id: stable name of the invariant.
        detail: what it says, and what breaks it.
        count: how many rows break it, at least.
        examples: keys of the first of them.
    """

    id: str
    detail: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Invariant:
    """A rule and the query that gives one key per row or group that breaks it; may use the parameter ``old``."""

    id: str
    rule: str
    query: str


INVARIANTS: tuple[Invariant, ...] = (
    Invariant(
        "certificate.one-live",
        "one live certificate per profile and key, of ephemeral ones one per launch",
        "SELECT min(serial) FROM certificates WHERE live IS NOT NULL GROUP BY live HAVING count(*) > 1",
    ),
    Invariant(
        "certificate.live-key",
        "a live certificate is marked by its profile and key, an ephemeral one by its launch too; an ended one is not",
        # The mark of an ephemeral one is a hash, which SQL cannot make: its form, and that the instance is such a one.
        "SELECT serial FROM certificates c WHERE live IS NOT NULL"
        " AND (state NOT IN ('issued', 'intended') OR live <> profile || ':' || key_name AND NOT"
        " (substr(live, 1, length(profile) + 11) = 'ephemeral-' || profile || ':'"
        " AND length(live) = length(profile) + 75 AND EXISTS (SELECT 1 FROM tpms t JOIN instances i"
        " ON i.id = t.instance_id WHERE t.id = c.tpm_id AND i.kbs_id = 'ephemeral:')))",
    ),
    Invariant(
        "certificate.stored",
        "what was issued is stored",
        "SELECT serial FROM certificates WHERE der IS NULL AND state IN ('issued', 'superseded', 'revoked')",
    ),
    Invariant(
        "certificate.ended-revoked",
        "every revoked or abandoned serial is among the revocations",
        "SELECT serial FROM certificates c WHERE state IN ('revoked', 'abandoned') AND NOT EXISTS"
        " (SELECT 1 FROM revocations r WHERE r.issuer = c.issuer AND r.serial = c.serial)",
    ),
    Invariant(
        "certificate.revoked-ended",
        "no serial among the revocations counts as good",
        "SELECT c.serial FROM certificates c JOIN revocations r ON r.issuer = c.issuer AND r.serial = c.serial"
        " WHERE c.state IN ('issued', 'superseded')",
    ),
    Invariant(
        "certificate.to-be-signed",
        "what was to be signed is on record: itself until it is issued, and its digest or itself afterwards",
        "SELECT serial FROM certificates WHERE length(tbs) = 0 AND"
        " (tbs_digest IS NULL OR state IN ('intended', 'abandoned'))",
    ),
    Invariant(
        "certificate.intent",
        "a certificate is of the TPM that its intent names",
        "SELECT c.serial FROM certificates c JOIN intents i ON i.id = c.intent_id WHERE i.tpm_id <> c.tpm_id",
    ),
    Invariant(
        "responder.accounted",
        "every serial reserved for an OCSP responder is issued and stored, or among the revocations",
        "SELECT serial FROM responders o WHERE (state = 'issued' AND der IS NULL) OR state NOT IN"
        " ('intended', 'issued', 'abandoned') OR (state = 'intended' AND created_at < :old) OR (state = 'abandoned'"
        " AND NOT EXISTS (SELECT 1 FROM revocations r WHERE r.issuer = o.issuer AND r.serial = o.serial))",
    ),
    Invariant(
        "intent.whole",
        "an issued intent has no certificate that is only intended, an abandoned one has none that is good",
        "SELECT i.id FROM intents i JOIN certificates c ON c.intent_id = i.id WHERE"
        " (i.state = 'issued' AND c.state = 'intended') OR (i.state = 'abandoned' AND c.state <> 'abandoned')",
    ),
    Invariant(
        "intent.closed",
        "no intent stays open; start the server, which abandons those of the dead",
        "SELECT id FROM intents WHERE state = 'open' AND created_at < :old",
    ),
    Invariant(
        "instance.one-tpm",
        "one live TPM per instance",
        "SELECT CAST(min(id) AS VARCHAR(20)) FROM tpms WHERE occupies IS NOT NULL GROUP BY occupies"
        " HAVING count(*) > 1",
    ),
    Invariant(
        "instance.occupied",
        "a live TPM occupies its own instance, one that was freed occupies none",
        "SELECT CAST(id AS VARCHAR(20)) FROM tpms WHERE occupies <> instance_id"
        " OR (occupies IS NULL AND freed_at IS NULL) OR (occupies IS NOT NULL AND freed_at IS NOT NULL)",
    ),
    Invariant(
        "issuer.one-active",
        "one issuing CA signs per role and pair",
        "SELECT min(skid) FROM issuers WHERE state = 'active' GROUP BY role, pair HAVING count(*) > 1",
    ),
    Invariant(
        "policy.ended",
        "a policy version that was withdrawn or dropped does not come in force",
        "SELECT CAST(s.version AS VARCHAR(20)) FROM policy_starts s JOIN policy_verdicts v ON v.version = s.version"
        " WHERE v.verdict IN ('withdraw', 'drop')",
    ),
    Invariant(
        "epoch.present",
        "there is a present epoch",
        "SELECT 'epochs' FROM (SELECT count(*) AS n FROM epochs) e WHERE n = 0",
    ),
)
"""All of them, in the order in which they are asked."""


def check_invariants(tx: Transaction, at: datetime) -> list[Breach]:
    """Ask all of them, and the database for its own integrity; the times in the rows are compared with `at`."""
    breaches = _check_integrity(tx.connection)
    for invariant in INVARIANTS:
        query = sa.text(invariant.query)
        given: Mapping[str, object] = {}
        if ":old" in invariant.query:
            query = query.bindparams(sa.bindparam("old", type_=Instant))
            given = {"old": at - OPEN_FOR}
        found = [str(key) for key in tx.connection.execute(query, given).scalars()]
        breaches += _breach(invariant.id, invariant.rule, found)
    return breaches


def _breach(id_: str, rule: str, found: list[str]) -> list[Breach]:
    if not found:
        return []
    return [Breach(id_, f"broken: {rule}", len(found), tuple(sorted(found)[:EXAMPLES]))]


def _check_integrity(connection: sa.Connection) -> list[Breach]:
    if connection.dialect.name == "sqlite":
        damage = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
        orphans = [f"{row[0]} {row[1]}" for row in connection.exec_driver_sql("PRAGMA foreign_key_check")]
        return [
            *_breach("database.integrity", "the file is whole", [] if damage == ["ok"] else damage),
            *_breach("database.references", "every row that another one names is there", orphans),
        ]
    doubtful = connection.exec_driver_sql(
        "SELECT conname FROM pg_constraint WHERE NOT convalidated UNION ALL"
        " SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
    )
    forgetful = connection.exec_driver_sql(
        "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting <> 'on'"
    )
    return [
        *_breach("database.integrity", "constraints and indexes are valid", list(doubtful.scalars())),
        *_breach("database.durable", "the server flushes what it commits", list(forgetful.scalars())),
    ]
