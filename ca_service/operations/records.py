"""Listings of what the CA remembers: decisions, and alarms."""

import json
from collections.abc import Mapping

from ca_service.enrollment.issuance import RENEWED
from ca_service.enrollment.ledger_checks import ALARMS
from ca_service.operations.context import Json, Operation, OperationContext, instant
from ca_service.operations.tenants import tenants
from ca_service.store import DecisionRow
from vtpm.wire.encoding import Members

_KINDS = (*sorted(set(ALARMS.values())), RENEWED)


def decision_row(row: DecisionRow, context: OperationContext, owners: Mapping[str, str]) -> dict[str, Json]:
    """What a listing says about a decision; `owners` are the tenants of the key brokers."""
    return {
        "id": row.id,
        # What a simulation CA decides proves nothing about a processor; no listing of it may look otherwise.
        "mode": context.public.mode,
        "at": instant(row.at),
        "stage": row.stage,
        "verdict": "admitted" if row.admitted else "refused",
        "rule": row.rule,
        "kbs": row.kbs_id,
        "tenant": owners.get(row.kbs_id),
        "resource": row.resource,
        "policy_version": row.policy_version,
    }


def _limit(arguments: Members) -> int:
    return arguments.integer("limit", 1, 100_000) if arguments.has("limit") else 200


def list_decisions(context: OperationContext, arguments: Members) -> Json:
    """The newest decisions first."""
    limit = _limit(arguments)
    arguments.end()
    with context.store.read() as tx:
        owners = tenants(tx, context.clock())
        return [decision_row(row, context, owners) for row in tx.decisions.latest(limit)]


def list_alarms(context: OperationContext, arguments: Members) -> Json:
    """The newest alarms first; with `kind` only those of this kind, so that no others hide them."""
    limit = _limit(arguments)
    kind = arguments.one_of("kind", _KINDS) if arguments.has("kind") else None
    arguments.end()
    with context.store.read() as tx:
        return [
            {
                "id": row.id,
                "at": instant(row.at),
                "kind": row.kind,
                "decision_id": row.decision_id,
                "detail": json.loads(row.detail),
            }
            for row in tx.alarms.latest(limit, kind)
        ]


OPERATIONS = (
    Operation("decision-list", list_decisions),
    Operation("alarm-list", list_alarms),
)
