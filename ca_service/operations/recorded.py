"""Decisions with their inputs, out of the database."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from ca_service.enrollment.recorded import Inputs, Recorded
from ca_service.judgment import BadRequest, NotFound, Record, Unavailable, VtpmCaError
from ca_service.store import DecisionRow, Store, Transaction
from vtpm.wire.errors import WireError

BATCH = 100
"""Decisions that are held in memory at once."""

NOT_RECORDED = "not-recorded"
"""Code of the error that a decision was made by a release that kept no inputs."""


def inputs_of(row: DecisionRow) -> Inputs:
    """What a decision rests on besides evidence, policy and time.

    Raises:
        BadRequest: it was made by a release before 0.5 (code `NOT_RECORDED`).
        Unavailable: what is stored is damaged (code ``store``).
    """
    try:
        stored = Record.parse(row.trace).inputs
        found = None if stored is None else Inputs.from_json(stored)
    except (ValueError, WireError):
        raise _damaged(row.id) from None
    if found is None:
        raise BadRequest(
            "id",
            "the decision was made by a release before 0.5, which kept no inputs to judge it by anew",
            code=NOT_RECORDED,
        )
    return found


def recorded_of(tx: Transaction, row: DecisionRow) -> Recorded:
    """A stored decision with its inputs; raises as `inputs_of`."""
    inputs = inputs_of(row)
    return put_together(
        row, inputs, tx.decisions.evidence(row.evidence_digest), tx.decisions.collateral(inputs.collateral)
    )


def put_together(
    row: DecisionRow, inputs: Inputs, body: bytes | None, contents: Mapping[str, bytes]
) -> Recorded:
    """A decision with its inputs, from wherever they were read; raises as `inputs_of`."""
    if body is None:
        raise _damaged(row.id)
    try:
        return Recorded.of(
            decision_id=row.id, stage=row.stage, at=row.at, body=body, inputs=inputs, contents=contents
        )
    except BadRequest:
        raise _damaged(row.id) from None


def recorded(tx: Transaction, decision_id: str) -> tuple[DecisionRow, Recorded]:
    """The decision with this id, and its inputs.

    Raises:
        NotFound: there is none.
        BadRequest, Unavailable: as `inputs_of`.
    """
    row = tx.decisions.get(decision_id)
    if row is None:
        raise NotFound("there is no decision with this id")
    return row, recorded_of(tx, row)


def recorded_all(
    store: Store, since: datetime | None = None
) -> Iterator[tuple[DecisionRow, Recorded | VtpmCaError]]:
    """All decisions from `since` on in the order of time, each with its inputs or with the reason why it has none.

    They are read in batches, each in a transaction of its own, so that none stays open while decisions are judged.
    """
    after: tuple[datetime, str] | None = None
    while True:
        with store.read() as tx:
            rows = tx.decisions.page(since, after, BATCH)
            found = [(row, _or_reason(tx, row)) for row in rows]
        if not found:
            return
        yield from found
        after = rows[-1].at, rows[-1].id


def _or_reason(tx: Transaction, row: DecisionRow) -> Recorded | VtpmCaError:
    try:
        return recorded_of(tx, row)
    except (BadRequest, Unavailable) as error:
        return error


def _damaged(decision_id: str) -> Unavailable:
    return Unavailable(
        f"what decision {decision_id} rests on is missing or damaged",
        code="store",
        remedy="Run `vtpm-ca audit verify`.",
    )
