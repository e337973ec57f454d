"""How a decision is kept: its row, its evidence, its leaf in the log, and the alarm that it may mean."""

import json
from dataclasses import field
from datetime import datetime

from ca_service.audit import Leaf, decision_leaf
from ca_service.collateral.items import Item
from ca_service.enrollment.desk import Desk, View
from ca_service.enrollment.judge import Judge
from ca_service.enrollment.ledger import LedgerFacts
from ca_service.enrollment.ledger_checks import ALARMS
from ca_service.enrollment.observing import Alarmed, Decided
from ca_service.enrollment.recorded import RELEASE, Inputs, collateral_for
from ca_service.enrollment.submission import Submission
from ca_service.judgment import BadRequest, Finding, Record, Trace
from ca_service.store import DecisionRow, EvidenceFacts, Transaction
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property

_PRODUCT = "snp.product"
"""The rule that finds out the processor's product."""


@frozen
class Decision:
    """A decision about a submission: by whom and on what it was made, every finding, at which stage and when."""

    id: str
    judge: Judge = field(repr=False)
    submission: Submission
    view: View
    trace: Trace
    stage: str

    @property
    def at(self) -> datetime:
        """When it was made."""
        return self.view.at

    def write_out(self) -> None:
        """Make now what is stored of it. Whoever does so before the transaction keeps other writers waiting less."""
        _ = self.row, self.facts, self.leaf

    @cached_property
    def leaf(self) -> Leaf:
        """What the log says about it."""
        return decision_leaf(self.row)

    @cached_property
    def row(self) -> DecisionRow:
        """The decision as it is stored."""
        refusal, grant = self.trace.refusal, self.submission.claims.grant
        facts = self.view.facts
        resource = "" if grant is None else grant.claims.resource
        return DecisionRow(
            id=self.id,
            at=self.at,
            stage=self.stage,
            admitted=int(self.trace.admitted),
            rule="" if refusal is None else refusal.rule,
            trace=Record(self.trace, self.inputs().to_json()).text(),
            policy_version=self.view.version,
            policy_digest=self.view.digest,
            evidence_digest=self.submission.digest,
            kbs_id="" if facts is None else facts.claim.kbs_id,
            resource=resource if facts is None or not facts.claim.ephemeral else facts.claim.resource,
            salt="" if facts is None else facts.claim.salt,
        )

    @cached_property
    def kept(self) -> tuple[Item, ...]:
        """Certificates and lists of the operator's that it rests on."""
        return collateral_for(self.judge, self.submission, self.at)

    def inputs(self) -> Inputs:
        """What it rests on besides the submission, the policy and the time."""
        facts = self.view.facts
        return Inputs(
            ca_id=self.judge.ca_id,
            mode=self.judge.mode,
            release=RELEASE,
            ledger=None if facts is None else facts.state.known,
            collateral=tuple(item.name for item in self.kept),
        )

    @cached_property
    def facts(self) -> EvidenceFacts:
        """What certificates that rest on this evidence are revoked by."""
        report, kbs = self.submission.report, self.submission.claims.kbs
        # The judge knows the product, a report of version 2 does not.
        product = next((finding.actual for finding in self.trace.findings if finding.rule == _PRODUCT), "")
        return EvidenceFacts(
            measurement=report.measurement.hex(),
            chip_id=report.chip_id.hex() if any(report.chip_id) else None,
            kbs_key=None if kbs is None else kbs.jwk.thumbprint(),
            product=product or None,
            reported_tcb=report.reported_tcb.hex(),
            ek_set=self.submission.ek_set(),
        )


def keep_and_log(desk: Desk, tx: Transaction, decision: Decision) -> None:
    """Store a decision with its evidence and its leaf in the log; raise an alarm where somebody must look."""
    row, refusal = decision.row, decision.trace.refusal
    submission = decision.submission
    tx.decisions.keep_evidence(submission.digest, submission.body, decision.at, decision.facts)
    _keep_collateral(desk, tx, decision)
    tx.decisions.add(row)
    desk.log.add(tx, [decision.leaf], decision.at)
    decided = Decided(row.stage, bool(row.admitted), row.rule, row.id)
    tx.when_committed(lambda: desk.observe(decided))
    if refusal is not None and refusal.rule in ALARMS and decision.view.facts is not None:
        detail = _both_sides(tx, decision, refusal, decision.view.facts)
        alarm = Alarmed(ALARMS[refusal.rule])
        tx.alarms.add(alarm.kind, decision.id, json.dumps(detail), decision.at)
        tx.when_committed(lambda: desk.observe(alarm))


def _keep_collateral(desk: Desk, tx: Transaction, decision: Decision) -> None:
    epoch = decision.view.standing.epoch
    new = {item.name: item.der for item in decision.kept if not desk.has_kept(epoch, item.name)}
    if new:
        tx.decisions.keep_collateral(new.items())
        tx.when_committed(lambda: desk.note_kept(epoch, new))


def _both_sides(
    tx: Transaction, decision: Decision, refusal: Finding, facts: LedgerFacts
) -> dict[str, object]:
    """Who came, and who was there before: the operator has to find out which of them is the copy."""
    claim, submission = facts.claim, decision.submission
    return {
        "rule": refusal.rule,
        "expected": refusal.expected,
        "actual": refusal.actual,
        "newcomer": {
            "kbs": claim.kbs_id,
            "resource": claim.resource,
            "salt": claim.salt,
            "ek_set": claim.ek_set,
            "decision": decision.id,
            "at": decision.at.isoformat(),
            "chip_id": submission.report.chip_id.hex(),
            "report_id": claim.report_id,
            "counter": str(claim.counter),
        },
        "holders": [_holder(tx, *instance) for instance in _holders(tx, facts)],
    }


def _holders(tx: Transaction, facts: LedgerFacts) -> list[tuple[str, str, str]]:
    """(KBS id, resource, salt) of everybody whom the claim collides with.

    A persistence key is bound to a resource; which of the volumes under a shared one it was, nobody has written down.
    """
    seen = facts.seen
    numbers = {i for i in seen.key_instances.values() if i != seen.instance_id}
    if seen.occupant is not None:
        numbers.add(seen.occupant.instance_id)
    found = {(row.kbs_id, row.resource, row.salt) for row in tx.ledger.instances_by_id(numbers).values()}
    owner = seen.key_id_owner
    if owner is not None and owner not in {(kbs, name) for kbs, name, _ in found}:
        found.add((*owner, ""))
    return sorted(found)


def _holder(tx: Transaction, kbs_id: str, resource: str, salt: str) -> dict[str, object]:
    last = tx.decisions.last_admitted(kbs_id, resource, salt)
    return {
        "kbs": kbs_id,
        "resource": resource,
        "salt": salt,
        "decision": "" if last is None else last.id,
        "at": "" if last is None else last.at.isoformat(),
        "chip_id": "" if last is None else _chip_of(tx, last),
    }


def _chip_of(tx: Transaction, row: DecisionRow) -> str:
    body = tx.decisions.evidence(row.evidence_digest)
    try:
        return "" if body is None else Submission.parse(body).report.chip_id.hex()
    except BadRequest:
        # Evidence that an earlier release took and this one reads no more: the decision still names it.
        return ""
