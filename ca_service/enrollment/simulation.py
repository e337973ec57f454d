"""What a draft of the policy would make of past decisions, and of the TPMs that have certificates.

Pure: decision in, verdict out. A past decision is judged anew under the version that made it, to see that it can be
recomputed at all, and then under two policies that are compared. A TPM with certificates is judged by its newest
accepted evidence as if that came today, see `ca_service.policy.outlook.dates` for what of it ages and what does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from ca_service.enrollment import replay
from ca_service.enrollment.judge import CERTIFY_PRESENT
from ca_service.enrollment.submission import Submission
from ca_service.judgment import Trace, Verdict
from ca_service.policy import Policy, kbs_for

NOTHING: Final = "nothing-judged"
"""Stands in the place of a rule where no check has looked, which denies."""


_ABOUT_CERTIFY: Final = "certify."


class Judged(Protocol):
    """A decision that can be made anew, such as `ca_service.enrollment.recorded.Recorded`."""

    @property
    def submission(self) -> Submission:
        """The evidence."""

    def judge(self, policy: Policy | None) -> Trace:
        """The findings about it under a policy, at the time of the decision."""


@dataclass(frozen=True)
class Said:
    """What a policy says of evidence.

    Attributes:
        rule: id of the first rule that refuses; empty if it is admitted.
        entry: what of the policy the rule stands for, such as ``kbs org-kbs``.
        expected: what the rule wanted to see.
        actual: what it saw.
    """

    rule: str = ""
    entry: str = ""
    expected: str = ""
    actual: str = ""

    @property
    def admitted(self) -> bool:
        """Whether no rule refuses."""
        return not self.rule

    @classmethod
    def of(cls, trace: Trace, policy: Policy | None, submission: Submission) -> "Said":
        """What a trace comes to.

        That TPM2_Certify is wanted and was not sent does not count: the client comes again and brings it.
        """
        if not trace.findings:
            return cls(NOTHING)
        refusals = [finding for finding in trace.findings if finding.verdict is Verdict.FAILED]
        if any(finding.rule == CERTIFY_PRESENT for finding in refusals):
            # The other rules about it had nothing to look at.
            refusals = [finding for finding in refusals if not finding.rule.startswith(_ABOUT_CERTIFY)]
        if not refusals:
            return cls()
        first = refusals[0]
        return cls(first.rule, entry_of(policy, submission, first.rule), first.expected, first.actual)


def said(recorded: Judged, policy: Policy | None) -> Said:
    """What a policy says of recorded evidence, at the time of its decision.

    Raises:
        BadRequest: this release cannot read the evidence.
    """
    return Said.of(recorded.judge(policy), policy, recorded.submission)


class Outcome(StrEnum):
    """What a draft makes of a past decision.

    `SAME` stays as it is. `REFUSED` and `ADMITTED` would be that now, and are not under the policy compared with.
    `OUTSIDE` was refused by what rests on a secret of the CA, or by the lint of a draft: no policy has a say in it.
    `NOT_COMPARABLE` does not come to the same any more under the version that made it, or cannot be made anew.
    """

    SAME = "same"
    REFUSED = "refused"
    ADMITTED = "admitted"
    OUTSIDE = "outside"
    NOT_COMPARABLE = "not-comparable"


@dataclass(frozen=True)
class Compared:
    """A past decision under two policies; `why` it is not comparable."""

    outcome: Outcome
    before: Said = Said()
    after: Said = Said()
    why: str = ""

    @property
    def deciding(self) -> Said:
        """The refusal that comes, or that goes."""
        return self.after if self.outcome is Outcome.REFUSED else self.before


def compare(
    stored: Trace, recorded: Judged, then: Policy | None, base: Policy | None, draft: Policy
) -> Compared:
    """Judge a past decision anew.

    Args:
        stored: what was found then.
        recorded: the decision with its inputs.
        then: the policy that made it; None if there was none.
        base: the policy that the draft is compared with; None if there is none.
        draft: the draft.

    Raises:
        BadRequest: this release cannot read the evidence.
    """
    trace = recorded.judge(then)
    again = replay.compare(stored, trace)
    if again.outcome is replay.Outcome.BEYOND:
        return Compared(Outcome.OUTSIDE)
    if again.outcome is replay.Outcome.DIFFERS:
        return Compared(Outcome.NOT_COMPARABLE, why=f"found anew, it differs in {', '.join(again.rules)}")
    before = Said.of(trace, then, recorded.submission) if base is then else said(recorded, base)
    after = said(recorded, draft)
    if before.admitted == after.admitted:
        return Compared(Outcome.SAME, before, after)
    return Compared(Outcome.ADMITTED if after.admitted else Outcome.REFUSED, before, after)


@dataclass(frozen=True)
class Today:
    """What is said today of a TPM's newest accepted evidence.

    Attributes:
        now: by the draft, with its dates resolved today: this is what counts.
        then: by the draft at the time of the evidence. If that is admitted and `now` is not, a date has come since.
        in_force: by the policy in force, with its dates resolved today.
    """

    now: Said
    then: Said
    in_force: Said

    @property
    def by_date(self) -> bool:
        """Whether the draft refuses only because a date has come since."""
        return self.then.admitted and not self.now.admitted


@dataclass(frozen=True)
class Present:
    """The policies as they are asked about a TPM of today; `now` and `in_force` with their dates resolved."""

    draft: Policy
    now: Policy
    in_force: Policy | None


def today(recorded: Judged, present: Present) -> Today:
    """What is said of a TPM today; what the draft admits, nothing else is asked about.

    Raises:
        BadRequest: this release cannot read the evidence.
    """
    now = said(recorded, present.now)
    if now.admitted:
        return Today(now, now, now)
    return Today(now, said(recorded, present.draft), said(recorded, present.in_force))


_TABLES: Final[Sequence[tuple[str, str]]] = (
    ("grant.age", "grant"),
    ("store.persistent", "store"),
    ("store.format", "store"),
    ("tpm.template-allowed", "tpm"),
    ("profile.admitted", "ephemeral"),
    ("policy.", "policy"),
    ("ledger.", "ledger"),
    ("key.not-blocked", "ledger"),
)
"""How rules begin, and the table of a policy that they stand for; of the ledger, the CA's own."""


def entry_of(policy: Policy | None, submission: Submission, rule: str) -> str:
    """Which entry of a policy a rule looked at; ``evidence`` for a rule that looks at no policy."""
    if policy is None:
        return ""
    if rule.startswith(("launch.", "platform.")):
        return _launch(policy, submission, rule)
    if rule.startswith(("kbs.", "ear.")):
        grant = submission.claims.grant
        kbs = None if grant is None else kbs_for(policy, grant.jwk.thumbprint())
        return "no kbs" if kbs is None else f"kbs {kbs.id}"
    return next((table for begin, table in _TABLES if rule.startswith(begin)), "evidence")


def _launch(policy: Policy, submission: Submission, rule: str) -> str:
    # If none of the entries holds, the most particular one is judged by, see `ca_service.policy.judging.selection`.
    entry = next(iter(policy.launches.candidates(submission.report)), None)
    if entry is None:
        return "no launch"
    if rule.startswith("platform.") and entry.platform is not None:
        return f"platform {entry.platform.name}"
    return f"launch {entry.name}"
