"""One decision: its trace, why it came out so, and all that it rests on."""

from ca_service.judgment import NotFound, Record, Unavailable
from ca_service.operations.context import Json, Operation, OperationContext
from ca_service.operations.explanation import explained, sources
from ca_service.operations.recorded import recorded
from ca_service.operations.records import decision_row
from ca_service.operations.tenants import tenants
from vtpm.wire.encoding import Members


def show_decision(context: OperationContext, arguments: Members) -> Json:
    """One decision with its whole trace: every check, what it wanted, what it saw, what it said.

    For a refusal also the smallest change of the policy that would have admitted it; for an admission what it rests on.
    """
    decision_id = arguments.text("id", most=64)
    arguments.end()
    with context.store.read() as tx:
        row = tx.decisions.get(decision_id)
        if row is None:
            raise NotFound("there is no decision with this id")
        found, owners = sources(tx, row, context.clock()), tenants(tx, context.clock())
    try:
        trace = Record.parse(row.trace).trace
    except ValueError:
        raise Unavailable(
            "the decision's trace is damaged; run `vtpm-ca audit verify`", code="store"
        ) from None
    return {
        **decision_row(row, context, owners),
        "policy_digest": row.policy_digest,
        "evidence_digest": row.evidence_digest,
        "trace": trace.to_json(),
        **explained(context.store, found, trace),
    }


def record_decision(context: OperationContext, arguments: Members) -> Json:
    """One decision with everything that it rests on: what policies are tested with."""
    decision_id = arguments.text("id", most=64)
    arguments.end()
    with context.store.read() as tx:
        _, found = recorded(tx, decision_id)
    return found.to_json()


OPERATIONS = (Operation("decision-show", show_decision), Operation("decision-record", record_decision))
