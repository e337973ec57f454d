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
from typing import Any, Final, Self, TypeVar

from ca_service.enrollment.ledger_checks import LEDGER_CHECKS
from ca_service.enrollment.ledger_state import LedgerState
from ca_service.enrollment.nonces import NONCE_CHECKS, NonceEvidence
from ca_service.enrollment.submission import Submission
from ca_service.evidence.ear import EAR_CHECKS, EarEvidence
from ca_service.evidence.grant import GRANT_CHECKS, GrantEvidence
from ca_service.evidence.profiles import Claims, profile_checks
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
    Checks,
    Finding,
    Part,
    Standing,
    Trace,
    failed,
    judge_all,
    judge_until_failure,
    passed,
    replaced,
)
from ca_service.policy import (
    LaunchFacts,
    Policy,
    PolicyFacts,
    checks,
    judge_launch,
    kbs_for,
    launch_checks,
    with_given_up,
)
from ca_service.residency import CERTIFY_CHECKS, KEY_CHECKS
from vtpm.wire.frozen import frozen
from vtpm.wire.grant import Grant

T = TypeVar("T")

CERTIFY_PRESENT = "certify.present"
"""The rule that refuses new issuance without TPM2_Certify."""


@frozen
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


@frozen
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
            b"".join([hashlib.sha256(secret).digest() for secret in secrets])
            for secrets in (subject.wanted, subject.given)
        )
        if not hmac.compare_digest(wanted, given):
            return failed(self, "the TPM's answer to the challenge is wrong")
        return passed(self)


_ABOUT_GRANTS = ("kbs.", "grant.")
_ABOUT_STORES = ("store.", "grant.key-id")


def applicable(checks_: Checks[T], claims: Claims) -> Checks[T]:
    """The checks that have something to look at.

    Evidence without a grant or without a store is not asked about them: a finding about what nobody stated would be
    made up. That it may do without them is the profile's to say, never the requester's.
    """
    left_out = (() if claims.grant else _ABOUT_GRANTS) + (() if claims.store else _ABOUT_STORES)
    if not left_out:
        return checks_
    return Checks(check for check in checks_ if not check.id.startswith(left_out))


BINDING_CHECKS: tuple[Check[Binding], ...] = (_ReportData(),)
ACTIVATION_CHECKS: tuple[Check[Answer], ...] = (_Activation(),)


_NO_COLLATERAL: Final = Collateral()


def _no_collateral() -> Collateral:
    """Nothing is kept, and always the same nothing."""
    return _NO_COLLATERAL


def _no_supply(_evidence: SnpEvidence) -> None:
    """Leave the evidence as it is."""


@dataclass(frozen=True)
class Judge:
    """Decides about evidence.

    Attributes:
        ca_id: the CA's id.
        mode: "production" or "simulation".
        roots: the SNP roots that this CA trusts.
        collateral: gives what the CA's operator keeps to judge reports with, as it is now.
        supply: may get what is missing for a report into `collateral`, before it is judged.
        substitutes: checks that stand in the place of the one with that id; see `with_replaced`.
    """

    ca_id: str
    mode: str
    roots: tuple[Root, ...]
    collateral: Callable[[], Collateral] = _no_collateral
    supply: Callable[[SnpEvidence], None] = _no_supply
    substitutes: Mapping[str, Check[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, ca_id: str, mode: str, collateral: Callable[[], Collateral] = _no_collateral) -> Self:
        """The judge of a CA; only a simulation CA trusts the simulated platform's root."""
        roots = amd_roots() + (simulated_roots() if mode == "simulation" else ())
        return cls(ca_id, mode, roots, collateral)

    def with_replaced(self, substitutes: Mapping[str, Check[Any]]) -> Self:
        """The same judge with some checks exchanged by id, for the lab; no configuration leads here."""
        return replace(self, substitutes={**self.substitutes, **substitutes})

    def _checks(self, checks_: Sequence[Check[T]]) -> tuple[Check[T], ...]:
        return replaced(checks_, self.substitutes) if self.substitutes else tuple(checks_)

    def judge_nonce(self, submission: Submission, key: bytes, at: datetime) -> Trace:
        """Whether the nonce is ours, for us, and holds at `at`; stops at the first failure.

        Args:
            submission: what was sent.
            key: the nonce key of the present epoch.
            at: now.
        """
        data = submission.claims
        subject = NonceEvidence(data.nonce, data.aud, self.ca_id, key, at)
        return judge_until_failure(self._checks(NONCE_CHECKS), subject)

    def steady(self) -> Self:
        """The same judge with the collateral of this moment, for all that one decision is made of."""
        held = self.collateral()
        steady = object.__new__(type(self))
        steady.__dict__.update(self.__dict__, collateral=lambda: held)
        return steady

    def evidence(self, submission: Submission, at: datetime) -> SnpEvidence:
        """The submission's report with all that it is judged with."""
        collateral = self.collateral()
        first = submission.once(
            "snp",
            (self.roots, collateral),
            lambda: SnpEvidence(
                report=submission.report,
                roots=self.roots,
                at=at,
                offered=submission.offered,
                collateral=collateral,
            ),
        )
        return first if first.at is at else submission.once("snp now", (first, at), lambda: first.at_time(at))

    def _standing(self, submission: Submission, snp: SnpEvidence, *basis: object) -> Standing | None:
        """What was found before on this very basis, and will be found at any other time.

        Nothing stands that substitutes found, nor where it is a matter of time which certificate is looked at.
        """
        if self.substitutes or not snp.settled:
            return None
        kind = "standing" if basis else "authentic"
        return submission.once(kind, (snp.roots, snp.collateral, *basis), Standing)

    def _judge_all(self, known: Standing | None, name: str, parts: Sequence[Part]) -> Trace:
        if known is None:
            return Trace.joined([judge_all(self._checks(checks_), subject) for checks_, subject in parts])
        return known.judge_all(name, parts)

    def prepare(self, submission: Submission, at: datetime) -> None:
        """Get what is missing for the judgement, which may take its time; no transaction may be open meanwhile."""
        self.supply(self.evidence(submission, at))

    def authenticate(self, submission: Submission, at: datetime) -> Trace:
        """Whether an AMD processor made this report for this evidence; stops at the first failure."""
        snp = self.evidence(submission, at)
        known = self._standing(submission, snp)
        if known is None:
            trace = judge_until_failure(self._checks(AUTHENTICITY), snp)
        else:
            trace = known.judge_until_failure("authenticity", AUTHENTICITY, snp)
        if not trace.admitted:
            return trace
        binding = Binding(submission.report.report_data, submission.claims.report_data)
        return trace + judge_until_failure(self._checks(BINDING_CHECKS), binding)

    def decide(self, submission: Submission, policy: Policy | None, at: datetime, *, certify: bool) -> Trace:
        """All that the evidence itself and the policy say about an authentic submission.

        Args:
            submission: authentic evidence.
            policy: the policy in force; None refuses.
            at: now.
            certify: whether TPM2_Certify is demanded. What was sent is judged in any case.
        """
        data = submission.claims
        snp = self.evidence(submission, at)
        about_launch, about_rest = launch_checks(policy, self.mode), checks(policy, self.mode)
        known = self._standing(submission, snp, about_launch, about_rest)
        about_evidence: list[Part] = [(profile_checks(data.profile), data), (CONFIGURATION, snp)]
        about_token = Trace()
        if data.grant is not None and data.kbs is not None:
            grant = GrantEvidence(
                grant=data.grant,
                kbs_jwk=data.kbs.jwk,
                report_id=submission.report.report_id,
                store_key_id="" if data.store is None else data.store.key_id,
                at=at,
            )
            about_evidence.append((applicable(GRANT_CHECKS, data), grant))
            about_token = self._judge_ear(submission, data.grant, policy, at)
        facts, tpm = self._facts(submission, snp, at), submission.tpm
        certified = certify or submission.request.certify is not None
        about_tpm: list[Part] = [] if policy is None else [(applicable(about_rest, data), facts)]
        about_tpm += [(KEY_CHECKS, tpm), (CERTIFY_CHECKS, tpm)] if certified else [(KEY_CHECKS, tpm)]
        return Trace.joined(
            [
                self._judge_all(known, "evidence", about_evidence),
                about_token,
                self._judge_launch(policy, about_launch, facts.launch),
                self._judge_all(known, "tpm, certified" if certified else "tpm", about_tpm),
            ]
        )

    def _judge_launch(
        self, policy: Policy | None, checks_: Sequence[Check[LaunchFacts]], facts: LaunchFacts
    ) -> Trace:
        if policy is None or self.substitutes:
            return judge_all(self._checks(checks_), facts)
        return judge_launch(policy, self.mode, facts)

    def _judge_ear(self, submission: Submission, grant: Grant, policy: Policy | None, at: datetime) -> Trace:
        """What an attestation token says, where the policy asks the grant's KBS for one; else nothing."""
        kbs = None if policy is None else kbs_for(policy, grant.jwk.thumbprint())
        if policy is None or kbs is None or kbs.ear is None:
            return Trace()
        subject = EarEvidence(
            token=submission.ear(),
            signers=kbs.ear.keys,
            max_age_s=kbs.ear.max_age_s,
            tee_jkt=grant.claims.tee_jkt,
            nonce=grant.claims.nonce,
            at=at,
        )
        return judge_until_failure(self._checks(with_given_up(policy, self.mode, EAR_CHECKS)), subject)

    def facts(self, submission: Submission, at: datetime) -> PolicyFacts:
        """What the allow-list is asked about an authentic submission."""
        return self._facts(submission, self.evidence(submission, at), at)

    def _facts(self, submission: Submission, snp: SnpEvidence, at: datetime) -> PolicyFacts:
        data = submission.claims
        grant, store = data.grant, data.store
        # What the evidence does not state stands here as what no policy admits; `applicable` leaves its rules out.
        return PolicyFacts(
            launch=LaunchFacts(
                report=submission.report,
                product=snp.product,
                simulated=snp.root is None or snp.root.simulated,
                crl_issued_at=snp.crl_issued_at,
                at=at,
            ),
            kbs_thumbprint="" if grant is None else grant.jwk.thumbprint(),
            resource="" if grant is None else grant.claims.resource,
            origin="" if grant is None else grant.claims.origin,
            release_policy="" if grant is None else grant.claims.policy,
            grant_iat=0 if grant is None else grant.claims.iat,
            store_mode="" if store is None else store.mode,
            store_format="" if store is None else store.format,
            ek_templates=tuple([ek.template for ek in data.tpm.eks]),
            iak_template=data.tpm.iak.template,
            idevid_template=data.tpm.idevid.template,
            profile=data.profile,
        )

    def conclude(
        self, submission: Submission, policy: Policy | None, ledger: LedgerState | None, at: datetime
    ) -> Trace:
        """Evidence, policy and ledger together; TPM2_Certify is demanded unless the TPM is known.

        Args:
            submission: authentic evidence.
            policy: the policy in force; None refuses.
            ledger: what the ledger knows about the claim that the evidence makes under this policy; None without one.
            at: now.
        """
        if ledger is None:
            return self.decide(submission, policy, at, certify=True)
        known = judge_all(self._checks(LEDGER_CHECKS), ledger)
        # A TPM that the ledger refuses need not be certified to be refused.
        certify = known.admitted and not ledger.settled
        return self.decide(submission, policy, at, certify=certify) + known

    def judge_answer(self, wanted: tuple[bytes, ...], given: tuple[bytes, ...]) -> Trace:
        """Whether the activation secrets are right."""
        return judge_all(self._checks(ACTIVATION_CHECKS), Answer(wanted, given))
