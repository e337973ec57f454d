"""What rests on key brokers: how many TPMs and certificates there are by each."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ca_service.store import schema
from ca_service.store.causes import EPHEMERAL
from ca_service.store.rows import CertificateState
from ca_service.store.transaction import Transaction

_C, _T, _I = schema.certificates.c, schema.tpms.c, schema.instances.c
_TPMS = schema.tpms.join(schema.instances, _I.id == _T.instance_id)
_CERTIFIED = schema.certificates.join(schema.tpms, _T.id == _C.tpm_id).join(
    schema.instances, _I.id == _T.instance_id
)
_WITH_KEY = _CERTIFIED.join(schema.intents, schema.intents.c.id == _C.intent_id).join(
    schema.evidence, schema.evidence.c.digest == schema.intents.c.evidence_digest
)
_GOOD = _C.state.in_((CertificateState.ISSUED.value, CertificateState.SUPERSEDED.value))


@dataclass(frozen=True)
class Resting:
    """What rests on a key broker: live TPMs, and certificates that are neither revoked nor expired."""

    tpms: int
    certificates: int


@dataclass(frozen=True)
class RestingOnBrokers:
    """What rests on all key brokers.

    Attributes:
        by_id: by the key broker's id, of persistent TPMs.
        by_key: by the thumbprint of its key, of ephemeral TPMs, whose instances do not name it.
    """

    by_id: Mapping[str, Resting]
    by_key: Mapping[str, Resting]


def resting_on_brokers(tx: Transaction, at: datetime) -> RestingOnBrokers:
    """Count what rests on key brokers at `at`; it looks at all live TPMs and certificates."""
    good = sa.and_(_GOOD, sa.or_(_C.not_after.is_(None), _C.not_after >= at))
    lasting = _I.kbs_id != EPHEMERAL
    live = sa.select(_I.kbs_id, sa.func.count()).select_from(_TPMS).where(_T.occupies.is_not(None), lasting)
    certified = sa.select(_I.kbs_id, sa.func.count()).select_from(_CERTIFIED).where(good, lasting)
    tpms, certificates = (_pairs(tx, query.group_by(_I.kbs_id)) for query in (live, certified))
    key = schema.evidence.c.kbs_key
    brief = (
        sa.select(key, sa.func.count(_C.tpm_id.distinct()), sa.func.count())
        .select_from(_WITH_KEY)
        .where(good, ~lasting, key.is_not(None))
        .group_by(key)
    )
    return RestingOnBrokers(
        {name: Resting(tpms.get(name, 0), certificates.get(name, 0)) for name in {*tpms, *certificates}},
        {str(name): Resting(int(some), int(all_)) for name, some, all_ in tx.connection.execute(brief)},
    )


def _pairs(tx: Transaction, query: "sa.Select[Any]") -> dict[str, int]:
    return {str(name): int(count) for name, count in tx.connection.execute(query)}
