"""Policy versions: put one in force, approve or withdraw one, and read them."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import cast

from ca_service.judgment import BadRequest, NotFound
from ca_service.operations.bounds import MAX_POLICY
from ca_service.operations.context import Json, Operation, OperationContext, optional_flag, text_block
from ca_service.operations.policy_tests import evidence_argument, prove
from ca_service.operations.versions import approve as approve_version
from ca_service.operations.versions import differences, present_time, propose, read_policy, summary
from ca_service.operations.versions import withdraw as withdraw_version
from ca_service.policy import Policy, load, load_complete, require_complete, require_safe
from ca_service.policy.changes import compare
from ca_service.store import PolicyRow, Store, Transaction, read_schedule
from vtpm.wire.encoding import Members
from vtpm.wire.message_fields import parse_time

_MOST_VERSIONS = 2**31 - 1
_NOTHING_SENT: Mapping[str, bytes] = MappingProxyType({})


def _version(members: Members, name: str) -> int | None:
    return members.integer(name, 1, _MOST_VERSIONS) if members.has(name) else None


def _row(context: OperationContext, tx: Transaction, version: int | None) -> PolicyRow:
    """One version; the one in force if None is named."""
    row = tx.policies.in_force(present_time(context)) if version is None else tx.policies.get(version)
    if row is None:
        detail = "no policy is in force" if version is None else f"there is no policy version {version}"
        raise NotFound(
            detail, remedy="`vtpm-ca policy log` lists the versions; `vtpm-ca policy apply FILE` makes one."
        )
    return row


def _for_force(context: OperationContext, text: str, evidence: Mapping[str, bytes] = _NOTHING_SENT) -> Policy:
    """A document that may be put in force here; its tests hold, with `evidence` or what is kept of it."""
    policy = load_complete(text)
    require_safe(policy, context.public.mode)
    prove(context, policy, evidence)
    return policy


def _put_in_force(
    context: OperationContext, policy: Policy, base: int | None, wanted: datetime | None = None
) -> Json:
    return propose(context, policy, base, wanted)


def _time(members: Members, name: str) -> datetime | None:
    return parse_time(members.text(name, most=20), name) if members.has(name) else None


def apply(context: OperationContext, arguments: Members) -> Json:
    """Put the document `text` in force as the next version, at once or from `at` on; the same content changes nothing.

    One that widens the policy waits for `approve` if the policy says so. With `base` only if it follows that version,
    0 if there is none. A document that leaves a constraint open is refused, also if an earlier release took it: what is
    meant not to matter must say so. So is one whose tests fail; `evidence` are the files that they name. With
    `narrowing` neither stands in the way, for nobody may have to wait who takes trust away; but a document that widens
    the policy is refused.
    """
    text = text_block(arguments, "text", MAX_POLICY)
    base = arguments.integer("base", 0, _MOST_VERSIONS) if arguments.has("base") else None
    wanted = _time(arguments, "at")
    evidence = evidence_argument(arguments)
    narrowing = optional_flag(arguments, "narrowing")
    arguments.end()
    if narrowing:
        return _narrow(context, text, base, wanted, evidence)
    return _put_in_force(context, _for_force(context, text, evidence), base, wanted)


def _narrow(
    context: OperationContext,
    text: str,
    base: int | None,
    wanted: datetime | None,
    evidence: Mapping[str, bytes],
) -> Json:
    """Put a document in force that admits nobody new, whatever its author has left to mend."""
    policy, note = load(text), ""
    require_safe(policy, context.public.mode)
    try:
        require_complete(policy)
        prove(context, policy, evidence)
    except BadRequest as error:
        note = f"{error.path}: {error.detail}; to be mended before the next document is applied"
    answer = propose(context, policy, base, wanted, narrowing=True)
    if note:
        answer["notes"] = [*cast("list[str]", answer["notes"]), note]
    return answer


def rollback(context: OperationContext, arguments: Members) -> Json:
    """Put the document of an earlier `version` in force again, as a new version; `base` as in `apply`.

    It is read as `apply` would read it now, and its tests are run again.
    """
    version = arguments.integer("version", 1, _MOST_VERSIONS)
    base = _version(arguments, "base")
    arguments.end()
    with context.store.read() as tx:
        text = _row(context, tx, version).text
    return _put_in_force(context, _for_force(context, text), base)


def diff(context: OperationContext, arguments: Members) -> Json:
    """What differs from `old` (a version; the one in force) to `new` (a version) or to the document `text`."""
    old, new = _version(arguments, "old"), _version(arguments, "new")
    text = text_block(arguments, "text", MAX_POLICY) if arguments.has("text") else None
    arguments.end()
    if (text is None) == (new is None):
        raise BadRequest("new", "either a version or a document must be given, and not both")
    with context.store.read() as tx:
        before = _row(context, tx, old)
        after = None if new is None else _row(context, tx, new)
    later = load(text or "") if after is None else load(after.text)
    return {
        "old": before.version,
        "new": None if after is None else after.version,
        **differences(compare(read_policy(before), later, context.public.mode)),
    }


def show(context: OperationContext, arguments: Members) -> Json:
    """The version in force, or `version`, with its text."""
    version = _version(arguments, "version")
    arguments.end()
    with context.store.read() as tx:
        row = _row(context, tx, version)
        schedule = read_schedule(tx.policies, present_time(context), first=row.version)
    record = next(each for each in schedule.records if each.version == row.version)
    return {**summary(schedule, record), "text": row.text}


def unanswered(store: Store, at: datetime) -> str:
    """What the policy in force at `at` leaves open, in one sentence for the operator; empty if nothing.

    Only a document that an earlier release put in force can: this one's `apply` takes none.
    """
    with store.read() as tx:
        row = tx.policies.in_force(at)
    try:
        if row is not None:
            load_complete(row.text)
    except BadRequest as error:
        return f"the policy in force leaves open what it should decide: {error.detail}"
    return ""


def log(context: OperationContext, arguments: Members) -> Json:
    """All versions, oldest first, with what has become of each."""
    arguments.end()
    with context.store.read() as tx:
        schedule = read_schedule(tx.policies, present_time(context), first=1)
    return [summary(schedule, record) for record in schedule.records]


def approve(context: OperationContext, arguments: Members) -> Json:
    """Let `version`, which widens the policy, come in force; another operator than its author must say so."""
    version = arguments.integer("version", 1, _MOST_VERSIONS)
    arguments.end()
    return approve_version(context, version, lambda text: _for_force(context, text))


def withdraw(context: OperationContext, arguments: Members) -> Json:
    """End `version` before it comes in force; any operator may."""
    version = arguments.integer("version", 1, _MOST_VERSIONS)
    arguments.end()
    return withdraw_version(context, version)


OPERATIONS = (
    Operation("policy-apply", apply),
    Operation("policy-rollback", rollback),
    Operation("policy-approve", approve),
    Operation("policy-withdraw", withdraw),
    Operation("policy-show", show),
    Operation("policy-diff", diff),
    Operation("policy-log", log),
)
