"""What every step of an enrolment works with: the CA's keys, its database, its judge, clock and entropy."""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock

from ca_service.audit import Log
from ca_service.enrollment.claim import Claim
from ca_service.enrollment.judge import CERTIFY_PRESENT, Judge
from ca_service.enrollment.ledger import LedgerFacts, gather
from ca_service.enrollment.limits import Limits
from ca_service.enrollment.liveness import Liveness
from ca_service.enrollment.observing import Observer, unobserved
from ca_service.enrollment.submission import Submission
from ca_service.evidence.profiles import PROFILE_ISSUED
from ca_service.judgment import BadRequest, Finding, Refused, Trace, Unavailable
from ca_service.keys import Authority, AuthoritySource, IssuingCa
from ca_service.policy import PROFILE_ADMITTED, Policy, load
from ca_service.profiles import Entropy, IssuerRole, Validity
from ca_service.store import Faults, LedgerQuery, Standing, Store, Transaction, active_key, no_faults
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property
from vtpm.wire.templates import Role

SECRET_SIZE = 32
"""Bytes of an activation secret: the most that an EK with SHA-256 as its name algorithm takes."""

ROUNDS = 20
"""How often a step is begun anew because something that it rests on has changed meanwhile."""

_RANDOM_OF_ID = 12
_SIGNED_BY: Mapping[str, tuple[Role, ...]] = {"ek": (Role.EK,), "devid": (Role.IAK, Role.IDEVID)}
"""The keys that each kind of `Claim.issuer_roles` signs for."""

_REMEMBERED = 10_000
_CODES = {
    CERTIFY_PRESENT: "certify-required",
    PROFILE_ISSUED: "profile-not-issued",
    PROFILE_ADMITTED: "profile-not-issued",
}
_RETRYABLE = ("nonce.", CERTIFY_PRESENT, "activation.unexpired")


@frozen
class View:
    """What a decision rests on besides the evidence: what is in force, and what the ledger knows.

    Attributes:
        at: the moment.
        standing: the policy version, the epoch and the issuing CAs that sign.
        policy: the policy, read.
        facts: the ledger's knowledge of the claim; None without a policy.
    """

    at: datetime
    standing: Standing
    policy: Policy | None
    facts: LedgerFacts | None

    @property
    def digest(self) -> str:
        """The policy's digest, empty for none."""
        return "" if self.policy is None else self.policy.digest

    @property
    def version(self) -> int:
        """The policy version, 0 for none."""
        return self.standing.policy_version


@dataclass(frozen=True)
class Desk:
    """The tools of an enrolment.

    Attributes:
        source: gives the CA's keys and names as they are now.
        store: the database.
        judge: all checks.
        liveness: who this process is, and which others live.
        clock: gives the time, aware.
        entropy: gives unpredictable bytes.
        limits: how long things last, and how many there may be.
        faults: what goes wrong around signatures; only tests hand something in.
        observe: is told what happens; must not raise.
    """

    source: AuthoritySource
    store: Store
    judge: Judge
    liveness: Liveness
    clock: Callable[[], datetime]
    entropy: Entropy
    limits: Limits = field(default_factory=Limits)
    faults: Faults = no_faults
    observe: Observer = unobserved
    _policies: dict[int, Policy] = field(default_factory=dict, init=False, repr=False, compare=False)
    _reading: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)
    _kept: set[tuple[int, str]] = field(default_factory=set, init=False, repr=False, compare=False)

    @property
    def authority(self) -> Authority:
        """The CA's keys and names."""
        return self.source.current()

    @cached_property
    def log(self) -> Log:
        """The log of decisions and certificates; its key stays, whatever issuing CAs come and go."""
        authority = self.authority
        return Log(authority.log.origin, authority.log_key)

    def now(self) -> datetime:
        """The time in whole seconds: what is stored is what was judged by."""
        return self.clock().astimezone(UTC).replace(microsecond=0)

    def new_id(self) -> str:
        """An id that nobody guesses: 32 bits of time and 96 random ones, in hex.

        In hex, so that no id looks like an option on a command line. The time is there for the database: what comes
        one after the other stands side by side in an index, and not on a page of its own each.
        """
        seconds = int(self.clock().timestamp()) & 0xFFFFFFFF
        return f"{seconds:08x}{self.entropy(_RANDOM_OF_ID).hex()}"

    def has_kept(self, epoch: int, name: str) -> bool:
        """Whether this process has seen a certificate or list committed to the database of this epoch."""
        return (epoch, name) in self._kept

    def note_kept(self, epoch: int, names: Iterable[str]) -> None:
        """Remember what is committed, so that it need not be sent with each decision."""
        if len(self._kept) > _REMEMBERED:
            self._kept.clear()
        self._kept.update((epoch, name) for name in names)

    def view(self, tx: Transaction, submission: Submission, at: datetime) -> View:
        """What a decision about the submission rests on, as this transaction sees it.

        Args:
            tx: the transaction to read in.
            submission: the evidence.
            at: now: the policy of this moment judges.
        """
        # What is asked depends on the policy, so the one that was in force last is tried first.
        version, policy = next(iter(tuple(self._policies.items())), (0, None))
        while True:
            claim = None if policy is None else Claim.of(submission, policy)
            standing, seen = tx.views.look(LedgerQuery() if claim is None else claim.query(), at)
            if standing.policy_version == version:
                break
            version = standing.policy_version
            policy = self._policy(tx, version) if version else None
        if policy is None or claim is None:
            return View(at, standing, None, None)
        ends = self._ends(standing, claim, policy, at) if seen.live else {}
        return View(at, standing, policy, gather(seen, claim, standing.given_up, ends, at))

    def still_sees(self, tx: Transaction, view: View) -> bool:
        """Whether all that the database said to `view` is what this transaction sees."""
        facts = view.facts
        if facts is None:
            return tx.views.standing(view.at) == view.standing
        return tx.views.look(facts.claim.query(), view.at) == (view.standing, facts.seen)

    def validity(self, claim: Claim, policy: Policy, role: Role, issuer: IssuingCa, at: datetime) -> Validity:
        """Validity of a certificate that `issuer` signs at `at` for the keys of a role in a claim."""
        if claim.ephemeral:
            return Validity.ephemeral(at, policy.ephemeral.days, issuer.info.validity.not_after)
        return self.authority.device_validity(at, issuer, policy.certificate_days.get(role))

    def _ends(self, standing: Standing, claim: Claim, policy: Policy, at: datetime) -> dict[str, datetime]:
        """Until when certificates that are issued now would hold, by role; none of an issuer that cannot sign."""
        ends = {}
        for kind, role in claim.issuer_roles.items():
            skid = standing.issuers.get(active_key(role, claim.pair), "")
            issuer = next((ca for ca in self.authority.issuers if ca.skid == skid), None)
            if issuer is not None and issuer.info.validity.not_after > at:
                for key_role in _SIGNED_BY[kind]:
                    held = self.validity(claim, policy, key_role, issuer, at)
                    ends[key_role.value] = held.not_after
        return ends

    def _policy(self, tx: Transaction, version: int) -> Policy:
        # A large document takes seconds and much memory to read: one thread does, and the others have it from that one.
        with self._reading:
            return self._read_policy(tx, version)

    def _read_policy(self, tx: Transaction, version: int) -> Policy:
        policy = self._policies.get(version)
        if policy is None:
            row = tx.policies.get(version)
            if row is None:
                raise _unreadable("the policy in force is not stored")
            try:
                policy = load(row.text)
            except BadRequest as error:
                # Its text names entries of the allow-list: it must not become an answer to the requester.
                raise _unreadable("the policy in force cannot be read by this release") from error
            if policy.digest != row.digest:
                raise _unreadable("the policy in force is not the one that was applied")
            self._policies.clear()
            self._policies[version] = policy
        return policy

    def decide(self, judge: Judge, submission: Submission, view: View) -> Trace:
        """What `judge` says about an authentic submission by what is in force and known."""
        ledger = None if view.facts is None else view.facts.state
        return judge.conclude(submission, view.policy, ledger, view.at)

    def issuer(self, view: View, role: IssuerRole, pair: str, at: datetime) -> IssuingCa:
        """The issuing CA that signs certificates of a role and pair now.

        Raises:
            Unavailable: none does, its time is over, or this process has not its key (code ``issuer``).
        """
        skid = view.standing.issuers.get(active_key(role, pair))
        if skid is None:
            raise Unavailable(
                "no issuing CA signs such certificates now",
                code="issuer",
                remedy=f"Make the {role} CA of the pair {pair} active: `vtpm-ca ca prepare`, `vtpm-ca ca activate`.",
            )
        issuer = self.source.holding(skid).issuer_of(skid)
        if at < issuer.info.validity.not_before:
            raise Unavailable(
                "the issuing CA that signs such certificates is not valid yet: the CA's clock is wrong",
                code="issuer",
                remedy="Set the clock.",
            )
        if issuer.info.validity.not_after <= at:
            raise Unavailable(
                "the issuing CA that signs such certificates has expired",
                code="issuer",
                remedy=f"Let a new {role} CA of the pair {pair} sign: `vtpm-ca ca prepare`, `vtpm-ca ca activate`.",
            )
        return issuer

    def activation_secrets(self, enrollment_id: str, count: int) -> tuple[bytes, ...]:
        """One secret per EK, derived and never stored."""
        key = self.authority.activation_key
        return tuple(
            hmac.digest(
                key,
                b"vtpm-ca activation/1\x00" + enrollment_id.encode("ascii") + b"\x00" + bytes([index]),
                hashlib.sha256,
            )[:SECRET_SIZE]
            for index in range(count)
        )


def _unreadable(detail: str) -> Unavailable:
    """An earlier version may admit more than the one that should judge, so none takes its place."""
    return Unavailable(
        detail,
        code="policy",
        remedy="Apply a policy with `vtpm-ca policy apply FILE`, or run the release that applied this one.",
    )


def refused(finding: Finding, decision_id: str = "") -> Refused:
    """The error for the first finding that said no."""
    error = Refused(
        finding.rule, finding.reason, decision_id=decision_id, retryable=finding.rule.startswith(_RETRYABLE)
    )
    error.code = _CODES.get(finding.rule, error.code)
    return error
