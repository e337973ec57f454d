"""`vtpm-ca decision replay`: making stored decisions anew, from the database or from an auditor's export.

Like an audit it reads the database itself, also while a server runs: what the audited process says about itself would
prove nothing, and a history of a million decisions takes longer than a request may.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ca_service.audit import ExportedDecisions
from ca_service.enrollment.recorded import RELEASE, Recorded
from ca_service.enrollment.replay import Comparison, Outcome, compare
from ca_service.judgment import BadRequest, NotFound, Record, Unavailable, VtpmCaError
from ca_service.operations.context import instant
from ca_service.operations.recorded import NOT_RECORDED, inputs_of, put_together, recorded_all, recorded_of
from ca_service.policy import Policy, load
from ca_service.store import DecisionRow, Store

_MOST_POLICIES = 8
"""Read policies that are held at once: decisions come in the order of time, and so do versions."""


@dataclass(frozen=True)
class Replayed:
    """A decision that was made anew.

    Attributes:
        id, at, stage, admitted, rule, policy_version: as they are stored.
        release: the release that decided; empty if that is not known.
        outcome: how then and now compare.
        rules: rules whose findings differ.
        detail: what stood in the way, for `Outcome.UNREADABLE`.
    """

    id: str
    at: datetime
    stage: str
    admitted: bool
    rule: str
    policy_version: int
    release: str
    outcome: Outcome
    rules: tuple[str, ...] = ()
    detail: str = ""

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return {
            "id": self.id,
            "at": instant(self.at),
            "stage": self.stage,
            "verdict": "admitted" if self.admitted else "refused",
            "rule": self.rule,
            "policy_version": self.policy_version,
            "release": self.release,
            "outcome": self.outcome.value,
            "rules": list(self.rules),
            "detail": self.detail,
        }


class _Policies:
    """Policies of versions, read once; the digest is compared, for a stored text proves nothing."""

    def __init__(self, text_of: Callable[[int, str], str | None]) -> None:
        self._text_of = text_of
        self._read: OrderedDict[tuple[int, str], Policy] = OrderedDict()

    def get(self, version: int, digest: str) -> Policy | None:
        """The policy of a version; None for version 0, which is none.

        Raises:
            BadRequest: it is missing, damaged, or read by this release no more.
        """
        if version == 0:
            return None
        known = self._read.get((version, digest))
        if known is not None:
            return known
        text = self._text_of(version, digest)
        if text is None:
            raise BadRequest("policy", f"version {version} is not there")
        policy = load(text)
        if policy.digest != digest:
            raise BadRequest("policy", f"version {version} is not the one that was decided by")
        self._read[version, digest] = policy
        if len(self._read) > _MOST_POLICIES:
            self._read.popitem(last=False)
        return policy


def replay_database(store: Store, decision_id: str | None = None) -> Iterator[Replayed]:
    """Make one decision, or all of them in the order of time, anew from what the database holds.

    Raises:
        NotFound: there is no decision with this id.
    """
    policies = _Policies(lambda version, _digest: _text(store, version))
    if decision_id is None:
        for row, found in recorded_all(store):
            yield _replayed(row, found, policies)
        return
    with store.read() as tx:
        one = tx.decisions.get(decision_id)
        if one is None:
            raise NotFound("there is no decision with this id")
        made = _attempt(lambda: recorded_of(tx, one))
    yield _replayed(one, made, policies)


def replay_export(folder: Path, decision_id: str | None = None) -> Iterator[Replayed]:
    """The same in the order of the log, from an export that `operations.audit.audit_export` has found to be whole.

    Raises:
        NotFound: no leaf is about a decision with this id.
    """
    export, found = ExportedDecisions(folder), False
    policies = _Policies(lambda _version, digest: export.policy(digest))
    for row in export.rows(decision_id):
        found = True
        yield _replayed(row, _attempt(lambda row=row: _of_export(export, row)), policies)  # type: ignore[misc]
    if decision_id is not None and not found:
        raise NotFound("the export has no decision with this id")


def _text(store: Store, version: int) -> str | None:
    with store.read() as tx:
        row = tx.policies.get(version)
    return None if row is None else row.text


def _of_export(export: ExportedDecisions, row: DecisionRow) -> Recorded:
    inputs = inputs_of(row)
    return put_together(
        row, inputs, export.evidence(row.evidence_digest), export.collateral(inputs.collateral)
    )


def _attempt(make: Callable[[], Recorded]) -> Recorded | VtpmCaError:
    try:
        return make()
    except (BadRequest, Unavailable) as error:
        return error


def _replayed(row: DecisionRow, found: Recorded | VtpmCaError, policies: _Policies) -> Replayed:
    release, detail, comparison = "", "", Comparison(Outcome.UNREADABLE)
    if isinstance(found, VtpmCaError):
        detail = found.detail
        if found.code == NOT_RECORDED:
            comparison = Comparison(Outcome.UNRECORDED)
    else:
        release = found.inputs.release
        try:
            anew = found.judge(policies.get(row.policy_version, row.policy_digest))
            comparison = compare(Record.parse(row.trace).trace, anew, same_release=release == RELEASE)
        except BadRequest as error:
            detail = f"{error.path}: {error.detail}" if error.path else error.detail
    return Replayed(
        id=row.id,
        at=row.at,
        stage=row.stage,
        admitted=bool(row.admitted),
        rule=row.rule,
        policy_version=row.policy_version,
        release=release,
        outcome=comparison.outcome,
        rules=comparison.rules,
        detail=detail,
    )
