"""Revoking the certificates of TPMs that a draft of the policy would give none today.

Which TPMs these are, a simulation has found (`ca_service.operations.simulation`), minutes or days ago. So the list is
taken as a question only: each TPM is judged again here, by its newest evidence of this moment.
"""

from datetime import datetime
from typing import Final

from ca_service.enrollment import Grounds, revoke_by_cause
from ca_service.operations.bounds import MAX_POLICY, REASONS
from ca_service.operations.context import (
    Json,
    Operation,
    OperationContext,
    note,
    optional_flag,
    recorded_cause,
    text_block,
)
from ca_service.operations.simulation import evidence_of, judge_newest, present_of, read_draft
from ca_service.operations.simulation_result import Newest
from ca_service.policy import Policy
from ca_service.store import Cause, CertificateState, CertifiedTpm, HitRow
from vtpm.wire.encoding import Members
from vtpm.wire.errors import WireError

MOST_TPMS: Final = 100
"""TPMs in one request: to judge so many takes a second."""

_MOST_NUMBER: Final = 2**63 - 1

_NEVER_ISSUED: Final = (CertificateState.INTENDED, CertificateState.ABANDONED)

NO_CERTIFICATE: Final = "it has no good certificate"
ADMITTED: Final = "the draft admits it"
CHANGED: Final = "it has enrolled meanwhile"

ADVICE: Final = (
    "Put the draft in force, or what it refuses goes on getting certificates.",
    "A live TPM is refused from now on. `vtpm-ca instance reset` frees its instance, for another TPM or the same.",
    "keylime looks at no revocation list: delete the agents of these TPMs there.",
)
"""What is left to people."""


def revoke(context: OperationContext, arguments: Members) -> Json:
    """Revoke all certificates of those of the TPMs `tpms` (numbers) that the draft `text` would give none today.

    A dry run unless `yes` is true.

    Returns:
        `counts` of what would be, or was now, ended; the `certificates`; the TPMs that are `spared`, each with the
        reason; `advice` for people.
    """
    text = text_block(arguments, "text", MAX_POLICY)
    tpm_ids = sorted({_number(*element) for element in arguments.array("tpms", 1, MOST_TPMS)})
    reason = arguments.one_of("reason", REASONS) if arguments.has("reason") else REASONS[0]
    confirmed = optional_flag(arguments, "yes")
    arguments.end()
    draft, at = read_draft(text, context.public.mode), context.clock()
    judged = _judge(context, draft, tpm_ids, at)
    spared = {tpm_id: why for tpm_id in tpm_ids if (why := _why_spared(judged.get(tpm_id)))}
    wanted = [tpm_id for tpm_id in tpm_ids if tpm_id not in spared]
    if not confirmed:
        with context.store.read() as tx:
            rows = tx.causes.hits_of(Cause(tpm_ids=tuple(wanted)), at, wanted)
        return _answer(rows, spared, done=False)
    changed = _changed(context, judged, wanted)
    spared |= dict.fromkeys(changed, CHANGED)
    rows = _revoke(context, draft, [tpm_id for tpm_id in wanted if tpm_id not in changed], reason, at)
    return _answer(rows, spared, done=True)


def _number(value: object, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST_NUMBER:
        raise WireError(path, "must be the number of a TPM")
    return value


def _judge(context: OperationContext, draft: Policy, tpm_ids: list[int], at: datetime) -> dict[int, Newest]:
    # What the policy in force says of them has no part in it.
    present = present_of(draft, None, at)
    with context.store.read() as tx:
        tpms: list[CertifiedTpm] = tx.fleet.certified_of(at, tpm_ids)
        evidence = evidence_of(tx, tpms)
    return {tpm_id: judge_newest(found, present) for tpm_id, found in evidence.items()}


def _why_spared(newest: Newest | None) -> str:
    if newest is None:
        return NO_CERTIFICATE
    if newest.said is None:
        return newest.why
    return ADMITTED if newest.said.now.admitted else ""


def _changed(context: OperationContext, judged: dict[int, Newest], tpm_ids: list[int]) -> set[int]:
    """Those about which newer evidence was accepted while they were judged."""
    with context.store.read() as tx:
        newest = tx.fleet.newest_evidence(tpm_ids)
    return {
        tpm_id
        for tpm_id in tpm_ids
        if tpm_id not in newest or newest[tpm_id].decision_id != judged[tpm_id].decision_id
    }


def _revoke(
    context: OperationContext, draft: Policy, tpm_ids: list[int], reason: str, at: datetime
) -> list[HitRow]:
    rows, more = list[HitRow](), bool(tpm_ids)
    cause = Cause(tpm_ids=tuple(tpm_ids))
    words = recorded_cause(context, "revoked", f"policy simulate {draft.digest}")
    while more:
        ended = revoke_by_cause(
            context.store, context.unlock(), cause, Grounds(at, reason, words), context.limits
        )
        rows += ended.rows
        more = ended.more
    if rows:
        note(context, "certificates were revoked by a draft", ended=len(rows), draft=draft.digest)
    return rows


def _answer(rows: list[HitRow], spared: dict[int, str], *, done: bool) -> Json:
    being_issued = sum(row.state in _NEVER_ISSUED for row in rows)
    return {
        "done": done,
        "counts": {
            "tpms": len({row.tpm_id for row in rows}),
            "certificates": len(rows) - being_issued,
            "being_issued": being_issued,
        },
        "certificates": [
            {
                "serial": row.serial,
                "profile": row.profile,
                "issuer": row.issuer,
                "state": row.state.value,
                "kbs": row.kbs_id,
                "resource": row.resource,
                "tpm": row.tpm_id,
            }
            for row in rows
        ],
        "spared": [{"tpm": tpm_id, "why": why} for tpm_id, why in sorted(spared.items())],
        "advice": list(ADVICE) if rows else [],
    }


OPERATIONS = (Operation("policy-revoke", revoke, publishes=True),)
