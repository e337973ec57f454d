"""What is to be revoked, by what it rests on.

A certificate keeps the measurement of its own issuance only. So a cause is held against all accepted evidence about a
TPM, at enrolment, re-enrolment and renewal. If any of it fits, all certificates of the TPM are hit: whatever gave that
evidence had the TPM's keys in its hands. Evidence is a TPM's if its decision is about the TPM's instance and it states
the TPM's set of EKs. A reset does not change that: it frees an instance, it does not wash keys.

Whoever gave evidence also had the instance's volume and secret in its hands. What it left there may come back as a TPM
with keys that it never stated. Nobody can know, so such TPMs are only named: they live beside.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, ClassVar

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import Repository
from ca_service.store.rows import CertificateState, EvidenceFacts
from ca_service.store.statements import Statement, one_of, places

_CHUNK = 500
"""How many keys one statement names: less than any database's bound on values."""

EPHEMERAL = "ephemeral:"
"""KBS id of instances that last for one launch."""

_D, _E, _I = schema.decisions.c, schema.evidence.c, schema.instances.c
_T, _C = schema.tpms.c, schema.certificates.c

_ACCEPTED = schema.evidence.join(schema.decisions, sa.and_(_D.evidence_digest == _E.digest, _D.admitted == 1))
# Without the salt: decisions of the first releases do not have it, and no EK lives under two salts.
_ABOUT_TPMS = _ACCEPTED.join(
    schema.instances, sa.and_(_I.kbs_id == _D.kbs_id, _I.resource == _D.resource)
).join(schema.tpms, sa.and_(_T.instance_id == _I.id, _T.ek_set == _E.ek_set))
# With the salt: each volume of a shared resource has a secret of its own.
_BESIDE = _ACCEPTED.join(
    schema.instances, sa.and_(_I.kbs_id == _D.kbs_id, _I.resource == _D.resource, _I.salt == _D.salt)
).join(
    schema.tpms,
    sa.and_(_T.instance_id == _I.id, sa.or_(_E.ek_set.is_(None), _T.ek_set != _E.ek_set)),
)
_CERTIFIED = schema.certificates.join(schema.tpms, _T.id == _C.tpm_id).join(
    schema.instances, _I.id == _T.instance_id
)

_GOOD = (CertificateState.ISSUED.value, CertificateState.SUPERSEDED.value)
_INTENDED = CertificateState.INTENDED.value
_REVOKED = CertificateState.REVOKED.value

_PLACES = _CHUNK

_END = Statement(
    schema.certificates.update().where(
        one_of(_C.serial, "serial", _PLACES), sa.or_(*(_C.state == state for state in _GOOD))
    ),
    ("state", "live"),
)


@dataclass(frozen=True)
class Cause:
    """Why certificates are to be revoked: those that fit every member that is given.

    Those about evidence (from `measurement` on) must all fit the same decision.

    Attributes:
        serial: this certificate alone, hex.
        kbs_id: with `resource`, the instance that the TPM lives or lived in.
        resource: see there.
        salt: of that instance; None means all instances of the resource.
        measurement: launch measurement, hex.
        chip_id: CHIP_ID, hex.
        kbs_key: thumbprint of the key that verified the grant.
        kbs: stable id of the KBS that the grant came from, whatever its key was.
        kbs_keys: thumbprints that this KBS ever had, for ephemeral TPMs, whose instances do not name it.
        since: decisions of the CA from this moment on, aware.
        tcbs: (product, REPORTED_TCB in hex), any of them.
        policy_version: the policy that the decision was made under.
        tpm_ids: these TPMs, by their numbers, and no others; as many as one statement can name.
    """

    serial: str | None = None
    kbs_id: str | None = None
    resource: str | None = None
    salt: str | None = None
    measurement: str | None = None
    chip_id: str | None = None
    kbs_key: str | None = None
    kbs: str | None = None
    kbs_keys: tuple[str, ...] = ()
    since: datetime | None = None
    tcbs: tuple[tuple[str, str], ...] | None = None
    policy_version: int | None = None
    tpm_ids: tuple[int, ...] | None = None

    @property
    def about_evidence(self) -> bool:
        """Whether decisions and evidence are looked at; else `serial` or the instance says it all."""
        asked = (self.measurement, self.chip_id, self.kbs_key, self.kbs, self.tcbs, self.policy_version)
        return any(value is not None for value in asked)


@dataclass(frozen=True)
class HitRow:
    """A certificate that a cause hits, with its TPM and instance; `live` says whether the TPM occupies the instance."""

    serial: str
    issuer: str
    profile: str
    state: CertificateState
    issued_at: datetime | None
    intent_id: str
    tpm_id: int
    live: bool
    kbs_id: str
    resource: str
    salt: str


@dataclass(frozen=True)
class MatchRow:
    """The first decision about a TPM that fits a cause, with what its evidence says."""

    tpm_id: int
    decision_id: str
    at: datetime
    policy_version: int
    measurement: str | None
    chip_id: str | None
    kbs_key: str | None
    product: str | None
    reported_tcb: str | None


@dataclass(frozen=True)
class Counts:
    """How much a cause hits.

    Attributes:
        decisions: accepted decisions that fit, whatever became of their TPMs.
        unknown: accepted decisions whose evidence does not say what the cause asks: nobody knows whether they fit.
        tpms: TPMs that have certificates to be ended.
        certificates: those that would be revoked.
        being_issued: those that are just being issued, which would be given up.
    """

    decisions: int
    unknown: int
    tpms: int
    certificates: int
    being_issued: int


@dataclass(frozen=True)
class BesideRow:
    """A TPM with good certificates in an instance that gave evidence which fits, with other keys than the TPM's."""

    tpm_id: int
    kbs_id: str
    resource: str
    salt: str


class Causes(Repository):
    """Finds and ends what rests on a cause."""

    enums: ClassVar[Mapping[str, Any]] = {"state": CertificateState}

    def facts(self, digests: Collection[str]) -> dict[str, EvidenceFacts]:
        """What certificates are revoked by, for the evidence under these digests."""
        names = [field.name for field in fields(EvidenceFacts)]
        query = sa.select(_E.digest, *(_E[name] for name in names)).where(_E.digest.in_(digests))
        return {digest: EvidenceFacts(*facts) for digest, *facts in self._connection.execute(query)}

    def has_instance(self, kbs_id: str, resource: str, salt: str | None) -> bool:
        """Whether there is such an instance; without a salt, any of the resource."""
        query = sa.select(_I.id).where(_I.kbs_id == kbs_id, _I.resource == resource)
        if salt is not None:
            query = query.where(_I.salt == salt)
        return self._connection.execute(query.limit(1)).first() is not None

    def tcbs(self, product: str) -> list[str]:
        """Every REPORTED_TCB (hex) in evidence about a product; there are few, so each is looked up by the index."""
        first = sa.select(sa.func.min(_E.reported_tcb)).where(_E.product == product)
        found = [self._connection.execute(first).scalar()]
        while (last := found[-1]) is not None:
            found.append(self._connection.execute(first.where(_E.reported_tcb > last)).scalar())
        return [str(tcb) for tcb in found if tcb is not None]

    def counts(self, cause: Cause, at: datetime) -> Counts:
        """How much a cause hits at `at`."""
        intended = sa.func.count(sa.case((_C.state == _INTENDED, 1)))
        numbers = sa.select(sa.func.count(_C.tpm_id.distinct()), sa.func.count(), intended)
        hit = self._connection.execute(numbers.select_from(_CERTIFIED).where(*_hit(cause, at))).one()
        tpms, certificates, being_issued = (int(number) for number in hit)
        decisions = unknown = 0
        if cause.about_evidence:
            for fits in _alternatives(cause):
                decisions += self._count(sa.select(sa.func.count()).select_from(_ACCEPTED).where(*fits))
            unknown = self._count(
                sa.select(sa.func.count()).select_from(_ACCEPTED).where(_says_nothing(cause))
            )
        return Counts(decisions, unknown, tpms, certificates - being_issued, being_issued)

    def _count(self, query: "sa.Select[Any]") -> int:
        return int(self._connection.execute(query).scalar() or 0)

    def tpms(self, cause: Cause, at: datetime) -> list[int]:
        """Numbers of the TPMs with certificates to be ended, ascending."""
        query = sa.select(_C.tpm_id).distinct().select_from(_CERTIFIED).where(*_hit(cause, at))
        return list(self._connection.execute(query.order_by(_C.tpm_id)).scalars())

    def hits(self, cause: Cause, at: datetime, limit: int) -> list[HitRow]:
        """The certificates to be ended, by TPM, at most so many."""
        return self._all(HitRow, _listing(*_hit(cause, at)).limit(limit))

    def hits_of(self, cause: Cause, at: datetime, tpm_ids: Sequence[int]) -> list[HitRow]:
        """The same for some of the TPMs that `tpms` gave, all of them."""
        conditions = (_endable(cause, at), *_direct(cause))
        return [
            row
            for chunk in _chunks(tpm_ids)
            for row in self._all(HitRow, _listing(*conditions, _C.tpm_id.in_(chunk)))
        ]

    def beside(self, cause: Cause, at: datetime, limit: int) -> list[BesideRow]:
        """The TPMs in instances that evidence which fits came from, and that are not hit; at most so many.

        None for a cause that asks for no evidence. What lived there before has no good certificates any more.
        """
        if not cause.about_evidence:
            return []
        places = [sa.select(_T.id).select_from(_BESIDE).where(*fits) for fits in _alternatives(cause)]
        query = sa.select(_T.id, _I.kbs_id, _I.resource, _I.salt).distinct().select_from(_CERTIFIED)
        query = query.where(
            _C.tpm_id.in_(sa.union(*places) if len(places) > 1 else places[0]),
            _endable(cause, at),
            *_direct(cause),
        )
        rows = [BesideRow(*row) for row in self._connection.execute(query.order_by(_T.id))]
        # They are few, and all that is hit may be many: the other way round would be slow.
        own = self.matches(cause, [row.tpm_id for row in rows])
        return [row for row in rows if row.tpm_id not in own][:limit]

    def matches(self, cause: Cause, tpm_ids: Collection[int]) -> dict[int, MatchRow]:
        """For each of these TPMs its first decision that fits; nothing for a cause that asks for no evidence."""
        if not cause.about_evidence:
            return {}
        return {
            row.tpm_id: row
            for chunk in _chunks(sorted(set(tpm_ids)))
            for row in self._all(MatchRow, _first_matches(cause, chunk))
        }

    def end(self, serials: Iterable[str]) -> None:
        """Let good certificates be revoked ones; a serial (hex) that is no good certificate's is left as it is."""
        for chunk in _chunks(list(serials)):
            self._session.run(_END, places("serial", chunk, _PLACES) | {"state": _REVOKED, "live": None})


def _chunks(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The keys in pieces that one statement can name."""
    return (keys[i : i + _CHUNK] for i in range(0, len(keys), _CHUNK))


def _listing(*conditions: "sa.ColumnElement[bool]") -> "sa.Select[Any]":
    columns = (
        _C.serial, _C.issuer, _C.profile, _C.state, _C.issued_at, _C.intent_id, _C.tpm_id,
        _T.occupies.is_not(None).label("live"), _I.kbs_id, _I.resource, _I.salt,
    )  # fmt: skip
    query = sa.select(*columns).select_from(_CERTIFIED).where(*conditions)
    return query.order_by(_C.tpm_id, _C.serial)


def _hit(cause: Cause, at: datetime) -> "list[sa.ColumnElement[bool]]":
    """What a certificate that is hit fulfils."""
    conditions = [_endable(cause, at), *_direct(cause)]
    if cause.about_evidence:
        hit = [sa.select(_T.id).select_from(_ABOUT_TPMS).where(*fits) for fits in _alternatives(cause)]
        conditions.append(_C.tpm_id.in_(sa.union(*hit) if len(hit) > 1 else hit[0]))
    return conditions


def _endable(cause: Cause, at: datetime) -> "sa.ColumnElement[bool]":
    """Whether a certificate is there to be ended.

    One that has expired is of no use to a thief and only makes the list longer. But a live TPM is kept out by its
    revoked certificates alone, so its newest are revoked even then. Ephemeral TPMs end with their launch.
    """
    if cause.serial is not None:
        return _C.state.in_(_GOOD)
    unexpired = sa.or_(_C.not_after.is_(None), _C.not_after >= at)
    keeps_out = sa.and_(
        _C.state == CertificateState.ISSUED.value, _T.occupies.is_not(None), _I.kbs_id != EPHEMERAL
    )
    return sa.or_(_C.state == _INTENDED, sa.and_(_C.state.in_(_GOOD), sa.or_(unexpired, keeps_out)))


def _direct(cause: Cause) -> "list[sa.ColumnElement[bool]]":
    """What is asked of the certificate and its instance themselves."""
    asked = (
        (_C.serial, cause.serial),
        (_I.kbs_id, cause.kbs_id),
        (_I.resource, cause.resource),
        (_I.salt, cause.salt),
    )
    conditions = [column == value for column, value in asked if value is not None]
    return conditions if cause.tpm_ids is None else [*conditions, _C.tpm_id.in_(cause.tpm_ids)]


def _plain(column: "sa.ColumnElement[Any]") -> "sa.ColumnElement[Any]":
    return column


def _unindexed(column: "sa.ColumnElement[Any]") -> "sa.ColumnElement[Any]":
    """The same value, by which no database looks rows up."""
    return sa.func.coalesce(column, sa.null())


def _alternatives(
    cause: Cause, of: "Callable[[sa.ColumnElement[Any]], sa.ColumnElement[Any]]" = _plain
) -> "list[list[sa.ColumnElement[bool]]]":
    """What is asked of a decision and its evidence: any of the lists, wholly. No decision fits two of them.

    Args:
        cause: what is asked.
        of: what stands in the place of each column.
    """
    asked = (
        (_E.measurement, cause.measurement),
        (_E.chip_id, cause.chip_id),
        (_E.kbs_key, cause.kbs_key),
        (_D.policy_version, cause.policy_version),
    )
    common = [of(column) == value for column, value in asked if value is not None]
    if cause.since is not None:
        common.append(_D.at >= cause.since)
    if cause.tcbs is not None:
        raws: dict[str, list[str]] = {}
        for product, raw in cause.tcbs:
            raws.setdefault(product, []).append(raw)
        of_product = [
            sa.and_(of(_E.product) == name, of(_E.reported_tcb).in_(some)) for name, some in raws.items()
        ]
        common.append(sa.or_(*of_product) if of_product else sa.false())
    if cause.kbs is None:
        return [common]
    # Each by an index of its own: one condition over both tables would look at every row.
    own = [*common, of(_D.kbs_id) == cause.kbs]
    if not cause.kbs_keys:
        return [own]
    return [own, [*common, of(_D.kbs_id) == EPHEMERAL, of(_E.kbs_key).in_(cause.kbs_keys)]]


def _says_nothing(cause: Cause) -> "sa.ColumnElement[bool]":
    """Whether evidence lacks what the cause asks for. What has no measurement could not be read at all."""
    lacking: list[sa.ColumnElement[bool]] = [_E.measurement.is_(None)]
    if cause.chip_id is not None:
        lacking.append(_E.chip_id.is_(None))
    if cause.tcbs is not None:
        lacking.append(_E.product.is_(None))
    return sa.or_(*lacking)


def _first_matches(cause: Cause, tpm_ids: Sequence[int]) -> "sa.Select[Any]":
    columns = (
        _T.id.label("tpm_id"), _D.id.label("decision_id"), _D.at, _D.policy_version,
        _E.measurement, _E.chip_id, _E.kbs_key, _E.product, _E.reported_tcb,
    )  # fmt: skip
    parts = [
        sa.select(*columns).select_from(_ABOUT_TPMS).where(_T.id.in_(tpm_ids), *fits)
        # From the TPMs to their evidence, never from all that fits to the few TPMs.
        for fits in _alternatives(cause, _unindexed)
    ]
    found = (sa.union_all(*parts) if len(parts) > 1 else parts[0]).subquery()
    place = sa.func.row_number().over(partition_by=found.c.tpm_id, order_by=(found.c.at, found.c.decision_id))
    ranked = sa.select(found, place.label("place")).subquery()
    wanted = [ranked.c[field.name] for field in fields(MatchRow)]
    return sa.select(*wanted).where(ranked.c.place == 1)
