"""Checks of what evidence is judged by: the policy in force, its floors, and AMD's revocation lists."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from ca_service.collateral import trusted_roots
from ca_service.collateral.inspection import newest
from ca_service.collateral.trust import authority_of
from ca_service.judgment import BadRequest
from ca_service.operations.context import instant
from ca_service.operations.health_model import (
    HealthCheck,
    HealthContext,
    Seen,
    Status,
    Threshold,
    Unit,
    graded,
    shown,
)
from ca_service.policy import Policy, load, require_complete
from ca_service.policy.entries.floors import in_force
from vtpm.wire.report import Product

_DAY: Final = 86_400


def _text(context: HealthContext) -> str | None:
    with context.store.read() as tx:
        row = tx.policies.in_force(context.at)
    return None if row is None else row.text


def _in_force(context: HealthContext) -> Policy | None:
    """The policy in force; None for none. Raises BadRequest if this release cannot read it."""
    text = _text(context)
    return None if text is None else load(text)


def _policy(context: HealthContext, _threshold: Threshold | None) -> Iterator[Seen]:
    text = _text(context)
    if text is None:
        yield Seen(Status.CRITICAL, "no policy is in force, so every enrolment is refused")
        return
    try:
        policy = load(text)
    except BadRequest as error:
        yield Seen(Status.CRITICAL, f"the policy in force cannot be used as it is: {error.detail}")
        return
    version = context.gauges.policy_version
    if policy.digest != context.gauges.policy_digest:
        yield Seen(Status.CRITICAL, f"version {version}, which is in force, is not what was applied")
        return
    try:
        require_complete(policy)
        yield Seen(Status.OK, f"version {version} is in force and leaves nothing open")
    except BadRequest as error:
        denies = any(question.denies for question in policy.unstated)
        yield Seen(
            Status.CRITICAL if denies else Status.WARNING,
            f"the policy in force would not be taken again as it is: {error.detail}",
        )
    if policy.unsafe and context.public.mode == "production":
        yield Seen(Status.CRITICAL, "the policy of this production CA has Unsafe... entries")
    for entry in policy.brokers():
        if entry.valid_to is not None and entry.valid_to <= context.at:
            yield Seen(
                Status.WARNING, f"the entry of the KBS {entry.id} has ended, {instant(entry.valid_to)}"
            )


def _versions(context: HealthContext, threshold: Threshold | None) -> Iterator[Seen]:
    for version, since in context.gauges.policies_waiting.items():
        waited = (context.at - since).total_seconds()
        text = f"version {version} has waited {shown(max(0.0, waited), Unit.SECONDS)} for approval"
        yield graded(threshold, waited, text)
    for version, start in context.gauges.policies_scheduled.items():
        yield Seen(
            Status.NOTICE,
            f"version {version} comes in force at {instant(start)}",
            f"If that is not wanted any more: `vtpm-ca policy withdraw {version}`.",
        )
    yield Seen(Status.OK, "no version waits for approval or for its time")


def _floors(context: HealthContext, threshold: Threshold | None) -> Iterator[Seen]:
    policy = _in_force(context)
    if policy is None:
        yield Seen(Status.OK, "there is no policy, so there are no floors")
        return
    for platform in policy.platforms.values():
        for product, floors in platform.floors.items():
            what = f"of {product} on the platform {platform.name}"
            if in_force(floors, context.at) is None:
                yield Seen(Status.WARNING, f"no floor {what} counts yet, so its processors are refused")
            coming = [floor.since for floor in floors if floor.since is not None and floor.since > context.at]
            if coming:
                left = (min(coming) - context.at).total_seconds()
                text = f"the next floor {what} counts in {shown(left, Unit.SECONDS)}, from {instant(min(coming))} on"
                yield graded(threshold, left, text)
    yield Seen(Status.OK, "no floor is about to rise")


def _collateral(context: HealthContext, threshold: Threshold | None) -> Iterator[Seen]:
    held, ages = context.collateral(), _most_ages(_in_force(context))
    roots = trusted_roots(simulated=False)
    for root in roots:
        product = root.product
        crl = newest(held.crls, root)
        if crl is None:
            if any(authority_of(leaf, held, root) is not None for leaf in held.leaves):
                yield Seen(
                    Status.WARNING,
                    f"there is no list of {root.ark.common_name}, and certificates for {product} are there",
                )
            continue
        end = _end(crl.this_update, crl.next_update, None if product is None else ages.get(product))
        if crl.this_update > context.at:
            text = (
                f"the list of {root.ark.common_name} is of {instant(crl.this_update)}, which is yet to come"
            )
            yield Seen(Status.CRITICAL, text)
        elif end is not None:
            left = (end - context.at).total_seconds()
            yield graded(threshold, left, f"the list of {root.ark.common_name} is good until {instant(end)}")
    if context.public.mode == "production" and not held.crls:
        yield Seen(
            Status.WARNING, "the bundle has no revocation list of AMD's, so nothing is known to be revoked"
        )
    yield Seen(Status.OK, "AMD's revocation lists are recent enough, as far as they are needed")


def _most_ages(policy: Policy | None) -> dict[Product, int]:
    """How many days ago the list of a product may have been issued, by the strictest launch that admits it."""
    found: dict[Product, int] = {}
    for launch in [] if policy is None else policy.launches.entries():
        days = None if launch.platform is None else launch.platform.crl_max_age_days
        for name in launch.products if days is not None else ():
            found[Product(name)] = min(days or 0, found.get(Product(name), days or 0))
    return found


def _end(issued: datetime, next_update: datetime | None, days: int | None) -> datetime | None:
    ends = [] if next_update is None else [next_update]
    ends += [] if days is None else [issued + timedelta(days=days)]
    return min(ends, default=None)


CHECKS: Final = (
    HealthCheck(
        "policy",
        "a policy is in force, and leaves nothing open",
        "Put a complete one in force with `vtpm-ca policy apply FILE`.",
        _policy,
    ),
    HealthCheck(
        "policy-versions",
        "versions of the policy that wait for approval, or for their time",
        "Let another operator look at it and `vtpm-ca policy approve` it, or `vtpm-ca policy withdraw` it.",
        _versions,
        Threshold(Unit.SECONDS, _DAY),
    ),
    HealthCheck(
        "tcb-floors",
        "TCB floors that are about to rise, or do not count yet",
        "See that the firmware of all hosts is recent enough by then, or move the date with `vtpm-ca policy apply`.",
        _floors,
        Threshold(Unit.SECONDS, 14 * _DAY, None, falling=True),
    ),
    HealthCheck(
        "collateral",
        "AMD's revocation lists: their end, and the age that the policy admits",
        "Run `vtpm-ca collateral fetch`, for example once a day.",
        _collateral,
        Threshold(Unit.SECONDS, 7 * _DAY, 0, falling=True),
    ),
)
"""In the order in which they are shown."""
