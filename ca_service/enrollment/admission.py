"""First half of an enrolment: evidence in, challenge or stored certificates out.

Transaction T1 consumes the nonce and stores the evidence, the decision and the answer in one commit. Before
the report is proven authentic nothing is written at all.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime

from ca_service.enrollment.desk import ROUNDS, Desk, View, refused
from ca_service.enrollment.issuance import reply_bytes
from ca_service.enrollment.ledger import LedgerFacts, settle
from ca_service.enrollment.submission import Submission
from ca_service.judgment import Conflict, Refused, Trace, Unavailable, VtpmCaError
from ca_service.residency import make_challenge
from ca_service.store import EnrollmentRow, EnrollmentState, SubmissionRow, Taken, Transaction
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import Challenge, ChallengeReply, time_text
from vtpm.wire.templates import name

CREATED, OK, FORBIDDEN = 201, 200, 403


@dataclass(frozen=True)
class Reply:
    """An answer as it is stored and sent: HTTP status and JSON bytes."""

    status: int
    body: bytes = field(repr=False)


def _stored(row: SubmissionRow, submission: Submission) -> Reply:
    """The answer that the nonce's one body got, raised if it was a refusal; `Conflict` for other bodies."""
    if row.body_digest != submission.digest:
        raise Conflict("the nonce was used with another request", code="nonce-used")
    if row.status != FORBIDDEN:
        return Reply(row.status, row.reply)
    members = json.loads(row.reply)
    error = Refused(
        members["rule"],
        members["detail"],
        decision_id=members["decision_id"],
        retryable=members["retryable"],
    )
    error.code = members["code"]
    raise error


def _refusal_bytes(error: Refused) -> bytes:
    return canonical(
        {
            "code": error.code,
            "decision_id": error.decision_id,
            "detail": error.detail,
            "retryable": error.retryable,
            "rule": error.rule,
        }
    )


def enroll(desk: Desk, body: bytes) -> Reply:
    """Judge a request to enrol, and answer it for good.

    Raises:
        BadRequest: malformed; nothing was written.
        Refused: a rule says no. Without `decision_id` nothing was written and the nonce is still good.
        Conflict: the nonce was used with another body.
        Unavailable: the database is not there, or the request came while too much was changing.
    """
    submission = Submission.parse(body)
    at = desk.now()
    nonce = desk.judge.judge_nonce(submission, at)
    if nonce.refusal is None or nonce.refusal.rule == "nonce.unexpired":
        with desk.store.read() as tx:
            used = tx.submissions.get(submission.nonce)
        if used is not None:
            return _stored(used, submission)
    if nonce.refusal is not None:
        raise refused(nonce.refusal)
    desk.judge.prepare(submission, at)
    authentic = desk.judge.authenticate(submission, at)
    if authentic.refusal is not None:
        raise refused(authentic.refusal)
    for _ in range(ROUNDS):
        try:
            reply = _answer(desk, submission, nonce + authentic, at)
        except Taken:
            # Another process consumed the nonce, or let a TPM move in, between our look and our commit.
            continue
        if reply is not None:
            return reply
    raise Unavailable("the CA is too busy with this TPM")


def _answer(desk: Desk, submission: Submission, authentic: Trace, at: datetime) -> Reply | None:
    """One try; None if what it rests on changed before the commit."""
    with desk.store.read() as tx:
        view = desk.view(tx, submission)
    trace = authentic + desk.decide(submission, view, at)
    enrollment_id, decision_id = desk.new_id(), desk.new_id()
    error = None if trace.refusal is None else refused(trace.refusal, decision_id)
    reply, state, stored_body = Reply(FORBIDDEN, b""), EnrollmentState.PENDING, None
    expires = at + desk.limits.pending_lifetime
    if error is not None:
        reply = Reply(FORBIDDEN, _refusal_bytes(error))
    elif view.facts is None:
        raise VtpmCaError("an admitted enrolment has no claim", code="internal")
    elif view.facts.known:
        stored_body = _certificates(desk, view.facts, enrollment_id, decision_id)
        reply, state = Reply(OK, stored_body), EnrollmentState.ISSUED
    else:
        reply = Reply(CREATED, _challenges(desk, submission, enrollment_id, expires))
    with desk.store.write() as tx:
        used = tx.submissions.get(submission.nonce)
        if used is not None:
            return _stored(used, submission)
        if desk.view(tx, submission) != view:
            return None
        desk.keep_decision(tx, decision_id, submission, view, trace, stage="enroll", at=at)
        tx.submissions.add(
            SubmissionRow(submission.nonce, submission.digest, at, decision_id, reply.status, reply.body)
        )
        if error is None:
            tx.enrollments.add(
                EnrollmentRow(
                    id=enrollment_id,
                    nonce=submission.nonce,
                    state=state,
                    expires_at=expires,
                    decision_id=decision_id,
                    policy_version=view.version,
                    evidence_digest=submission.digest,
                    reply=stored_body,
                )
            )
            _note_known(tx, view, state, at)
    if error is not None:
        raise error
    return reply


def _note_known(tx: Transaction, view: View, state: EnrollmentState, at: datetime) -> None:
    """A known TPM was seen again, with a newer state of its store. A pending one reserves nothing."""
    if view.facts is not None and state is EnrollmentState.ISSUED:
        settle(tx, view.facts, at)


def _certificates(desk: Desk, facts: LedgerFacts, enrollment_id: str, decision_id: str) -> bytes:
    signed = {live: row.der for live, row in facts.live.items() if row.der is not None}
    return reply_bytes(desk.authority, enrollment_id, decision_id, facts, signed)


def _challenges(desk: Desk, submission: Submission, enrollment_id: str, expires: datetime) -> bytes:
    tpm = submission.claims.tpm
    iak = name(tpm.iak.public)
    secrets = desk.activation_secrets(enrollment_id, len(tpm.eks))
    challenges = tuple(
        Challenge(name(ek.public), *make_challenge(ek.public, iak, secret))
        for ek, secret in zip(tpm.eks, secrets, strict=True)
    )
    return canonical(ChallengeReply(enrollment_id, challenges, time_text(expires)).to_json())
