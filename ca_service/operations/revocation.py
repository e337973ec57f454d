"""Revoking by cause: what would be hit and why, and doing it."""

from ca_service.enrollment import Ended, Grounds, revoke_by_cause
from ca_service.operations.bounds import LISTED, MAX_CAUSE, MAX_LISTED, REASONS
from ca_service.operations.context import (
    Json,
    Operation,
    OperationContext,
    instant,
    note,
    optional_flag,
    optional_text,
    recorded_cause,
)
from ca_service.operations.selection import read_cause
from ca_service.policy.entries.floors import shown_levels
from ca_service.store import BesideRow, Cause, CertificateState, HitRow, MatchRow
from vtpm.wire.encoding import Members
from vtpm.wire.report import Product, tcb_components

_SHOWN = 16
"""How many digits of a value that the operator has given himself are shown again."""

POLICY_FIRST = "Let the policy refuse the cause first: what it admits gets certificates again."

ADVICE = (
    POLICY_FIRST,
    "A live TPM is refused from now on. `vtpm-ca instance reset` frees its instance, for another TPM or the same.",
    "keylime looks at no revocation list: delete the agents of these TPMs there.",
    "Run this again when enrolments that are under way have ended, 10 minutes later: it finds what they brought.",
)
"""What is left to people."""

BESIDE = (
    "Look at the TPMs beside: their instances gave such evidence, with other keys. Choose by --instance those that "
    "still have the volume and secret of then."
)
"""What is left to people if there are TPMs `beside`."""


def revoke(context: OperationContext, arguments: Members) -> Json:
    """Revoke what rests on a cause and publish the CRLs; a dry run unless `yes` is true.

    One call revokes a bounded number of certificates, in one transaction. If the answer says `more`, ask again.

    Returns:
        `counts` of what would be, or was now, ended; the `certificates`, each with the first decision that fits and
        why, at most `limit` of them, and how many were `omitted`; the TPMs `beside`, which are left alone and somebody
        has to look at (see `Causes.beside`), at most `limit`; `advice` for people.
    """
    limit = arguments.integer("limit", 0, MAX_LISTED) if arguments.has("limit") else LISTED
    reason = arguments.one_of("reason", REASONS) if arguments.has("reason") else REASONS[0]
    words = optional_text(arguments, "cause", most=MAX_CAUSE)
    confirmed = optional_flag(arguments, "yes")
    with context.store.read() as tx:
        cause = read_cause(arguments, tx)
    arguments.end()
    return _do(context, cause, reason, words, limit) if confirmed else _plan(context, cause, limit)


def _plan(context: OperationContext, cause: Cause, limit: int) -> Json:
    at = context.clock()
    with context.store.read() as tx:
        counts = tx.causes.counts(cause, at)
        rows = tx.causes.hits(cause, at, limit)
        matches = tx.causes.matches(cause, {row.tpm_id for row in rows})
        beside = tx.causes.beside(cause, at, MAX_LISTED)
    return {
        "done": False,
        "more": False,
        "counts": {**vars(counts), "beside": len(beside)},
        "certificates": [_row(row, cause, matches.get(row.tpm_id)) for row in rows],
        "omitted": counts.certificates + counts.being_issued - len(rows),
        "beside": [_beside(row) for row in beside[:limit]],
        "advice": _advice(hit=bool(counts.tpms), beside=bool(beside)),
    }


def _do(context: OperationContext, cause: Cause, reason: str, words: str, limit: int) -> Json:
    at = context.clock()
    with context.store.read() as tx:
        anything = bool(tx.causes.hits(cause, at, 1))
    ended = Ended((), more=False)
    if anything:
        grounds = Grounds(at, reason, recorded_cause(context, "revoked", words))
        ended = revoke_by_cause(context.store, context.unlock(), cause, grounds, context.limits)
        asked = {name: str(value) for name, value in vars(cause).items() if value not in (None, ())}
        note(
            context, "certificates were revoked by cause", ended=len(ended.rows), more=ended.more, asked=asked
        )
    listed = ended.rows[:limit]
    with context.store.read() as tx:
        matches = tx.causes.matches(cause, {row.tpm_id for row in listed})
        beside = [] if ended.more else tx.causes.beside(cause, at, MAX_LISTED)
    given_up = sum(row.state is CertificateState.ABANDONED for row in ended.rows)
    return {
        "done": True,
        "more": ended.more,
        "counts": {
            "tpms": len({row.tpm_id for row in ended.rows}),
            "certificates": len(ended.rows) - given_up,
            "being_issued": given_up,
            "beside": len(beside),
        },
        "certificates": [_row(row, cause, matches.get(row.tpm_id)) for row in listed],
        "omitted": len(ended.rows) - len(listed),
        "beside": [_beside(row) for row in beside[:limit]],
        "advice": _advice(hit=bool(ended.rows), beside=bool(beside)),
    }


def _advice(*, hit: bool, beside: bool) -> list[str]:
    return [*(ADVICE if hit else ()), *([BESIDE] if beside else ())]


def _beside(row: BesideRow) -> dict[str, Json]:
    return {"kbs": row.kbs_id, "resource": row.resource, "salt": row.salt, "tpm": row.tpm_id}


def _row(row: HitRow, cause: Cause, match: MatchRow | None) -> dict[str, Json]:
    return {
        "serial": row.serial,
        "profile": row.profile,
        "issuer": row.issuer,
        "state": row.state.value,
        "issued_at": instant(row.issued_at),
        "kbs": row.kbs_id,
        "resource": row.resource,
        "salt": row.salt,
        "tpm": row.tpm_id,
        "live": row.live,
        "decision": None if match is None else match.decision_id,
        "decided_at": None if match is None else instant(match.at),
        "why": ", ".join(_why(cause, match)),
    }


def _why(cause: Cause, match: MatchRow | None) -> list[str]:
    """What of the TPM or its evidence fits what was asked for."""
    said = [] if cause.serial is None else ["serial"]
    said += [] if cause.resource is None else ["instance"]
    if match is None:
        return said
    if cause.measurement is not None:
        said.append(f"measurement {cause.measurement[:_SHOWN]}...")
    if cause.chip_id is not None:
        said.append(f"chip {cause.chip_id[:_SHOWN]}...")
    if cause.kbs_key is not None or cause.kbs is not None:
        said.append(f"KBS key {match.kbs_key}")
    if cause.tcbs is not None and match.product is not None and match.reported_tcb is not None:
        levels = tcb_components(bytes.fromhex(match.reported_tcb), Product(match.product))
        said.append(f"{match.product} at {shown_levels(levels)}")
    if cause.policy_version is not None:
        said.append(f"policy {match.policy_version}")
    return said


OPERATIONS = (Operation("revoke", revoke, publishes=True),)
