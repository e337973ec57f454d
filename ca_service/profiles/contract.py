"""What a rule of a consumer's contract is, and the report of who can use a certificate.

Consumers of TPM certificates want more, and other things, than the TCG's profiles say; most of it stands in their
code alone. Each demand is a rule here, named after its consumer. Some hold for every certificate of a profile: they
are required, and the lint refuses a draft that breaks one. The others depend on what the operator chose, such as the
kind of key, and are reported: ``docs/consumers.md`` has the table.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ca_service.judgment import BadRequest, Finding, Trace, Verdict, failed, judge_all, passed
from ca_service.profiles import encoding, reader_cryptography
from ca_service.profiles.contract_subject import ContractSubject
from ca_service.profiles.model import Draft, Profile
from ca_service.profiles.outline import Outline
from ca_service.profiles.rule import AnyRule, Rule, SteadyRule
from ca_service.profiles.sizes import LONGEST_SIGNATURE, signed_size
from ca_service.profiles.view import CP, EKU, CertificateView, PoliciesView

Consumer = Literal["keylime", "spire", "step-ca", "go-attestation", "hirs"]

Demand = Callable[[ContractSubject], str | None]
"""Says what a consumer dislikes; nothing (None) if it is content."""

SteadyDemand = Callable[[Outline], str | None]
"""The same of a demand about what is the same in many certificates."""


@dataclass(frozen=True)
class ContractRule:
    """One demand of one consumer.

    Attributes:
        id: ``compat.<consumer>.<demand>``.
        consumer: who demands it.
        profiles: of which certificates.
        required: in which of these profiles this CA issues nothing that breaks it.
        problem: looks.
        steady: looks at no more than an outline, if that is enough.
    """

    id: str
    consumer: Consumer
    profiles: frozenset[Profile]
    required: frozenset[Profile]
    problem: Demand = field(repr=False)
    steady: SteadyDemand | None = field(default=None, repr=False)

    def judge(self, subject: ContractSubject) -> Finding:
        """Look at the subject."""
        wrong = self.problem(subject)
        return passed(self) if wrong is None else failed(self, wrong)

    def as_lint(self) -> AnyRule:
        """The rule as the lint judges it before a signature."""
        if self.steady is not None:
            return SteadyRule(self.id, self.required, self.steady)
        return Rule(self.id, self.required, self.problem)


class ContractBook:
    """The demands of one consumer, in the order in which they stand there."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._rules: list[ContractRule] = []

    def __iter__(self) -> Iterator[ContractRule]:
        return iter(self._rules)

    def rule(
        self, name: str, *profiles: Profile, required: Sequence[Profile] = ()
    ) -> Callable[[Demand], Demand]:
        """Make a function the rule ``compat.<consumer>.<name>`` of these profiles."""

        def register(problem: Demand) -> Demand:
            self._rules.append(self._rule(name, profiles, required, problem, None))
            return problem

        return register

    def steady_rule(
        self, name: str, *profiles: Profile, required: Sequence[Profile] = ()
    ) -> Callable[[SteadyDemand], SteadyDemand]:
        """As `rule`, for a function that an outline is enough for."""

        def register(steady: SteadyDemand) -> SteadyDemand:
            def problem(subject: ContractSubject) -> str | None:
                return steady(subject.outline)

            self._rules.append(self._rule(name, profiles, required, problem, steady))
            return steady

        return register

    def _rule(
        self,
        name: str,
        profiles: Sequence[Profile],
        required: Sequence[Profile],
        problem: Demand,
        steady: SteadyDemand | None,
    ) -> ContractRule:
        rule_id = f"compat.{self._consumer}.{name}"
        return ContractRule(
            rule_id, self._consumer, frozenset(profiles), frozenset(required), problem, steady
        )


@dataclass(frozen=True)
class ConsumerReport:
    """What one consumer says of one certificate."""

    consumer: Consumer
    trace: Trace

    @property
    def passed(self) -> bool:
        """Whether the consumer can use it."""
        return self.trace.admitted

    @property
    def failed(self) -> tuple[str, ...]:
        """Ids of the rules that it breaks."""
        return tuple(f.rule for f in self.trace.findings if f.verdict is Verdict.FAILED)


def report(
    certificate: Draft | bytes, rules: Sequence[ContractRule], *, profile: Profile | None = None
) -> tuple[ConsumerReport, ...]:
    """See `ca_service.profiles.contract_report`."""
    subject = _subject(certificate, profile)
    consumers = dict.fromkeys(rule.consumer for rule in rules if subject.profile in rule.profiles)
    return tuple(
        ConsumerReport(
            consumer,
            judge_all(
                [r for r in rules if r.consumer == consumer and subject.profile in r.profiles], subject
            ),
        )
        for consumer in consumers
    )


def _subject(certificate: Draft | bytes, profile: Profile | None) -> ContractSubject:
    if isinstance(certificate, Draft):
        # The signature is no part of the view; any will do to have the bytes read.
        der = encoding.assemble(certificate.tbs, bytes(LONGEST_SIGNATURE))
        return ContractSubject(certificate.profile, _read(der), signed_size(certificate.tbs))
    view = _read(certificate)
    return ContractSubject(profile or profile_of(view), view, len(certificate))


def _read(der: bytes) -> CertificateView:
    try:
        return reader_cryptography.read(der)
    except ValueError as error:
        raise BadRequest("certificate", f"cannot be read: {error}") from None


def profile_of(view: CertificateView) -> Profile:
    """Which device profile a certificate of this CA follows, by its key purposes, subject and policies.

    Raises:
        BadRequest: it follows none.
    """
    purposes, policies = view.extension(EKU), view.extension(CP)
    if purposes is not None and purposes.value == ("2.23.133.8.1",):
        return "ek"
    if purposes is not None and purposes.value == ("2.23.133.8.3",):
        return "iak" if view.subject.rdns else "iak-webauthn"
    stated = policies.value if policies is not None else None
    if isinstance(stated, PoliciesView) and "2.23.133.11.1.2" in stated.policies:
        return "idevid"
    raise BadRequest("certificate", "is no EK, IAK or IDevID certificate")
