"""Rollover of issuing CAs: retire, which ends the trust in what an issuing CA has signed."""

from collections.abc import Sequence

from ca_service.judgment import Conflict, NotFound
from ca_service.operations.certificates import certificate_row
from ca_service.operations.context import Json, Operation, OperationContext, instant, note, optional_flag
from ca_service.operations.issuers import entries
from ca_service.operations.rollover import Change, Choice
from ca_service.store import IssuerRow, IssuerState, RestingRow
from vtpm.wire.encoding import Members

_FORMER = (IssuerState.OLD, IssuerState.TAINTED)
_MOST_ABANDONED = 2**31


def retire(context: OperationContext, arguments: Members) -> Json:
    """End the trust in former issuing CAs; a dry run unless `yes` is true.

    Refused while live certificates rest on them, except if `abandon` is exactly their number; they are listed then. One
    that was prepared and never signed is retired if its generation is named.
    """
    choice = Choice.read(arguments)
    abandon = arguments.integer("abandon", 0, _MOST_ABANDONED) if arguments.has("abandon") else None
    confirmed = optional_flag(arguments, "yes")
    arguments.end()
    with context.store.write() as tx:
        change = Change(context, tx, choice)
        candidates = _retirable(change)
        skids = [row.skid for row in candidates]
        resting = _resting(change, candidates, abandon)
        if confirmed:
            for row in candidates:
                change.move(row, IssuerState.RETIRED)
    if confirmed:
        note(context, "issuing CAs were retired", skids=skids, abandoned=len(resting))
    return {
        "done": confirmed,
        "retired": entries(context, skids),
        "abandoned": [_resting_row(row) for row in resting],
    }


def _retirable(change: Change) -> list[IssuerRow]:
    choice = change.choice
    former = change.chosen(*_FORMER)
    if choice.generation is None:
        if former:
            return former
        raise Conflict(
            f"no issuing CA of the pair {choice.pair} is old or tainted",
            code="rollover",
            remedy="One that signs is never retired: prepare and activate its successor first.",
        )
    signing = change.chosen(IssuerState.ACTIVE)
    if signing:
        raise Conflict(
            f"the {change.name(signing[0])} is the one that signs",
            code="rollover",
            remedy="Prepare and activate its successor first.",
        )
    former += change.chosen(IssuerState.PREPARED)
    if not former and not change.chosen(IssuerState.RETIRED):
        raise NotFound(f"the pair {choice.pair} has no such issuing CA of generation {choice.generation}")
    return former


def _resting(change: Change, candidates: Sequence[IssuerRow], abandon: int | None) -> list[RestingRow]:
    """The live certificates, if there are exactly as many as the operator gives up."""
    skids = [row.skid for row in candidates]
    if change.tx.issuers.signing(skids):
        raise Conflict(
            "a certificate of this issuing CA is about to be signed",
            code="in-use",
            remedy="Try again in a moment; the server gives up what a dead process left.",
        )
    counts = change.tx.issuers.live_counts(change.at)
    total = sum(counts.get(skid, 0) for skid in skids)
    if total != (abandon or 0):
        detail = f"live certificates rest on what would be retired: {total}"
        remedy = (
            "Taint it and have their TPMs enrol again, or revoke them. "
            f"`--abandon {total}` retires in spite of exactly that many."
        )
        if abandon is not None:
            detail += f", not {abandon}"
            remedy = "Look again at what would be given up: `vtpm-ca ca list`."
        raise Conflict(detail, code="in-use", remedy=remedy)
    return change.tx.issuers.resting(skids, change.at) if total else []


def _resting_row(row: RestingRow) -> dict[str, Json]:
    return {**certificate_row(row), "not_after": instant(row.not_after)}


OPERATIONS = (Operation("issuer-retire", retire),)
