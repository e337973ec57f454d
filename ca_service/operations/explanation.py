"""Why a decision came out as it did, and what the policy would have had to say for another one.

Everything is found by judging the recorded decision anew, offline: nothing is changed, and no key is asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Final

from ca_service.enrollment.claim import Claim
from ca_service.enrollment.ledger_state import LedgerKnown, Occupant
from ca_service.enrollment.recorded import Recorded
from ca_service.enrollment.replay import LINT_RULES, SECRET_RULES
from ca_service.judgment import BadRequest, Finding, Trace, Verdict, VtpmCaError
from ca_service.operations.advice import advice
from ca_service.operations.context import Json, instant
from ca_service.operations.recorded import recorded_of
from ca_service.policy import Policy, load
from ca_service.policy.changes import compare
from ca_service.policy.judging.launch_rules import MEASUREMENT
from ca_service.policy.remedies import Case, Edit, Remedy, TokenFacts, edited, remedy, shown
from ca_service.policy.remedies.resting import Basis, basis
from ca_service.policy.remedies.writing import document
from ca_service.store import DecisionRow, LedgerQuery, PolicyRow, Store, Transaction

_WITHOUT_CHANGE: Final[Mapping[str, str]] = {
    "grant.age": "A new boot gets a fresh grant: boot the VM again.",
    "store.persistent": "A VM with a volume has a persistent store: give it one.",
    "platform.crl-age": "`vtpm-ca collateral fetch` brings AMD's present revocation list.",
    "kbs.release-policy": "The KBS may go back to a release policy that is listed.",
    "kbs.origin": "A secret that the KBS made itself needs no change: declare the resource anew there.",
    "ear.time": "A new boot brings a new attestation token.",
    "ear.present": "See that the KBS sends its attestation token along.",
}
_VMPL: Final = (
    "Only what runs at VMPL 0 may speak for a launch: the SVSM, and not the guest that it has booted."
)
_UPDATE: Final = "Firmware that is up to date on the host needs no change of the policy."
_OF_FIRMWARE: Final = (
    "platform.reported-tcb",
    "platform.committed-tcb",
    "platform.launch-tcb",
    "platform.api",
    "platform.build",
    "platform.launch-mitigations",
    "platform.current-mitigations",
    "platform.provisional-firmware",
)


@dataclass(frozen=True)
class Sources:
    """What an explanation is made of, read in one transaction.

    Attributes:
        recorded: the decision with its inputs; None, with `why_not`, if there are none.
        why_not: why the decision cannot be judged anew; else empty.
        then: the policy version that judged; None if none was in force.
        now: the version in force.
    """

    recorded: Recorded | None
    why_not: str
    then: PolicyRow | None
    now: PolicyRow | None


def sources(tx: Transaction, row: DecisionRow, at: datetime) -> Sources:
    """Read what the explanation of a decision needs at `at`."""
    then = tx.policies.get(row.policy_version) if row.policy_version else None
    now = tx.policies.in_force(at)
    try:
        return Sources(recorded_of(tx, row), "", then, now)
    except VtpmCaError as error:
        return Sources(None, error.detail, then, now)


def explained(store: Store, found: Sources, trace: Trace) -> dict[str, Json]:
    """The members that `decision show` adds to a decision.

    Args:
        store: the CA's database, which is asked about instances into which another policy puts the TPM.
        found: what it is made of.
        trace: the decision's findings, as they are stored.

    Returns:
        ``remedy`` for a refusal, ``rests_on`` for an admission; the other is null. Where neither can be had,
        ``unexplained`` says why, else it is empty.
    """
    nothing: dict[str, Json] = {"remedy": None, "rests_on": None, "unexplained": ""}
    if found.recorded is None:
        return nothing | {"unexplained": found.why_not}
    if found.then is None:
        return nothing | {
            "unexplained": "no policy was in force; `vtpm-ca policy apply FILE` puts one in force"
        }
    try:
        policy, case = load(found.then.text), case_of(found.recorded)
    except BadRequest as error:
        return nothing | {"unexplained": f"this release cannot read what it was judged by: {error.detail}"}
    if trace.admitted:
        return nothing | {"rests_on": _rests_on(basis(policy, case.mode, case.facts), policy, trace)}
    judged = _judged(store, found.recorded)
    return nothing | {"remedy": _remedy(remedy(policy, case, judged), trace, found, judged)}


def case_of(found: Recorded) -> Case:
    """What the policy was asked about in a decision.

    Raises:
        BadRequest: this release reads the request no more.
    """
    submission, at = found.submission, found.at
    grant, token = submission.claims.grant, submission.ear()
    named = None
    if token is not None:
        key = None if token.jwk is None else token.jwk.members()
        named = TokenFacts(key, int(at.timestamp()) - token.iat)
    return Case(
        facts=found.judge_then.facts(submission, at),
        mode=found.mode,
        kbs_key=None if grant is None else grant.jwk.members(),
        token=named,
    )


def _judged(store: Store, found: Recorded) -> Callable[[Policy], Trace]:
    """Judges a decision under other policies.

    A decision keeps what the ledger knew of one instance. Another policy may put the same TPM into another one, such as
    that of a KBS whose key is new: of that the ledger is asked what it knows today.
    """

    @cache
    def known(instance: tuple[str, str, str]) -> LedgerKnown | None:
        if found.ledger is None or found.ledger.instance == instance:
            return found.ledger
        kbs_id, resource, salt = instance
        with store.read() as tx:
            _, seen = tx.views.look(LedgerQuery(kbs_id=kbs_id, resource=resource, salt=salt), found.at)
        tpm = seen.occupant
        return replace(
            found.ledger,
            instance=instance,
            instance_id=seen.instance_id,
            occupant=None if tpm is None else Occupant(tpm.ek_set, tpm.counter, tpm.root),
            revoked=seen.revoked,
        )

    def judge(policy: Policy) -> Trace:
        claim = Claim.of(found.submission, policy)
        ledger = known((claim.kbs_id, claim.resource, claim.salt))
        return replace(found, inputs=replace(found.inputs, ledger=ledger)).judge(policy)

    return judge


def _remedy(
    found: Remedy, trace: Trace, sources_: Sources, judged: Callable[[Policy], Trace]
) -> dict[str, Json]:
    mode = "" if sources_.recorded is None else sources_.recorded.mode
    beyond = tuple(
        finding
        for finding in trace.findings
        if finding.verdict is Verdict.FAILED and finding.rule.startswith((*SECRET_RULES, LINT_RULES))
    )
    left = (*found.left, *beyond)
    return {
        "policy_version": 0 if sources_.then is None else sources_.then.version,
        "admits": not left,
        "effect": _effect(found, mode) if found.edits else "",
        "edits": shown(found, found.edits, mode),
        "alternatives": [shown(found, edits, mode) for edits in found.alternatives],
        "warnings": list(found.warnings),
        "left": [
            {"rule": finding.rule, "reason": finding.reason, "advice": _advice(finding)} for finding in left
        ],
        "without_change": _without_change(found.edits),
        "in_force": _in_force(sources_, judged),
    }


def _effect(found: Remedy, mode: str) -> str:
    before, after = (load(document(content)) for content in (found.part, edited(found.part, found.edits)))
    return compare(before, after, mode).effect.value


def _advice(finding: Finding) -> str:
    # That the launch is listed is in the document's hands, that VMPL 0 asks is not.
    return _VMPL if finding.rule == MEASUREMENT else advice(finding.rule)


def _without_change(edits: Sequence[Edit]) -> list[str]:
    rules = dict.fromkeys(rule for edit in edits for rule in edit.rules)
    said = [_WITHOUT_CHANGE[rule] for rule in rules if rule in _WITHOUT_CHANGE]
    if any(rule in _OF_FIRMWARE for rule in rules):
        said.append(_UPDATE)
    return said


def _in_force(found: Sources, judged: Callable[[Policy], Trace]) -> Json:
    """What the present policy says of the decision, if it is another one; null if it is the same."""
    if found.now is None or found.then is None or found.now.digest == found.then.digest:
        return None
    try:
        trace = judged(load(found.now.text))
    except BadRequest:
        return None
    rule = "" if trace.refusal is None else trace.refusal.rule
    return {"version": found.now.version, "verdict": "refused" if rule else "admitted", "rule": rule}


def _rests_on(found: Basis, policy: Policy, trace: Trace) -> dict[str, Json]:
    floor, broker = found.floor, next((e for e in policy.kbs.values() if e.id == found.kbs), None)
    given_up: list[Finding] = [f for f in trace.findings if f.verdict is Verdict.UNSAFE_SKIPPED]
    age = next((f.expected for f in trace.findings if f.rule == "grant.age"), "")
    return {
        "kbs": found.kbs,
        "kbs_label": "" if broker is None else broker.label,
        "launch": found.launch,
        "platform": found.platform,
        "grant_age_s": found.grant_age_s,
        "grant_age_demanded": age,
        "floor": None
        if floor is None
        else {
            "product": floor.product.value,
            "since": instant(floor.since),
            "reported_above": dict(floor.above),
            "misses_from": instant(floor.misses_from),
        },
        "given_up": [finding.rule for finding in given_up],
    }
