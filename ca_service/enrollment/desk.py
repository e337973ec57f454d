"""What every step of an enrolment works with: the CA's keys, its database, its judge, clock and entropy."""

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ca_service.enrollment.judge import CERTIFY_PRESENT, Judge
from ca_service.enrollment.ledger import CLONE_RULES, Claim, LedgerFacts, gather
from ca_service.enrollment.limits import Limits
from ca_service.enrollment.liveness import Liveness
from ca_service.enrollment.submission import Submission
from ca_service.evidence.profiles import PROFILE_ISSUED
from ca_service.judgment import BadRequest, Finding, Refused, Trace, VtpmCaError
from ca_service.keys import Authority
from ca_service.policy import PROFILE_ADMITTED, Policy, load
from ca_service.profiles import Entropy
from ca_service.store import DecisionRow, Faults, PolicyRow, Store, Transaction, no_faults

SECRET_SIZE = 32
"""Bytes of an activation secret: the most that an EK with SHA-256 as its name algorithm takes."""

ROUNDS = 20
"""How often a step is begun anew because something that it rests on has changed meanwhile."""

_ID_SIZE = 16
_CODES = {
    CERTIFY_PRESENT: "certify-required",
    PROFILE_ISSUED: "profile-not-issued",
    PROFILE_ADMITTED: "profile-not-issued",
}
_RETRYABLE = ("nonce.", CERTIFY_PRESENT, "activation.unexpired")


@dataclass(frozen=True)
class View:
    """What a decision rests on besides the evidence: the policy in force, and what the ledger knows.

    Attributes:
        row: the policy version in force, if any.
        policy: the same, read.
        facts: the ledger's knowledge of the claim; None without a policy, or for evidence that makes none.
    """

    row: PolicyRow | None
    policy: Policy | None
    facts: LedgerFacts | None

    @property
    def version(self) -> int:
        """The policy version, 0 for none."""
        return 0 if self.row is None else self.row.version

    @property
    def digest(self) -> str:
        """The policy's digest, empty for none."""
        return "" if self.row is None else self.row.digest


@dataclass(frozen=True)
class Desk:
    """The tools of an enrolment.

    Attributes:
        authority: the CA's keys and names.
        store: the database.
        judge: all checks.
        liveness: who this process is, and which others live.
        clock: gives the time, aware.
        entropy: gives unpredictable bytes.
        limits: how long things last.
        faults: what goes wrong around signatures; only tests hand something in.
    """

    authority: Authority
    store: Store
    judge: Judge
    liveness: Liveness
    clock: Callable[[], datetime]
    entropy: Entropy
    limits: Limits = field(default_factory=Limits)
    faults: Faults = no_faults
    _policies: dict[int, Policy] = field(default_factory=dict, init=False, repr=False, compare=False)

    def now(self) -> datetime:
        """The time in whole seconds: what is stored is what was judged by."""
        return self.clock().astimezone(UTC).replace(microsecond=0)

    def new_id(self) -> str:
        """A random id: 128 bits in hex, so that no id looks like an option on a command line."""
        return self.entropy(_ID_SIZE).hex()

    def view(self, tx: Transaction, submission: Submission) -> View:
        """What a decision about the submission rests on, as this transaction sees it."""
        version = tx.policies.version_in_force()
        row = tx.policies.get(version) if version else None
        policy = None if row is None else self._policy(row)
        claim = None if policy is None else Claim.of(submission, policy)
        return View(row, policy, None if claim is None else gather(tx, claim))

    def _policy(self, row: PolicyRow) -> Policy:
        policy = self._policies.get(row.version)
        if policy is None:
            try:
                policy = load(row.text)
            except BadRequest as error:
                # Its text names entries of the allow-list: it must not become an answer to the requester.
                raise VtpmCaError("the stored policy cannot be read by this release", code="store") from error
            if policy.digest != row.digest:
                raise VtpmCaError("the stored policy is not the one that was put in force", code="store")
            self._policies.clear()
            self._policies[row.version] = policy
        return policy

    def decide(self, submission: Submission, view: View, at: datetime) -> Trace:
        """Evidence, policy and ledger together; TPM2_Certify is demanded unless the TPM is known."""
        if view.facts is None:
            return self.judge.decide(submission, view.policy, at, certify=True)
        ledger = self.judge.judge_ledger(view.facts)
        # A TPM that the ledger refuses need not be certified to be refused.
        certify = ledger.admitted and not view.facts.known
        return self.judge.decide(submission, view.policy, at, certify=certify) + ledger

    def activation_secrets(self, enrollment_id: str, count: int) -> tuple[bytes, ...]:
        """One secret per EK, derived and never stored."""
        return tuple(
            hmac.digest(
                self.authority.activation_key,
                b"vtpm-ca activation/1\x00" + enrollment_id.encode("ascii") + b"\x00" + bytes([index]),
                hashlib.sha256,
            )[:SECRET_SIZE]
            for index in range(count)
        )

    def keep_decision(
        self,
        tx: Transaction,
        decision_id: str,
        submission: Submission,
        view: View,
        trace: Trace,
        *,
        stage: str,
        at: datetime,
    ) -> None:
        """Store a decision with its evidence; a refusal that means a copied TPM raises an alarm too."""
        refusal, grant = trace.refusal, submission.claims.grant
        tx.decisions.keep_evidence(submission.digest, submission.body, at)
        tx.decisions.add(
            DecisionRow(
                id=decision_id,
                at=at,
                stage=stage,
                admitted=int(trace.admitted),
                rule="" if refusal is None else refusal.rule,
                trace=json.dumps(trace.to_json(), separators=(",", ":")),
                policy_version=view.version,
                policy_digest=view.digest,
                evidence_digest=submission.digest,
                kbs_id="" if view.facts is None else view.facts.claim.kbs_id,
                resource="" if grant is None else grant.claims.resource,
            )
        )
        if refusal is not None and refusal.rule in CLONE_RULES:
            detail = {"rule": refusal.rule, "expected": refusal.expected, "actual": refusal.actual}
            tx.alarms.add("clone", decision_id, json.dumps(detail), at)


def refused(finding: Finding, decision_id: str = "") -> Refused:
    """The error for the first finding that said no."""
    error = Refused(
        finding.rule, finding.reason, decision_id=decision_id, retryable=finding.rule.startswith(_RETRYABLE)
    )
    error.code = _CODES.get(finding.rule, error.code)
    return error
