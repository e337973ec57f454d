"""The TPMs that have good certificates, page by page, and the newest evidence about each; and past decisions likewise.

A page is one short transaction: who looks at a whole fleet takes minutes, and no view of the database may last so long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.repository import Repository
from ca_service.store.rows import CertificateState, DecisionRow

_D, _E, _I = schema.decisions.c, schema.evidence.c, schema.instances.c
_T, _C = schema.tpms.c, schema.certificates.c

_GOOD = (CertificateState.ISSUED.value, CertificateState.SUPERSEDED.value)

_CERTIFIED = schema.certificates.join(schema.tpms, _T.id == _C.tpm_id).join(
    schema.instances, _I.id == _T.instance_id
)
# Without the salt, as in `causes`: decisions of the first releases do not have it, and no EK lives under two salts.
_EVIDENCE_OF_TPMS = (
    schema.tpms.join(schema.instances, _I.id == _T.instance_id)
    .join(schema.decisions, sa.and_(_D.kbs_id == _I.kbs_id, _D.resource == _I.resource, _D.admitted == 1))
    .join(schema.evidence, sa.and_(_E.digest == _D.evidence_digest, _E.ek_set == _T.ek_set))
)


@dataclass(frozen=True)
class CertifiedTpm:
    """A TPM with certificates that relying parties take, and where it lives or lived.

    Attributes:
        tpm_id: its number.
        certificates: how many good ones it has.
        live: whether it occupies its instance.
        kbs_id: of the instance.
        resource: of the instance.
        salt: of the instance.
    """

    tpm_id: int
    certificates: int
    live: bool
    kbs_id: str
    resource: str
    salt: str


@dataclass(frozen=True)
class NewestEvidence:
    """The newest accepted evidence about a TPM, by the decision that accepted it; `product` as in `EvidenceFacts`."""

    tpm_id: int
    decision_id: str
    at: datetime
    evidence_digest: str
    product: str | None


class Fleet(Repository):
    """Reads of many TPMs and many decisions."""

    def certified(self, at: datetime, after: int, count: int) -> list[CertifiedTpm]:
        """At most `count` TPMs that have certificates which are good at `at`, those with numbers over `after`."""
        some = sa.exists().where(_C.tpm_id == _T.id, _good(at))
        # First which they are: to count the certificates of all for the sake of a page would be slow.
        page = sa.select(_T.id).where(_T.id > after, some).order_by(_T.id).limit(count)
        return self.certified_of(at, self._connection.execute(page).scalars().all())

    def certified_of(self, at: datetime, tpm_ids: Sequence[int]) -> list[CertifiedTpm]:
        """Those of the named TPMs that have such certificates; as many as one statement can name."""
        columns = (_T.id.label("tpm_id"), sa.func.count().label("certificates"))
        where = (_T.occupies.is_not(None).label("live"), _I.kbs_id, _I.resource, _I.salt)
        query = sa.select(*columns, *where).select_from(_CERTIFIED).where(_T.id.in_(tpm_ids), _good(at))
        query = query.group_by(_T.id, _T.occupies, _I.kbs_id, _I.resource, _I.salt)
        return self._all(CertifiedTpm, query.order_by(_T.id))

    def newest_evidence(self, tpm_ids: Sequence[int]) -> dict[int, NewestEvidence]:
        """For each of the TPMs its newest accepted evidence; none if what there is does not say whose it is."""
        columns = (_T.id.label("tpm_id"), _D.id.label("decision_id"), _D.at, _D.evidence_digest, _E.product)
        place = sa.func.row_number().over(partition_by=_T.id, order_by=(_D.at.desc(), _D.id.desc()))
        ranked = (
            sa.select(*columns, place.label("place"))
            .select_from(_EVIDENCE_OF_TPMS)
            .where(_T.id.in_(tpm_ids))
            .subquery()
        )
        wanted = (column for column in ranked.c if column.name != "place")
        rows = self._all(NewestEvidence, sa.select(*wanted).where(ranked.c.place == 1))
        return {row.tpm_id: row for row in rows}

    def newest_decisions(
        self, since: datetime, after: tuple[datetime, str] | None, limit: int
    ) -> list[DecisionRow]:
        """The next decisions, the newest first: those behind `after` in that order, none from before `since`."""
        query = sa.select(schema.decisions).where(_D.at >= since).order_by(_D.at.desc(), _D.id.desc())
        if after is not None:
            at, decision_id = after
            query = query.where(_D.at <= at, sa.or_(_D.at < at, _D.id < decision_id))
        return self._all(DecisionRow, query.limit(limit))

    def count_decisions(self, since: datetime) -> int:
        """How many decisions there are from `since` on."""
        query = sa.select(sa.func.count()).select_from(schema.decisions).where(_D.at >= since)
        return int(self._connection.execute(query).scalar_one())


def _good(at: datetime) -> "sa.ColumnElement[bool]":
    return sa.and_(_C.state.in_(_GOOD), sa.or_(_C.not_after.is_(None), _C.not_after >= at))
