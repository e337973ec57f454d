"""What the status page reads, by statements that cost the same with a million certificates as with none.

None of them looks at a row that it does not return, but for two bounds: `certified` looks at so many leaves of the log
as it is told, and `hourly` counts the entries of an index. Pages go on behind the last row of the one before, never
from the beginning.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.policy_rows import VersionRecord
from ca_service.store.rows import CertificateState
from ca_service.store.schedule import State, read_schedule
from ca_service.store.transaction import Transaction

ENROLL = "enroll"
"""Stage of a decision about evidence that came with an enrolment."""


@dataclass(frozen=True)
class Verdicts:
    """How many decisions fell in one hour.

    Attributes:
        admitted: enrolments that were admitted.
        refused: refusals, at any stage.
    """

    admitted: int
    refused: int


@dataclass(frozen=True)
class DecidedRow:
    """A decision as a list shows it. `trace` is its JSON text; `instance` the number of its instance, if it has one."""

    id: str
    at: datetime
    stage: str
    admitted: int
    rule: str
    policy_version: int
    kbs_id: str
    resource: str
    salt: str
    trace: str = field(repr=False)
    instance: int | None


@dataclass(frozen=True)
class CertifiedRow:
    """A certificate as a list shows it, with the instance that its TPM lives or lived in.

    `position` is that of its leaf in the log, None if it has none; `issuer` the subject key id of its issuing CA.
    """

    position: int | None
    serial: str
    issuer: str
    profile: str
    template: str
    state: CertificateState
    issued_at: datetime | None
    der: bytes | None = field(repr=False)
    instance: int
    kbs_id: str
    resource: str
    salt: str


@dataclass(frozen=True)
class StatusSources:
    """By what an issuing CA says which certificates are revoked.

    Attributes:
        lists: how many revocation lists it has.
        responder_until: until when the certificate of its OCSP responder holds; None if it has none.
    """

    lists: int
    responder_until: datetime | None


_DECISIONS, _INSTANCES, _TPMS = schema.decisions.c, schema.instances.c, schema.tpms.c
_CERTIFICATES, _LEAVES = schema.certificates.c, schema.log_leaves.c
_RESPONDERS, _CRLS = schema.responders.c, schema.crls.c

_WITHIN = sa.and_(_DECISIONS.at >= sa.bindparam("since"), _DECISIONS.at < sa.bindparam("until"))
# Two counts, for to group what is counted takes several times as long.
_HOURLY = sa.select(
    sa.select(sa.func.count())
    .where(_DECISIONS.admitted == 1, _WITHIN, _DECISIONS.stage == ENROLL)
    .scalar_subquery(),
    sa.select(sa.func.count()).where(schema.REFUSED, _WITHIN).scalar_subquery(),
)
_THEIRS = sa.and_(
    _INSTANCES.kbs_id == _DECISIONS.kbs_id,
    _INSTANCES.resource == _DECISIONS.resource,
    _INSTANCES.salt == _DECISIONS.salt,
)
_DECIDED = sa.select(
    _DECISIONS.id,
    _DECISIONS.at,
    _DECISIONS.stage,
    _DECISIONS.admitted,
    _DECISIONS.rule,
    _DECISIONS.policy_version,
    _DECISIONS.kbs_id,
    _DECISIONS.resource,
    _DECISIONS.salt,
    _DECISIONS.trace,
    _INSTANCES.id.label("instance"),
).join_from(schema.decisions, schema.instances, _THEIRS, isouter=True)
_NEWEST_FIRST = (_DECISIONS.at.desc(), _DECISIONS.id.desc())
_REFUSED = _DECIDED.where(schema.REFUSED)
_BEFORE = sa.or_(
    _DECISIONS.at < sa.bindparam("at"),
    sa.and_(_DECISIONS.at == sa.bindparam("at"), _DECISIONS.id < sa.bindparam("id")),
)
# The second condition alone would be right; the first is the one that an index can begin with.
_REFUSED_BEFORE = _REFUSED.where(_DECISIONS.at <= sa.bindparam("at"), _BEFORE)

_CERTIFICATE = sa.select(
    _LEAVES.position,
    _CERTIFICATES.serial,
    _CERTIFICATES.issuer,
    _CERTIFICATES.profile,
    _CERTIFICATES.template,
    _CERTIFICATES.state,
    _CERTIFICATES.issued_at,
    _CERTIFICATES.der,
    _INSTANCES.id.label("instance"),
    _INSTANCES.kbs_id,
    _INSTANCES.resource,
    _INSTANCES.salt,
)
_CERTIFIED = (
    _CERTIFICATE.join_from(schema.log_leaves, schema.certificates, _CERTIFICATES.serial == _LEAVES.subject)
    .join(schema.tpms, _TPMS.id == _CERTIFICATES.tpm_id)
    .join(schema.instances, _INSTANCES.id == _TPMS.instance_id)
    .where(
        # Not the column itself: else SQLite goes through all leaves of the kind, by their subjects.
        sa.func.coalesce(_LEAVES.kind, "") == "certificate",
        _LEAVES.position >= sa.bindparam("first"),
        _LEAVES.position < sa.bindparam("end"),
    )
    .order_by(_LEAVES.position.desc())
)
_ITS_LEAF = sa.and_(_LEAVES.kind == "certificate", _LEAVES.subject == _CERTIFICATES.serial)
_STORED = (
    _CERTIFICATE.join_from(schema.certificates, schema.log_leaves, _ITS_LEAF, isouter=True)
    .join(schema.tpms, _TPMS.id == _CERTIFICATES.tpm_id)
    .join(schema.instances, _INSTANCES.id == _TPMS.instance_id)
)
_LAST_LIST = sa.select(sa.func.max(_CRLS.shard)).where(_CRLS.issuer == sa.bindparam("issuer"))
_ENDS = sa.select(sa.func.max(_RESPONDERS.not_after, type_=_RESPONDERS.not_after.type)).where(
    _RESPONDERS.issuer == sa.bindparam("issuer"), _RESPONDERS.state == CertificateState.ISSUED.value
)


def hourly(tx: Transaction, since: datetime, until: datetime) -> Verdicts:
    """How many decisions fell from `since` on and before `until`."""
    admitted, refused = tx.connection.execute(_HOURLY, {"since": since, "until": until}).one()
    return Verdicts(admitted, refused)


def refusals(tx: Transaction, most: int, before: tuple[datetime, str] | None = None) -> list[DecidedRow]:
    """The newest refusals first, at most so many; `before`: time and id of the last one of the page before."""
    query = _REFUSED if before is None else _REFUSED_BEFORE
    given = {} if before is None else {"at": before[0], "id": before[1]}
    return _decided(tx, query.order_by(*_NEWEST_FIRST).limit(most), given)


def decisions_of(tx: Transaction, kbs_id: str, resource: str, salt: str, most: int) -> list[DecidedRow]:
    """The newest decisions about an instance first, at most so many."""
    query = _DECIDED.where(
        _DECISIONS.kbs_id == kbs_id, _DECISIONS.resource == resource, _DECISIONS.salt == salt
    )
    return _decided(tx, query.order_by(*_NEWEST_FIRST).limit(most), {})


def decision(tx: Transaction, decision_id: str) -> DecidedRow | None:
    """The decision with this id."""
    return next(iter(_decided(tx, _DECIDED.where(_DECISIONS.id == decision_id), {})), None)


def _decided(tx: Transaction, query: "sa.Select[Any]", given: dict[str, object]) -> list[DecidedRow]:
    return [DecidedRow(*row) for row in tx.connection.execute(query, given)]


def certified(tx: Transaction, most: int, *, end: int, window: int) -> list[CertifiedRow]:
    """The certificates that were logged last before position `end`, the newest first.

    Args:
        tx: the transaction to read in.
        most: how many at most.
        end: position in the log; the log's size for the newest ones.
        window: how many leaves are looked at.
    """
    return _certified(tx, _CERTIFIED.limit(most), {"first": max(0, end - window), "end": end})


def certificate(tx: Transaction, serial: str) -> CertifiedRow | None:
    """The certificate with this serial number (hex)."""
    return next(iter(_certified(tx, _STORED.where(_CERTIFICATES.serial == serial), {})), None)


def certificates_of(tx: Transaction, instance: int, most: int) -> list[CertifiedRow]:
    """The newest certificates of the TPMs that live or lived in an instance, at most so many."""
    order = (_CERTIFICATES.issued_at.desc(), _CERTIFICATES.serial)
    return _certified(tx, _STORED.where(_TPMS.instance_id == instance).order_by(*order).limit(most), {})


def _certified(tx: Transaction, query: "sa.Select[Any]", given: dict[str, object]) -> list[CertifiedRow]:
    rows = tx.connection.execute(query, given).mappings()
    return [CertifiedRow(**{**row, "state": CertificateState(row["state"])}) for row in rows]


def policy_versions(tx: Transaction, at: datetime, most: int) -> list[tuple[VersionRecord, State]]:
    """The newest policy versions first, at most so many, with their states at `at`; the one in force in any case."""
    last = tx.policies.next_version() - 1
    schedule = read_schedule(tx.policies, at, first=max(0, last - most + 1))
    shown = [row for row in schedule.records if row.version == schedule.in_force or row.version > last - most]
    return [(row, schedule.state(row)) for row in reversed(shown)]


def status_sources(tx: Transaction, issuer: str) -> StatusSources:
    """By what an issuing CA (subject key id, hex) says which certificates are revoked."""
    last = tx.connection.execute(_LAST_LIST, {"issuer": issuer}).scalar()
    end = tx.connection.execute(_ENDS, {"issuer": issuer}).scalar()
    return StatusSources(0 if last is None else last + 1, end)
