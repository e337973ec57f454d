"""How a policy version comes in force: at once, at its time, or when a second operator has approved it.

There is one gate. Whether a version widens the policy is read from its differences to the version whose place it takes,
and whether that needs a second operator, from what that version says. `propose` and `approve` look first and read the
documents outside the database's transaction, for that may take long and there is one writer; they write only what they
have looked at, and otherwise look again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ca_service.judgment import BadRequest, Conflict, NotFound, Unavailable
from ca_service.operations.context import Json, OperationContext, instant
from ca_service.operations.identity import same_operator
from ca_service.policy import Policy, load
from ca_service.policy.changes import Comparison, Effect, compare
from ca_service.policy.document.approval import operators_for_widening
from ca_service.store import (
    APPROVED,
    PENDING,
    PolicyEnd,
    PolicyRow,
    PolicyStartRow,
    PolicyVerdictRow,
    Schedule,
    State,
    Transaction,
    VersionRecord,
    read_schedule,
)

_ROUNDS = 20
_WORDS = {
    State.IN_FORCE: "is in force",
    State.SCHEDULED: "comes in force by itself",
    State.WAITING: "waits for approval",
    State.PAST: "has been in force",
    State.DROPPED: "was dropped for another version",
    State.WITHDRAWN: "was withdrawn",
}


def read_policy(row: PolicyRow | None) -> Policy | None:
    """A version as it judges; None for one that this release cannot read, or that was altered: it admits nothing."""
    try:
        policy = None if row is None else load(row.text)
    except BadRequest:
        return None
    return policy if row is not None and policy is not None and policy.digest == row.digest else None


def present_time(context: OperationContext) -> datetime:
    """Now, in whole seconds, as the database keeps times."""
    return context.clock().replace(microsecond=0)


def summary(schedule: Schedule, record: VersionRecord) -> dict[str, Json]:
    """A version without its text."""
    return {
        "version": record.version,
        "digest": record.digest,
        "state": schedule.state(record).value,
        "in_force_from": instant(record.in_force_from or record.requested_from),
        "applied_at": instant(record.applied_at),
        "applied_by": record.applied_by,
        "base": record.base,
        "verdicts": [
            {"verdict": verdict.verdict, "by": verdict.by, "at": instant(verdict.at)}
            for verdict in record.verdicts
        ],
    }


def differences(found: Comparison) -> dict[str, Json]:
    """What a comparison found."""
    changes = [
        {"effect": change.effect, "subject": change.subject, "text": change.text} for change in found.changes
    ]
    return {"effect": found.effect, "changes": changes}


@dataclass(frozen=True)
class _Look:
    """What was there when a change was thought out: the schedule, and the place that the version would take."""

    schedule: Schedule
    start: datetime
    before: PolicyRow | None
    present: PolicyRow | None

    @property
    def base(self) -> int:
        return 0 if self.before is None else self.before.version

    def holds(self, schedule: Schedule) -> bool:
        """Whether it is still so."""
        known, found = self.schedule, schedule
        return (known.in_force, known.records) == (found.in_force, found.records)


def _look(tx: Transaction, at: datetime, wanted: datetime | None) -> _Look:
    schedule = read_schedule(tx.policies, at)
    start = schedule.start(wanted)
    base = schedule.before(start)
    before, present = (_stored(tx, version) if version else None for version in (base, schedule.in_force))
    return _Look(schedule, start, before, present)


def _stored(tx: Transaction, version: int) -> PolicyRow:
    """A version that others rest on; damage must not look like a CA without a policy."""
    row = tx.policies.get(version)
    if row is None:
        raise Unavailable(
            f"policy version {version} is not stored any more",
            code="policy",
            remedy="Run `vtpm-ca audit verify`, and bring the database back with `vtpm-ca db restore`.",
        )
    return row


def _compared(context: OperationContext, look: _Look, policy: Policy) -> tuple[Comparison, bool]:
    """What a version changes, and whether that needs a second operator."""
    before = read_policy(look.before)
    found = compare(before, policy, context.public.mode)
    if found.effect is not Effect.WIDENS:
        return found, False
    if look.before is None:
        # Its author may write what he likes there, so to ask for two unless he says "one" would protect nobody.
        return found, policy.approval == "two"
    # One that cannot be read asks for what its CA's mode does, as one does that says nothing.
    present = before if look.present == look.before else read_policy(look.present)
    rules = [each.approval if each is not None else None for each in (before, present)]
    asked = {operators_for_widening(stated, context.public.mode) for stated in rules}
    return found, "two" in asked


def propose(
    context: OperationContext,
    policy: Policy,
    base: int | None,
    wanted: datetime | None,
    *,
    narrowing: bool = False,
) -> dict[str, Json]:
    """Keep a policy as the next version, and let it come in force if that needs nobody else.

    Args:
        context: who does it, and where.
        policy: what may be put in force here.
        base: which version it must follow; None if any will do.
        wanted: from when on; None for at once.
        narrowing: whether it must not widen the policy.

    Raises:
        Conflict: it would follow another version than `base` (code ``policy-base``), or widens and must not
            (``policy-widens``).
        Unavailable: too much changes meanwhile.
    """
    for _ in range(_ROUNDS):
        with context.store.read() as tx:
            look = _look(tx, present_time(context), wanted)
        if base is not None and base != look.base:
            raise _other_base(look, base)
        same = _same(look, policy, wanted)
        if same is not None:
            return {**summary(look.schedule, same), "changed": False, "notes": []}
        found, second = _compared(context, look, policy)
        if narrowing and found.effect is Effect.WIDENS:
            raise Conflict(
                "the document would admit more than the one whose place it takes",
                code="policy-widens",
                remedy="`vtpm-ca policy diff FILE` shows where.",
            )
        with context.store.write() as tx:
            at = present_time(context)
            now = read_schedule(tx.policies, at)
            if not look.holds(now):
                continue
            later = wanted if wanted is not None and wanted > at else None
            row = PolicyRow(
                tx.policies.next_version(), policy.digest, policy.text, at, context.by, look.base, later
            )
            tx.policies.add(row)
            ended = [] if second else _release(tx, now, row.version, later, context.by)
            after = read_schedule(tx.policies, at, first=row.version)
        return _answer(after, row.version, found, ended)
    raise _busy()


def _same(look: _Look, policy: Policy, wanted: datetime | None) -> VersionRecord | None:
    """The version that says already what is proposed: the one whose place it would take, or one that waits for it."""
    schedule = look.schedule
    for record in schedule.records:
        if record.digest != policy.digest:
            continue
        if record.version == look.base:
            # One that was altered since says something else, and is to be replaced.
            return record if read_policy(look.before) is not None else None
        if (
            schedule.state(record) is State.WAITING
            and schedule.start(record.requested_from) == look.start
            and (record.requested_from is None) == (wanted is None)
        ):
            return record
    return None


def _other_base(look: _Look, base: int) -> Conflict:
    then = "is" if look.base == look.schedule.in_force else "will be"
    return Conflict(
        f"policy version {look.base} {then} in force, not {base}",
        code="policy-base",
        remedy="Look at what has changed meanwhile with `vtpm-ca policy diff`, then apply to that version.",
    )


def _busy() -> Unavailable:
    return Unavailable("the policy changes too often just now; try again")


def _release(
    tx: Transaction, schedule: Schedule, version: int, later: datetime | None, by: str
) -> list[VersionRecord]:
    """Let a version come in force at its time (None: at once); returns the versions that this ends."""
    start = schedule.start(later)
    ended = schedule.displaced(version, start)
    tx.policies.speak(
        [PolicyVerdictRow(row.version, PolicyEnd.DROPPED, by, schedule.at) for row in ended],
    )
    # What is to hold at once must hold by the clocks of all nodes: see `ca_service.store.policies`.
    tx.policies.start(PolicyStartRow(version, start, start if later is None else schedule.at))
    return ended


def _answer(
    schedule: Schedule, version: int, found: Comparison, ended: Iterable[VersionRecord]
) -> dict[str, Json]:
    record = _record(schedule, version)
    notes = [_end_of(row) + ", is dropped by this" for row in ended]
    if schedule.state(record) is State.WAITING:
        notes.append(
            f"version {version} widens the policy, so another operator than {record.applied_by} must approve it: "
            f"`vtpm-ca policy approve {version}`"
        )
    return {**summary(schedule, record), "changed": True, **differences(found), "notes": notes}


def _end_of(record: VersionRecord) -> str:
    if record.in_force_from is None:
        return f"version {record.version}, which waited for approval"
    return f"version {record.version}, which was to come in force at {instant(record.in_force_from)}"


def _record(schedule: Schedule, version: int) -> VersionRecord:
    found = next((row for row in schedule.records if row.version == version), None)
    if found is None:
        raise NotFound(
            f"there is no policy version {version}", remedy="`vtpm-ca policy log` lists the versions."
        )
    return found


def _pending(schedule: Schedule, version: int, states: Sequence[State], what: str) -> VersionRecord:
    """The record of a version that is in one of these states."""
    record = _record(schedule, version)
    state = schedule.state(record)
    if state not in states:
        raise Conflict(
            f"policy version {version} {_WORDS[state]}; it cannot be {what}",
            code="policy-state",
            remedy="`vtpm-ca policy log` shows what has become of each version.",
        )
    return record


def approve(context: OperationContext, version: int, check: Callable[[str], Policy]) -> Json:
    """Let a version come in force that waits for a second operator.

    Args:
        context: who approves it, and where.
        version: the one that waits.
        check: reads a document that may be put in force here, as for `propose`.

    Raises:
        NotFound: there is no such version.
        Conflict: it does not wait (code ``policy-state``); the version that it was to follow is not in force any more
            (``policy-base``); or the operator may be the one who applied it (``policy-own``).
        BadRequest: it may not be put in force any more, as `check` says.
        Unavailable: it was altered since (code ``policy``), or too much changes meanwhile.
    """
    for _ in range(_ROUNDS):
        with context.store.read() as tx:
            record = _awaited(read_schedule(tx.policies, present_time(context), first=version), version)
            look = _look(tx, present_time(context), record.requested_from)
            row = _stored(tx, version)
        if same_operator(record.applied_by, context.by):
            raise _own(record, context.by)
        policy = check(row.text)
        if policy.digest != row.digest:
            raise Unavailable(
                f"policy version {version} is not what was applied any more",
                code="policy",
                remedy=f"Withdraw it with `vtpm-ca policy withdraw {version}`, and apply the document again.",
            )
        found, _second = _compared(context, look, policy)
        with context.store.write() as tx:
            at = present_time(context)
            now = read_schedule(tx.policies, at)
            if not look.holds(now):
                continue
            later = record.requested_from
            tx.policies.speak([PolicyVerdictRow(version, APPROVED, context.by, at)])
            ended = _release(
                tx, now, version, later if later is not None and later > at else None, context.by
            )
            after = read_schedule(tx.policies, at, first=version)
        return _answer(after, version, found, ended)
    raise _busy()


def _awaited(schedule: Schedule, version: int) -> VersionRecord:
    record = _record(schedule, version)
    forgotten = version > schedule.in_force and record.in_force_from is None and record.ended is None
    if forgotten and not schedule.may_begin(record):
        raise Conflict(
            f"policy version {version} was to follow version {record.base}, which is not the one in force then",
            code="policy-base",
            remedy=f"Look at it with `vtpm-ca policy diff --to {version}`, and apply it anew if it is still wanted.",
        )
    return _pending(schedule, version, (State.WAITING,), "approved")


def _own(record: VersionRecord, by: str) -> Conflict:
    if record.applied_by == by:
        detail = f"{by} has applied version {record.version}, so another operator must approve it"
    else:
        detail = (
            f"{record.applied_by} has applied version {record.version}, and {by} may be the same person: all users of "
            "the CA's host count as one operator, and so do names that differ in case or spelling only"
        )
    return Conflict(
        detail,
        code="policy-own",
        remedy="Let an operator approve it who has a client certificate of his own; see docs/operations.md.",
    )


def withdraw(context: OperationContext, version: int) -> Json:
    """End a version that is scheduled or waits, and those that were to follow it.

    Raises:
        NotFound: there is no such version.
        Conflict: it is in force, has been, or has ended (code ``policy-state``).
    """
    with context.store.write() as tx:
        at = present_time(context)
        schedule = read_schedule(tx.policies, at, first=version)
        record = _pending(schedule, version, PENDING, "withdrawn")
        ended = [row for row in schedule.resting_on(version) if row.version != version]
        tx.policies.speak(
            [
                PolicyVerdictRow(version, PolicyEnd.WITHDRAWN, context.by, at),
                *(PolicyVerdictRow(row.version, PolicyEnd.DROPPED, context.by, at) for row in ended),
            ]
        )
        after = read_schedule(tx.policies, at, first=version)
    notes = [f"{_end_of(row)} after it, is dropped by this" for row in ended]
    return {**summary(after, _record(after, record.version)), "notes": notes}
