"""What the CA remembers: decisions with their traces, and alarms."""

import json

from ca_service.judgment import NotFound, Record, Unavailable
from ca_service.operations.context import Json, Operation, OperationContext, instant
from ca_service.operations.recorded import recorded
from ca_service.store import DecisionRow
from vtpm.wire.encoding import Members


def _decision(row: DecisionRow, context: OperationContext) -> dict[str, Json]:
    return {
        "id": row.id,
        # What a simulation CA decides proves nothing about a processor; no listing of it may look otherwise.
        "mode": context.public.mode,
        "at": instant(row.at),
        "stage": row.stage,
        "verdict": "admitted" if row.admitted else "refused",
        "rule": row.rule,
        "kbs": row.kbs_id,
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
        return [_decision(row, context) for row in tx.decisions.latest(limit)]


def show_decision(context: OperationContext, arguments: Members) -> Json:
    """One decision with its whole trace: every check, what it wanted, what it saw, what it said."""
    decision_id = arguments.text("id", most=64)
    arguments.end()
    with context.store.read() as tx:
        row = tx.decisions.get(decision_id)
    if row is None:
        raise NotFound("there is no decision with this id")
    try:
        trace = Record.parse(row.trace).trace
    except ValueError:
        raise Unavailable(
            "the decision's trace is damaged; run `vtpm-ca audit verify`", code="store"
        ) from None
    return {
        **_decision(row, context),
        "policy_digest": row.policy_digest,
        "evidence_digest": row.evidence_digest,
        "trace": trace.to_json(),
    }


def record_decision(context: OperationContext, arguments: Members) -> Json:
    """One decision with everything that it rests on: what policies are tested with."""
    decision_id = arguments.text("id", most=64)
    arguments.end()
    with context.store.read() as tx:
        _, found = recorded(tx, decision_id)
    return found.to_json()


def list_alarms(context: OperationContext, arguments: Members) -> Json:
    """The newest alarms first."""
    limit = _limit(arguments)
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
            for row in tx.alarms.latest(limit)
        ]


OPERATIONS = (
    Operation("decision-list", list_decisions),
    Operation("decision-show", show_decision),
    Operation("decision-record", record_decision),
    Operation("alarm-list", list_alarms),
)
