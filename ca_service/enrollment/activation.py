"""Second half of an enrolment: the TPM's answer in, certificates out.

Transaction T2 makes the intent durable: the ledger's claim, the reserved serials, the exact bytes to be
signed. Then the signatures. Transaction T3 stores all certificates and the answer. Only then is the answer
given. What fails between T2 and T3 is abandoned: its serials go on the CRL, and the client's next try makes a
new intent.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ca_service.enrollment.desk import Desk, View, refused
from ca_service.enrollment.issuance import Plan, leaves_of, note_renewal, plan, record, sign, store_signed
from ca_service.enrollment.judge import Judge
from ca_service.enrollment.ledger import LedgerFacts, settle
from ca_service.enrollment.observing import Certified
from ca_service.enrollment.recording import Decision, keep_and_log
from ca_service.enrollment.reply import Issued, log_certificates, reply_bytes
from ca_service.enrollment.revocation import abandon
from ca_service.enrollment.submission import Submission
from ca_service.judgment import (
    BadRequest,
    Finding,
    NotFound,
    Refused,
    Trace,
    Unavailable,
    Verdict,
    VtpmCaError,
)
from ca_service.logger import logger
from ca_service.profiles import LintFailed
from ca_service.store import EnrollmentRow, EnrollmentState, IntentRow, IntentState, Taken, Transaction
from vtpm.wire.enrollment import ActivationRequest
from vtpm.wire.errors import WireError

PATIENCE_S = 10.0
"""How long a request waits for another one that is just issuing for the same TPM."""

_PAUSE_S = 0.02


class Activation:
    """Issues certificates to TPMs that answered their challenge."""

    def __init__(self, desk: Desk, pause: Callable[[float], None] = time.sleep) -> None:
        self._desk = desk
        self._pause = pause
        self._lost: set[str] = set()
        """Intents of this process that may be open, and that nobody signs; each is abandoned when it is met."""

    def activate(self, enrollment_id: str, body: bytes) -> bytes:
        """Check the secrets that the TPM recovered and issue its certificates.

        Returns:
            The stored answer with all certificates; the same secrets get the same bytes for good.

        Raises:
            BadRequest: malformed; nothing was written.
            NotFound: there is no such enrolment.
            Refused: the answer is wrong (which ends the enrolment), too late, or a rule says no now.
            Unavailable: another request is just issuing for the same TPM; try again.
        """
        try:
            given = ActivationRequest.parse(body).secrets
        except WireError as error:
            raise BadRequest(error.path, error.problem) from error
        row, submission, view = self._open(enrollment_id)
        wanted = self._desk.activation_secrets(row.id, len(submission.claims.tpm.eks))
        answer = self._desk.judge.judge_answer(wanted, given)
        if answer.refusal is not None:
            raise refused(answer.refusal, self._end(row, submission, answer))
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            reply = self._step(row, submission, view, answer)
            if reply is not None:
                return reply
            row, submission, view = self._open(enrollment_id)
        raise Unavailable("another request is just issuing certificates for this TPM")

    def abandon_dead(self, intents: Iterable[IntentRow]) -> int:
        """Abandon those of the open intents that no living process works on; returns how many."""
        desk = self._desk
        dead = [i for i in intents if i.id in self._lost or not desk.liveness.is_alive(i.owner)]
        if not dead:
            return 0
        closed = abandon(desk.store, desk.authority, dead, desk.now(), desk.limits)
        self._lost -= closed
        for intent in dead:
            if intent.id in closed:
                logger(__name__).warning(
                    "intent abandoned", intent=intent.id, enrollment=intent.enrollment_id
                )
        return len(closed)

    def forget_closed(self) -> None:
        """Let go of those lost intents that are not open.

        Most were never stored, because their own commit failed, so nobody ever meets them. The look is a write
        transaction, which none begins before the one that was lost on the way is committed or gone: what it does not
        find open will not be open later.
        """
        lost = frozenset(self._lost)
        if lost:
            with self._desk.store.write() as tx:
                still_open = {intent.id for intent in tx.intents.open()}
            self._lost -= lost - still_open

    def _open(self, enrollment_id: str) -> tuple[EnrollmentRow, Submission, View | None]:
        """An enrolment, its evidence, and what it would be decided by now; None if it is not pending."""
        desk = self._desk
        with desk.store.read() as tx:
            found = tx.enrollments.with_evidence(enrollment_id)
            if found is None:
                raise NotFound("there is no such enrolment")
            row, body = found
            if body is None:
                raise VtpmCaError("the evidence of an enrolment is not stored", code="store")
            submission = Submission.parse(body)
            pending = row.state is EnrollmentState.PENDING
            return row, submission, desk.view(tx, submission, desk.now()) if pending else None

    def _step(
        self, row: EnrollmentRow, submission: Submission, view: View | None, answer: Trace
    ) -> bytes | None:
        """One try; None if it must be made anew, because another process changes what it rests on."""
        desk = self._desk
        if row.state is EnrollmentState.ISSUED and row.reply is not None:
            return row.reply
        if row.state is EnrollmentState.FAILED:
            raise Refused("activation.open", "the enrolment has ended", decision_id=row.decision_id)
        if view is None:
            with desk.store.read() as tx:
                intents = tx.intents.open_of(row.id)
            if not self.abandon_dead(intents):
                self._pause(_PAUSE_S)
            return None
        if view.at > row.expires_at:
            finding = Finding("activation.unexpired", Verdict.FAILED, "the challenge was answered too late")
            raise refused(finding, row.decision_id)
        judge = desk.judge.steady()
        trace = answer + self._judge_again(judge, submission, view)
        decision = Decision(desk.new_id(), judge, submission, view, trace, "activate")
        if trace.refusal is not None or view.facts is None:
            raise self._refuse(row, decision)
        if view.facts.open_intents():
            if not self._clear(view.facts):
                self._pause(_PAUSE_S)
            return None
        try:
            return self._issue(row, decision)
        except Taken:
            return None

    def _clear(self, facts: LedgerFacts) -> int:
        with self._desk.store.read() as tx:
            intents = [intent for i in facts.open_intents() if (intent := tx.intents.get(i)) is not None]
        return self.abandon_dead([i for i in intents if i.state is IntentState.OPEN])

    def _judge_again(self, judge: Judge, submission: Submission, view: View) -> Trace:
        """Everything: since the challenge, time has passed, and policy, lists and release may be others."""
        authentic = judge.authenticate(submission, view.at)
        return authentic + self._desk.decide(judge, submission, view) if authentic.admitted else authentic

    def _refuse(self, row: EnrollmentRow, decision: Decision) -> Refused:
        """End the enrolment by a decision of its own."""
        decision.write_out()
        with self._desk.store.write(together=True) as tx:
            keep_and_log(self._desk, tx, decision)
            tx.enrollments.move(
                row.id, EnrollmentState.PENDING, EnrollmentState.FAILED, decision_id=decision.id
            )
        refusal = decision.trace.refusal or Finding(
            "policy.in-force", Verdict.FAILED, "no policy is in force"
        )
        return refused(refusal, decision.id)

    def _end(self, row: EnrollmentRow, submission: Submission, answer: Trace) -> str:
        """A wrong answer ends a pending enrolment, not an issued one. Returns the decision's id."""
        desk, decision_id, at = self._desk, self._desk.new_id(), self._desk.now()
        if row.state is not EnrollmentState.PENDING:
            return row.decision_id
        with desk.store.write(together=True) as tx:
            now = tx.enrollments.get(row.id)
            if now is None or now.state is not EnrollmentState.PENDING:
                return row.decision_id
            view, judge = desk.view(tx, submission, at), desk.judge.steady()
            keep_and_log(desk, tx, Decision(decision_id, judge, submission, view, answer, "activate"))
            tx.enrollments.move(
                row.id, EnrollmentState.PENDING, EnrollmentState.FAILED, decision_id=decision_id
            )
        return decision_id

    def _issue(self, row: EnrollmentRow, decision: Decision) -> bytes | None:
        desk, submission, view, at = self._desk, decision.submission, decision.view, decision.at
        facts = view.facts
        if facts is None:
            raise VtpmCaError("an admitted enrolment has no claim", code="internal")
        again = view.version != row.policy_version
        decision_id = decision.id if again else row.decision_id
        try:
            plan_ = plan(desk, submission, view, decision_id=decision_id, at=at)
        except LintFailed as error:
            raise self._refuse(row, replace(decision, trace=decision.trace + error.trace)) from error
        intent_id = desk.new_id()
        try:
            with desk.store.write(together=True) as tx:
                if not desk.still_sees(tx, view):
                    return None
                if again:
                    keep_and_log(desk, tx, decision)
                if not self._begin(tx, row, view, decision_id):
                    raise Taken("another request moved this enrolment on")
                tpm_id = settle(tx, facts, at)
                intent = IntentRow(
                    id=intent_id,
                    enrollment_id=row.id,
                    tpm_id=tpm_id,
                    decision_id=decision_id,
                    policy_version=view.version,
                    evidence_digest=submission.digest,
                    owner=desk.liveness.owner(),
                    state=IntentState.OPEN,
                    created_at=at,
                    closed_at=None,
                )
                record(tx, plan_, intent)
                note_renewal(tx, facts, plan_, intent, desk.observe)
        except Unavailable:
            # The commit may have taken effect although we were not told: then nobody else knows that nobody signs.
            self._lost.add(intent_id)
            raise
        return self._sign(intent, plan_, facts)

    def _begin(self, tx: Transaction, row: EnrollmentRow, view: View, decision_id: str) -> bool:
        return tx.enrollments.move(
            row.id,
            EnrollmentState.PENDING,
            EnrollmentState.ISSUING,
            decision_id=decision_id,
            policy_version=view.version,
        )

    def _sign(self, intent: IntentRow, plan_: Plan, facts: LedgerFacts) -> bytes:
        """From durable intent to durable certificates; whatever goes wrong abandons the intent at once."""
        try:
            signed = sign(plan_, self._desk.faults)
            return self._store(intent, plan_, facts, signed)
        except BaseException:
            self._lost.add(intent.id)
            self.abandon_dead([intent])
            raise

    def _store(
        self, intent: IntentRow, plan_: Plan, facts: LedgerFacts, signed: Mapping[str, Issued]
    ) -> bytes:
        """Transaction T3; the answer may leave the process when this returns."""
        desk, at = self._desk, self._desk.now()
        # Other writers wait while the transaction is open, so what the log says is put into words before it begins.
        leaves = leaves_of(plan_, signed, intent.decision_id, at)
        with desk.store.write(together=True) as tx:
            if tx.views.spoilt(intent.tpm_id, facts.claim.query().spkis):
                raise Unavailable(
                    "an operator has revoked a certificate or blocked a key of this TPM meanwhile"
                )
            if not store_signed(tx, intent.id, plan_, signed, at):
                raise Unavailable("the issuance was abandoned meanwhile")
            logged = log_certificates(desk, tx, leaves, tuple(plan_.kept.values()))
            reply = reply_bytes(desk, intent.enrollment_id, intent.decision_id, facts, signed, logged)
            if not tx.enrollments.move(
                intent.enrollment_id, EnrollmentState.ISSUING, EnrollmentState.ISSUED, reply=reply
            ):
                raise Unavailable("the issuance was abandoned meanwhile")
        made = tuple((piece.key.profile, piece.issuer.role) for piece in plan_.pieces)
        desk.observe(Certified(intent.enrollment_id, made))
        return reply
