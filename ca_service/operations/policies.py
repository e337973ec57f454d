"""Policy versions: put one in force, and read them."""

from ca_service.judgment import BadRequest, Conflict, NotFound
from ca_service.operations.context import Json, Operation, OperationContext, instant, text_block
from ca_service.policy import Policy, load, load_complete
from ca_service.policy.changes import Comparison, compare
from ca_service.store import PolicyRow, Store, Transaction
from vtpm.wire.encoding import Members

MAX_POLICY = 16 * 1024 * 1024
"""Longest policy document, in bytes of UTF-8."""

_MOST_VERSIONS = 2**31 - 1


def _summary(row: PolicyRow) -> dict[str, Json]:
    return {
        "version": row.version,
        "digest": row.digest,
        "applied_at": instant(row.applied_at),
        "applied_by": row.applied_by,
    }


def _version(members: Members, name: str) -> int | None:
    return members.integer(name, 1, _MOST_VERSIONS) if members.has(name) else None


def _row(tx: Transaction, version: int | None) -> PolicyRow:
    """One version; the one in force if None is named."""
    row = tx.policies.in_force() if version is None else tx.policies.get(version)
    if row is None:
        detail = "no policy is in force" if version is None else f"there is no policy version {version}"
        raise NotFound(detail, remedy="Put one in force with `vtpm-ca policy apply FILE`.")
    return row


def _for_force(context: OperationContext, text: str) -> Policy:
    """A document that may be put in force here."""
    policy = load_complete(text)
    if context.public.mode == "production" and policy.unsafe:
        raise BadRequest(
            "unsafe",
            "a production CA takes no policy with Unsafe... entries",
            code="policy-unsafe",
            remedy="Remove the entries, or try them on a simulation CA.",
        )
    return policy


def _compared(found: Comparison) -> dict[str, Json]:
    changes = [
        {"effect": change.effect, "subject": change.subject, "text": change.text} for change in found.changes
    ]
    return {"effect": found.effect, "changes": changes}


def _put_in_force(context: OperationContext, policy: Policy, base: int | None) -> Json:
    """Append a version, unless the present one means the same; say what it changes.

    Raises:
        Conflict: another version than `base` is in force.
    """
    with context.store.write() as tx:
        current = tx.policies.in_force()
        present = 0 if current is None else current.version
        if base is not None and base != present:
            raise Conflict(
                f"policy version {present} is in force, not {base}",
                code="policy-base",
                remedy="Look at what has changed meanwhile with `vtpm-ca policy diff`, then apply to that version.",
            )
        if current is not None and current.digest == policy.digest:
            return {**_summary(current), "changed": False}
        row = tx.policies.append(policy.digest, policy.text, context.clock(), context.by)
    return {
        **_summary(row),
        "changed": True,
        **_compared(compare(_read(current), policy, context.public.mode)),
    }


def _read(row: PolicyRow | None) -> Policy | None:
    """A version as it judges; None for one that cannot be read any more, which admits nothing."""
    try:
        return None if row is None else load(row.text)
    except BadRequest:
        return None


def apply(context: OperationContext, arguments: Members) -> Json:
    """Put the document `text` in force as the next version; the same content again changes nothing.

    With `base` only if that version is in force still, 0 if there is none. A document that leaves a constraint open is
    refused, also if an earlier release took it: what is meant not to matter must say so.
    """
    text = text_block(arguments, "text", MAX_POLICY)
    base = arguments.integer("base", 0, _MOST_VERSIONS) if arguments.has("base") else None
    arguments.end()
    return _put_in_force(context, _for_force(context, text), base)


def rollback(context: OperationContext, arguments: Members) -> Json:
    """Put the document of an earlier `version` in force again, as a new version; `base` as in `apply`.

    It is read as `apply` would read it now.
    """
    version = arguments.integer("version", 1, _MOST_VERSIONS)
    base = _version(arguments, "base")
    arguments.end()
    with context.store.read() as tx:
        text = _row(tx, version).text
    return _put_in_force(context, _for_force(context, text), base)


def diff(context: OperationContext, arguments: Members) -> Json:
    """What differs from `old` (a version; the one in force) to `new` (a version) or to the document `text`."""
    old, new = _version(arguments, "old"), _version(arguments, "new")
    text = text_block(arguments, "text", MAX_POLICY) if arguments.has("text") else None
    arguments.end()
    if (text is None) == (new is None):
        raise BadRequest("new", "either a version or a document must be given, and not both")
    with context.store.read() as tx:
        before = _row(tx, old)
        after = None if new is None else _row(tx, new)
    later = load(text or "") if after is None else load(after.text)
    return {
        "old": before.version,
        "new": None if after is None else after.version,
        **_compared(compare(_read(before), later, context.public.mode)),
    }


def show(context: OperationContext, arguments: Members) -> Json:
    """The version in force, or `version`, with its text."""
    version = _version(arguments, "version")
    arguments.end()
    with context.store.read() as tx:
        row = _row(tx, version)
    return {**_summary(row), "text": row.text}


def unanswered(store: Store) -> str:
    """What the policy in force leaves open, in one sentence for the operator; empty if nothing.

    Only a document that an earlier release put in force can: this one's `apply` takes none.
    """
    with store.read() as tx:
        row = tx.policies.in_force()
    try:
        if row is not None:
            load_complete(row.text)
    except BadRequest as error:
        return f"the policy in force leaves open what it should decide: {error.detail}"
    return ""


def log(context: OperationContext, arguments: Members) -> Json:
    """All versions, oldest first."""
    arguments.end()
    with context.store.read() as tx:
        return [_summary(row) for row in tx.policies.all()]


OPERATIONS = (
    Operation("policy-apply", apply),
    Operation("policy-rollback", rollback),
    Operation("policy-show", show),
    Operation("policy-diff", diff),
    Operation("policy-log", log),
)
