"""What monitoring reads: how things stand, by statements that cost the same with a million certificates as with none.

The one exception is `revocations_by_reason`, which looks at every revocation; whoever calls it remembers the answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.issuance import OPEN
from ca_service.store.rows import IssuerState
from ca_service.store.schedule import read_schedule
from ca_service.store.transaction import Transaction


@dataclass(frozen=True)
class ListState:
    """The stalest of the revocation lists in force of the issuer `skid` (hex), without its bytes.

    `made_last` is when any of the issuer's lists in force was made last, and `shards` says which lists there are.
    """

    skid: str
    number: int
    this_update: datetime
    next_update: datetime
    made_last: datetime
    shards: frozenset[int]


@dataclass(frozen=True)
class IssuerStanding:
    """An issuing CA as the database knows it, without its certificate."""

    skid: str
    role: str
    pair: str
    state: IssuerState


@dataclass(frozen=True)
class Gauges:
    """How a database stands.

    Attributes:
        policy_version: in force, 0 for none.
        policy_digest: its digest, empty for none.
        policy_applied_at: since when.
        policies_waiting: since when each version has been waiting for approval, by version.
        policies_scheduled: when each version comes in force that will by itself, by version.
        log_size: leaves of the log.
        log_at: when the last checkpoint was signed; None without a log.
        decided_at: when the newest decision was made.
        epoch: number of the present epoch.
        open_intents: how many issuances are under way, or were when their process died.
        oldest_intent_at: since when the first of them.
        issuers: all issuing CAs.
        lists: of each issuing CA its stalest revocation list in force.
        size: of the database in bytes.
    """

    policy_version: int
    policy_digest: str
    policy_applied_at: datetime | None
    policies_waiting: Mapping[int, datetime]
    policies_scheduled: Mapping[int, datetime]
    log_size: int
    log_at: datetime | None
    decided_at: datetime | None
    epoch: int
    open_intents: int
    oldest_intent_at: datetime | None
    issuers: tuple[IssuerStanding, ...]
    lists: tuple[ListState, ...]
    size: int


_HEAD = sa.select(schema.log_head.c.size, schema.log_head.c.at)
_DECIDED = sa.select(sa.func.max(schema.decisions.c.at, type_=schema.decisions.c.at.type))
_EPOCH = sa.select(sa.func.max(schema.epochs.c.number))
_INTENTS = sa.select(
    sa.func.count(), sa.func.min(schema.intents.c.created_at, type_=schema.intents.c.created_at.type)
).where(OPEN)
_ISSUERS = sa.select(
    schema.issuers.c.skid, schema.issuers.c.role, schema.issuers.c.pair, schema.issuers.c.state
).order_by(schema.issuers.c.added_at, schema.issuers.c.skid)
_LAST_SHARD = 255
"""No CA has more lists; so a number that is damaged makes no work."""

_CRLS = schema.crls.c
# From shard to shard by the primary key: lists are kept for good, and to group them would look at every one.
_LISTS = sa.text(
    f"""
    WITH RECURSIVE shards (shard) AS (
        SELECT 0
        UNION ALL SELECT shard + 1 FROM shards
            WHERE shard < (SELECT max(shard) FROM crls WHERE issuer = :skid) AND shard < {_LAST_SHARD}
    )
    SELECT c.shard, c.number, c.this_update, c.next_update FROM shards s
        JOIN crls c ON c.issuer = :skid AND c.shard = s.shard
            AND c.number = (SELECT max(number) FROM crls n WHERE n.issuer = :skid AND n.shard = s.shard)
        ORDER BY c.next_update, c.shard
    """  # noqa: S608 - our own words
).columns(_CRLS.shard, _CRLS.number, _CRLS.this_update, _CRLS.next_update)
_REVOKED = sa.select(schema.revocations.c.reason, sa.func.count()).group_by(schema.revocations.c.reason)

_SQLITE_SIZE = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
_POSTGRESQL_SIZE = "SELECT pg_database_size(current_database())"


def read_gauges(tx: Transaction, at: datetime) -> Gauges:
    """How the database stands at `at`, as this transaction sees it."""
    connection = tx.connection
    schedule = read_schedule(tx.policies, at)
    policy = next((row for row in schedule.records if row.version == schedule.in_force), None)
    pending = schedule.pending()
    head = connection.execute(_HEAD).first()
    count, oldest = connection.execute(_INTENTS).one()
    issuers = tuple(
        IssuerStanding(skid, role, pair, IssuerState(state))
        for skid, role, pair, state in connection.execute(_ISSUERS)
    )
    return Gauges(
        policy_version=schedule.in_force,
        policy_digest="" if policy is None else policy.digest,
        policy_applied_at=None if policy is None else policy.in_force_from,
        policies_waiting={row.version: row.applied_at for row in pending if row.in_force_from is None},
        policies_scheduled={
            row.version: row.in_force_from for row in pending if row.in_force_from is not None
        },
        log_size=0 if head is None else head[0],
        log_at=None if head is None else head[1],
        decided_at=connection.execute(_DECIDED).scalar(),
        epoch=connection.execute(_EPOCH).scalar() or 0,
        open_intents=count,
        oldest_intent_at=oldest,
        issuers=issuers,
        lists=tuple(found for issuer in issuers if (found := _list(tx, issuer.skid)) is not None),
        size=_size(connection),
    )


def revocations_by_reason(tx: Transaction) -> Mapping[str, int]:
    """How many serials stand on record as revoked, by reason."""
    return {reason: int(count) for reason, count in tx.connection.execute(_REVOKED)}


def _list(tx: Transaction, skid: str) -> ListState | None:
    rows = tx.connection.execute(_LISTS, {"skid": skid}).all()
    if not rows:
        return None
    _, number, this_update, next_update = rows[0]
    made_last = max(row.this_update for row in rows)
    return ListState(skid, number, this_update, next_update, made_last, frozenset(row.shard for row in rows))


def _size(connection: sa.Connection) -> int:
    statement = _SQLITE_SIZE if connection.dialect.name == "sqlite" else _POSTGRESQL_SIZE
    return int(connection.exec_driver_sql(statement).scalar() or 0)
