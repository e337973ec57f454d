"""First half of an enrolment: evidence in, challenge or stored certificates out.

Transaction T1 consumes the nonce and stores the evidence, the decision and the answer in one commit. Before
the report is proven authentic nothing is written at all.
"""

import json
import math
from dataclasses import field
from datetime import datetime

from ca_service.enrollment.desk import ROUNDS, Desk, View, refused
from ca_service.enrollment.judge import Judge
from ca_service.enrollment.ledger import settle
from ca_service.enrollment.limits import Limits
from ca_service.enrollment.nonces import NonceKeys
from ca_service.enrollment.observing import Enrolled, Unproven
from ca_service.enrollment.pace import Paces
from ca_service.enrollment.recording import Decision, keep_and_log
from ca_service.enrollment.reply import Issued, log_certificates, reply_bytes
from ca_service.enrollment.submission import Submission
from ca_service.judgment import Conflict, Finding, Refused, TooMany, Trace, Unavailable, VtpmCaError
from ca_service.residency import make_challenge
from ca_service.store import EnrollmentRow, EnrollmentState, SubmissionRow, Taken, Transaction
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import Challenge, ChallengeReply, time_text
from vtpm.wire.frozen import frozen
from vtpm.wire.templates import name

CREATED, OK, FORBIDDEN = 201, 200, 403


@frozen
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


class Admission:
    """Judges requests to enrol. Safe for threads; every process has its own."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._nonces = NonceKeys(desk.store, lambda: desk.authority.nonce_key)
        # What is refused is kept with its evidence: one machine must not fill the database with it.
        self._refusals = Paces("this launch", "launch_refusals_per_hour")

    def nonce_key(self) -> bytes:
        """The key of the nonces that are given out now; raises Unavailable."""
        return self._nonces.current().key

    def enroll(self, body: bytes) -> Reply:
        """Judge a request to enrol, and answer it for good.

        Raises:
            BadRequest: malformed; nothing was written.
            Refused: a rule says no. Without `decision_id` nothing was written and the nonce is still good.
            Conflict: the nonce was used with another body.
            TooMany: this instance was admitted, or this launch refused, too often of late; nothing was written.
            Unavailable: the database is not there, or the request came while too much was changing.
        """
        desk, submission = self._desk, Submission.parse(body)
        at, key = desk.now(), self._nonces.current()
        nonce = desk.judge.judge_nonce(submission, key.key, at)
        if nonce.refusal is None or nonce.refusal.rule == "nonce.unexpired":
            used = _used(desk, submission)
            if used is not None:
                return used
        if nonce.refusal is not None:
            raise self._unproven(nonce.refusal)
        desk.judge.prepare(submission, at)
        judge = desk.judge.steady()
        authentic = judge.authenticate(submission, at)
        if authentic.refusal is not None:
            raise self._unproven(authentic.refusal)
        for _ in range(ROUNDS):
            try:
                reply = self._answer(judge, submission, nonce + authentic, key.epoch, at)
            except Taken:
                # Another process consumed the nonce, or let a TPM move in, between our look and our commit.
                reply = _used(desk, submission)
            except _OtherEpoch:
                self._nonces.forget()
                key = self._nonces.current()
                nonce = desk.judge.judge_nonce(submission, key.key, at)
                if nonce.refusal is not None:
                    raise self._unproven(nonce.refusal) from None
                continue
            if reply is not None:
                return reply
        raise Unavailable("the CA is too busy with this TPM")

    def _unproven(self, finding: Finding) -> Refused:
        self._desk.observe(Unproven(finding.rule))
        return refused(finding)

    def _answer(
        self, judge: Judge, submission: Submission, authentic: Trace, epoch: int, at: datetime
    ) -> Reply | None:
        """One try; None if what it rests on changed before the commit."""
        desk = self._desk
        with desk.store.read() as tx:
            view = desk.view(tx, submission, at)
            limits = desk.limits.under(view.policy)
            admitted = _admitted_lately(limits, tx, view, at)
        if view.standing.epoch != epoch:
            raise _OtherEpoch
        trace = authentic + desk.decide(judge, submission, view)
        decision = Decision(desk.new_id(), judge, submission, view, trace, "enroll")
        if trace.refusal is not None:
            refusals = self._refusals.of(limits.refusals_per_hour / 3600, limits.refusals_at_once)
            refusals.spend(submission.report.report_id.hex())
            return _refuse(desk, decision)
        if view.facts is None:
            raise VtpmCaError("an admitted enrolment has no claim", code="internal")
        wait = limits.instance_wait(admitted, at)
        if wait is not None:
            seconds = math.ceil(wait.total_seconds())
            raise TooMany(
                "this instance has enrolled too often of late",
                retry_after_s=seconds,
                limit="instance_enrolments",
                limited=" ".join(filter(None, view.facts.state.known.instance)),
            )
        return _return_known(desk, decision) if view.facts.known else _challenge(desk, decision)


class _OtherEpoch(Exception):
    """The database is in another epoch than the one that the nonce was judged in."""


def _used(desk: Desk, submission: Submission) -> Reply | None:
    """The answer that the nonce got before, if it was used."""
    with desk.store.read() as tx:
        used = tx.submissions.get(submission.nonce)
    return None if used is None else _stored(used, submission)


def _admitted_lately(limits: Limits, tx: Transaction, view: View, at: datetime) -> list[datetime]:
    """When the enrolments were admitted that count against the limit: what was before a reset was another life."""
    if view.facts is None or view.facts.seen.instance_id is None:
        return []
    claim = view.facts.claim
    since = at - limits.instance_window
    admitted = tx.decisions.admitted_since(
        claim.kbs_id, claim.resource, claim.salt, since, limits.instance_enrolments
    )
    if limits.instance_wait(admitted, at) is None:
        return admitted
    # Asked only now: most who come are within the limit anyway.
    reset = tx.ledger.reset_at(view.facts.seen.instance_id)
    return admitted if reset is None else [moment for moment in admitted if moment > reset]


def _refuse(desk: Desk, decision: Decision) -> Reply | None:
    """Keep the refusal and raise it; None if what it rests on has changed."""
    if decision.trace.refusal is None:
        raise VtpmCaError("an admission is no refusal", code="internal")
    error = refused(decision.trace.refusal, decision.id)
    decision.write_out()
    with desk.store.write(together=True) as tx:
        if not desk.still_sees(tx, decision.view):
            return None
        _consume(desk, tx, decision, Reply(FORBIDDEN, _refusal_bytes(error)))
    raise error


def _challenge(desk: Desk, decision: Decision) -> Reply | None:
    """Admit a TPM that gets certificates if it answers; it reserves nothing meanwhile."""
    enrollment_id, expires = desk.new_id(), decision.at + desk.limits.pending_lifetime
    reply = Reply(CREATED, _challenges(desk, decision.submission, enrollment_id, expires))
    decision.write_out()
    with desk.store.write(together=True) as tx:
        if not desk.still_sees(tx, decision.view):
            return None
        _consume(desk, tx, decision, reply)
        tx.enrollments.add(_row(decision, enrollment_id, EnrollmentState.PENDING, expires, None))
    desk.observe(Enrolled(enrollment_id))
    return reply


def _return_known(desk: Desk, decision: Decision) -> Reply | None:
    """Give a known TPM its stored certificates, and note in which state its store was seen."""
    enrollment_id, facts = desk.new_id(), decision.view.facts
    if facts is None:
        raise VtpmCaError("a known TPM has no claim", code="internal")
    decision.write_out()
    with desk.store.write(together=True) as tx:
        if not desk.still_sees(tx, decision.view):
            return None
        settle(tx, facts, decision.at)
        keep_and_log(desk, tx, decision)
        issued = {
            live: Issued(row.serial, row.issuer, row.der)
            for live, row in facts.live.items()
            if row.der is not None
        }
        logged = log_certificates(desk, tx, (), tuple(issued.values()))
        reply = Reply(OK, reply_bytes(desk, enrollment_id, decision.id, facts, issued, logged))
        tx.submissions.add(_submission_row(decision, reply))
        expires = decision.at + desk.limits.pending_lifetime
        tx.enrollments.add(_row(decision, enrollment_id, EnrollmentState.ISSUED, expires, reply.body))
    desk.observe(Enrolled(enrollment_id))
    return reply


def _consume(desk: Desk, tx: Transaction, decision: Decision, reply: Reply) -> None:
    keep_and_log(desk, tx, decision)
    tx.submissions.add(_submission_row(decision, reply))


def _submission_row(decision: Decision, reply: Reply) -> SubmissionRow:
    submission = decision.submission
    return SubmissionRow(
        submission.nonce, submission.digest, decision.at, decision.id, reply.status, reply.body
    )


def _row(
    decision: Decision, enrollment_id: str, state: EnrollmentState, expires: datetime, reply: bytes | None
) -> EnrollmentRow:
    return EnrollmentRow(
        id=enrollment_id,
        nonce=decision.submission.nonce,
        state=state,
        expires_at=expires,
        decision_id=decision.id,
        policy_version=decision.view.version,
        evidence_digest=decision.submission.digest,
        reply=reply,
    )


def _challenges(desk: Desk, submission: Submission, enrollment_id: str, expires: datetime) -> bytes:
    tpm = submission.claims.tpm
    iak = name(tpm.iak.public)
    secrets = desk.activation_secrets(enrollment_id, len(tpm.eks))
    challenges = tuple(
        Challenge(name(ek.public), *make_challenge(ek.public, iak, secret))
        for ek, secret in zip(tpm.eks, secrets, strict=True)
    )
    return canonical(ChallengeReply(enrollment_id, challenges, time_text(expires)).to_json())
