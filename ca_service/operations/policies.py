"""Policy versions: put one in force, and read them."""

from ca_service.judgment import BadRequest, NotFound
from ca_service.operations.context import Json, Operation, OperationContext, instant, text_block
from ca_service.policy import load_complete
from ca_service.store import PolicyRow, Store
from vtpm.wire.encoding import Members

MAX_POLICY = 4 * 1024 * 1024
"""Longest policy document, in bytes of UTF-8."""


def _summary(row: PolicyRow) -> dict[str, Json]:
    return {
        "version": row.version,
        "digest": row.digest,
        "applied_at": instant(row.applied_at),
        "applied_by": row.applied_by,
    }


def apply(context: OperationContext, arguments: Members) -> Json:
    """Put the document `text` in force as the next version; the same content again changes nothing.

    A document that leaves a constraint open is refused, also if an earlier release took it: what is meant not to matter
    must say so.
    """
    text = text_block(arguments, "text", MAX_POLICY)
    arguments.end()
    policy = load_complete(text)
    if context.public.mode == "production" and policy.unsafe:
        raise BadRequest(
            "unsafe",
            "a production CA takes no policy with Unsafe... entries",
            code="policy-unsafe",
            remedy="Remove the entries, or try them on a simulation CA.",
        )
    with context.store.write() as tx:
        current = tx.policies.in_force()
        if current is not None and current.digest == policy.digest:
            return {**_summary(current), "changed": False}
        row = tx.policies.append(policy.digest, text, context.clock(), context.by)
    return {**_summary(row), "changed": True}


def show(context: OperationContext, arguments: Members) -> Json:
    """The version in force, or `version`, with its text."""
    version = arguments.integer("version", 1, 2**31 - 1) if arguments.has("version") else 0
    arguments.end()
    with context.store.read() as tx:
        row = tx.policies.get(version) if version else tx.policies.in_force()
    if row is None:
        detail = f"there is no policy version {version}" if version else "no policy is in force"
        raise NotFound(detail, remedy="Put one in force with `vtpm-ca policy apply FILE`.")
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


OPERATIONS = (Operation("policy-apply", apply), Operation("policy-show", show), Operation("policy-log", log))
