"""How the policy versions of a restored database go on from those of the backup, so that no later narrowing is lost.

Versions that both databases have keep their numbers, and what has become of them is what the present database says: one
that was withdrawn since the backup stays withdrawn. The present database's later ones come after all of the backup's.
What is in force there is in force afterwards; if that is not known, a version that admits nothing.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime

from ca_service.policy import load
from ca_service.policy.document.approval import Operators
from ca_service.store import (
    PolicyEnd,
    PolicyRow,
    PolicyStartRow,
    PolicyVerdictRow,
    Transaction,
    read_schedule,
)

NOTHING_ADMITTED = """\
# A restore put this in force: the policies since the backup could not be read. It admits nothing.
# Apply the present policy with `vtpm-ca policy apply FILE`.
schema = 1
"""

_BY = "a restore"


@dataclass(frozen=True)
class PolicyLine:
    """The policy versions of a database, oldest first, with what has become of them; `in_force` is 0 for none."""

    rows: Sequence[PolicyRow] = field(repr=False)
    starts: Sequence[PolicyStartRow] = field(repr=False)
    verdicts: Sequence[PolicyVerdictRow] = field(repr=False)
    in_force: int


@dataclass(frozen=True)
class LinePlan:
    """How the versions go on.

    Attributes:
        added: the versions that come after the backup's; the last of them is put in force at once if `at_once`.
        numbers: by the number of a version in the present database its number afterwards.
        at_once: whether a version has to be put in force so that what was is.
        in_force: the version in force afterwards, 0 for none.
        lost: whether it is the one that admits nothing, since what was in force is not known.
    """

    added: Sequence[PolicyRow] = field(repr=False)
    numbers: Mapping[int, int]
    at_once: bool
    in_force: int
    lost: bool


def read_line(tx: Transaction, at: datetime) -> PolicyLine:
    """The versions as a transaction sees them, and which of them is in force at `at`."""
    policies = tx.policies
    return PolicyLine(policies.all(), policies.starts(), policies.verdicts(), policies.version_in_force(at))


def plan_line(
    old: Sequence[PolicyRow],
    present: PolicyLine | None,
    *,
    current: bool,
    at: datetime,
    rule: Operators | None = None,
) -> LinePlan:
    """How the versions of a backup go on.

    Args:
        old: all versions of the backup, oldest first; of each only version, digest and text are looked at.
        present: those of the newest database that can be read; None if none can be.
        current: whether what is in force in `present` is the present policy.
        at: now.
        rule: what the backup's version in force says of approval. One that admits nothing says the same, so that a CA
            with one operator can go on after a disaster.
    """
    rows = () if present is None else present.rows
    same = 0
    for before, now in zip(old, rows, strict=False):
        if (before.version, before.digest) != (now.version, now.digest):
            break
        same += 1
    next_ = 1 + max((row.version for row in old), default=0)
    numbers = {row.version: row.version for row in rows[:same]}
    numbers |= {row.version: next_ + place for place, row in enumerate(rows[same:])}
    added = [replace(row, version=numbers[row.version], base=numbers.get(row.base, 0)) for row in rows[same:]]
    next_ += len(added)
    if current and present is not None and present.in_force in numbers:
        reached = numbers[present.in_force]
        if len(old) == same or present.in_force not in {row.version for row in rows[:same]}:
            return LinePlan(added, numbers, at_once=False, in_force=reached, lost=False)
        # The backup has versions that the present database never had, and they come after the one in force.
        again = next(row for row in rows if row.version == present.in_force)
        added.append(replace(again, version=next_, base=reached, requested_from=None))
        return LinePlan(added, numbers, at_once=True, in_force=next_, lost=False)
    after = [*old, *added]
    if not after:
        return LinePlan(added, numbers, at_once=False, in_force=0, lost=False)
    last = after[-1]
    if last.text.startswith(NOTHING_ADMITTED) and last.applied_by == _BY:
        return LinePlan(added, numbers, at_once=False, in_force=last.version, lost=True)
    text = NOTHING_ADMITTED + (f'[approval]\nwidening = "{rule}"\n' if rule else "")
    added.append(PolicyRow(next_, load(text).digest, text, at, _BY, base=last.version))
    return LinePlan(added, numbers, at_once=True, in_force=next_, lost=True)


def take_up(tx: Transaction, plan: LinePlan, present: PolicyLine | None, at: datetime) -> None:
    """Write into a database that has the backup's versions what comes after them, and what has become of all."""
    new = {row.version for row in plan.added}
    both = {version for version, number in plan.numbers.items() if number not in new}
    if present is not None:
        tx.policies.forget(both)
        _tell(tx, plan.numbers, present, both)
    # What only the backup was about to put in force.
    _drop(tx, both, at)
    for row in plan.added:
        tx.policies.add(row)
    if present is not None:
        _tell(tx, plan.numbers, present, plan.numbers.keys() - both)
    if plan.at_once:
        _drop(tx, {plan.in_force}, at)
        tx.policies.start(PolicyStartRow(plan.in_force, at, at))


def _tell(
    tx: Transaction, numbers: Mapping[int, int], present: PolicyLine, versions: AbstractSet[int]
) -> None:
    """Say of these versions of the present database what it says of them."""
    for start in present.starts:
        if start.version in versions:
            tx.policies.start(replace(start, version=numbers[start.version]))
    tx.policies.speak(
        [replace(row, version=numbers[row.version]) for row in present.verdicts if row.version in versions]
    )


def _drop(tx: Transaction, kept: AbstractSet[int], at: datetime) -> None:
    """End what may come in force yet, but for these versions."""
    pending = [row.version for row in read_schedule(tx.policies, at).pending() if row.version not in kept]
    tx.policies.speak([PolicyVerdictRow(version, PolicyEnd.DROPPED, _BY, at) for version in pending])
