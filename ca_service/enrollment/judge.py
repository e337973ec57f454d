"""All checks of an enrolment in their order: a decision is a pure function of evidence, policy and time.

First comes what makes the evidence authentic: a genuine nonce, AMD's chain, the report's signature, and that
the report vouches for this very runtime data. Until all of that holds, every other byte may be anybody's, so
the first failure ends the judgement and nothing is stored. Then everything else looks, also after a failure,
because the operator wants to see all that is wrong.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self, TypeVar

from ca_service.enrollment.ledger import LEDGER_CHECKS, LedgerFacts
from ca_service.enrollment.nonces import NONCE_CHECKS, NonceEvidence
from ca_service.enrollment.submission import Submission
from ca_service.evidence.grant import GRANT_CHECKS, GrantEvidence
from ca_service.evidence.snp import (
    AUTHENTICITY,
    CONFIGURATION,
    Collateral,
    Root,
    SnpEvidence,
    amd_roots,
    simulated_roots,
)
from ca_service.judgment import (
    Check,
    Finding,
    Trace,
    failed,
    judge_all,
    judge_until_failure,
    passed,
    replaced,
)
from ca_service.policy import Policy, PolicyFacts, checks
from ca_service.residency import CERTIFY_CHECKS, KEY_CHECKS, TpmEvidence
from vtpm.wire.runtime_data import certify_qualifier, report_data

T = TypeVar("T")

CERTIFY_PRESENT = "certify.present"
"""The rule that refuses new issuance without TPM2_Certify."""


@dataclass(frozen=True)
class Binding:
    """What the report carries, and what it must carry to vouch for the runtime data; 64 bytes each."""

    found: bytes
    wanted: bytes


@dataclass(frozen=True)
class _ReportData:
    """The report vouches for exactly these runtime data."""

    id: str = "evidence.report-data"

    def judge(self, subject: Binding) -> Finding:
        if subject.found != subject.wanted:
            return failed(
                self,
                "the report does not vouch for these runtime data",
                expected=subject.wanted.hex(),
                actual=subject.found.hex(),
            )
        return passed(self)


@dataclass(frozen=True)
class Answer:
    """Activation secrets, those expected and those given."""

    wanted: tuple[bytes, ...] = field(repr=False)
    given: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True)
class _Activation:
    """Every challenge was answered right; compared in constant time, all of them in any case."""

    id: str = "activation.secret"

    def judge(self, subject: Answer) -> Finding:
        wanted, given = (
            b"".join(hashlib.sha256(secret).digest() for secret in secrets)
            for secrets in (subject.wanted, subject.given)
        )
        if not hmac.compare_digest(wanted, given):
            return failed(self, "the TPM's answer to the challenge is wrong")
        return passed(self)


BINDING_CHECKS: tuple[Check[Binding], ...] = (_ReportData(),)
ACTIVATION_CHECKS: tuple[Check[Answer], ...] = (_Activation(),)


def _no_supply(_evidence: SnpEvidence) -> None:
    """Leave the evidence as it is."""


@dataclass(frozen=True)
class Judge:
    """Decides about evidence.

    Attributes:
        ca_id: the CA's id.
        mode: "production" or "simulation".
        roots: the SNP roots that this CA trusts.
        nonce_key: the CA's nonce key.
        collateral: gives what the CA's operator keeps to judge reports with, as it is now.
        supply: may get what is missing for a report into `collateral`, before it is judged.
        substitutes: checks that stand in the place of the one with that id; see `with_replaced`.
    """

    ca_id: str
    mode: str
    roots: tuple[Root, ...]
    nonce_key: bytes = field(repr=False)
    collateral: Callable[[], Collateral] = Collateral
    supply: Callable[[SnpEvidence], None] = _no_supply
    substitutes: Mapping[str, Check[Any]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, ca_id: str, mode: str, nonce_key: bytes, collateral: Callable[[], Collateral] = Collateral
    ) -> Self:
        """The judge of a CA; only a simulation CA trusts the simulated platform's root."""
        roots = amd_roots() + (simulated_roots() if mode == "simulation" else ())
        return cls(ca_id, mode, roots, nonce_key, collateral)

    def with_replaced(self, substitutes: Mapping[str, Check[Any]]) -> Self:
        """The same judge with some checks exchanged by id, for the lab; no configuration leads here."""
        return replace(self, substitutes={**self.substitutes, **substitutes})

    def _checks(self, checks_: Sequence[Check[T]]) -> tuple[Check[T], ...]:
        return replaced(checks_, self.substitutes)

    def judge_nonce(self, submission: Submission, at: datetime) -> Trace:
        """Whether the nonce is ours, for us, and holds at `at`; stops at the first failure."""
        data = submission.runtime_data
        subject = NonceEvidence(data.nonce, data.aud, self.ca_id, self.nonce_key, at)
        return judge_until_failure(self._checks(NONCE_CHECKS), subject)

    def _snp(self, submission: Submission, at: datetime) -> SnpEvidence:
        return SnpEvidence(
            report=submission.report,
            roots=self.roots,
            at=at,
            offered=submission.offered,
            collateral=self.collateral(),
        )

    def prepare(self, submission: Submission, at: datetime) -> None:
        """Get what is missing for the judgement, which may take its time; no transaction may be open meanwhile."""
        self.supply(self._snp(submission, at))

    def authenticate(self, submission: Submission, at: datetime) -> Trace:
        """Whether an AMD processor made this report for these runtime data; stops at the first failure."""
        trace = judge_until_failure(self._checks(AUTHENTICITY), self._snp(submission, at))
        if not trace.admitted:
            return trace
        binding = Binding(
            submission.report.report_data, report_data(submission.request.evidence.runtime_data)
        )
        return trace + judge_until_failure(self._checks(BINDING_CHECKS), binding)

    def decide(self, submission: Submission, policy: Policy | None, at: datetime, *, certify: bool) -> Trace:
        """All that the evidence itself and the policy say about an authentic submission.

        Args:
            submission: authentic evidence.
            policy: the policy in force; None refuses.
            at: now.
            certify: whether TPM2_Certify is demanded. What was sent is judged in any case.
        """
        data, grant = submission.runtime_data, submission.grant
        snp = self._snp(submission, at)
        trace = judge_all(self._checks(CONFIGURATION), snp)
        trace += judge_all(
            self._checks(GRANT_CHECKS),
            GrantEvidence(
                grant=grant,
                kbs_jwk=data.kbs.jwk,
                report_id=submission.report.report_id,
                store_key_id=data.store.key_id,
                at=at,
            ),
        )
        trace += judge_all(self._checks(checks(policy, self.mode)), self._facts(submission, snp, at))
        sent = submission.request.certify
        tpm = TpmEvidence(
            statement=data.tpm,
            qualifier=certify_qualifier(submission.request.evidence.runtime_data),
            attest=sent.attest if sent else None,
            signature=sent.signature if sent else None,
        )
        trace += judge_all(self._checks(KEY_CHECKS), tpm)
        if certify or sent is not None:
            trace += judge_all(self._checks(CERTIFY_CHECKS), tpm)
        return trace

    def _facts(self, submission: Submission, snp: SnpEvidence, at: datetime) -> PolicyFacts:
        data, claims, report = submission.runtime_data, submission.grant.claims, submission.report
        return PolicyFacts(
            product=snp.product,
            simulated=snp.root is None or snp.root.simulated,
            measurement=report.measurement,
            vmpl=report.vmpl,
            kbs_thumbprint=submission.grant.jwk.thumbprint(),
            resource=claims.resource,
            origin=claims.origin,
            release_policy=claims.policy,
            grant_iat=claims.iat,
            store_mode=data.store.mode,
            store_format=data.store.format,
            ek_templates=tuple(ek.template for ek in data.tpm.eks),
            iak_template=data.tpm.iak.template,
            idevid_template=data.tpm.idevid.template,
            profile=submission.request.evidence.profile,
            at=at,
        )

    def judge_ledger(self, facts: LedgerFacts) -> Trace:
        """Whether what the CA knows allows this TPM in this instance."""
        return judge_all(self._checks(LEDGER_CHECKS), facts)

    def judge_answer(self, wanted: tuple[bytes, ...], given: tuple[bytes, ...]) -> Trace:
        """Whether the activation secrets are right."""
        return judge_all(self._checks(ACTIVATION_CHECKS), Answer(wanted, given))
