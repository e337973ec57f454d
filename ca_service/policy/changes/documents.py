"""What differs between two policies as a whole."""

from collections.abc import Iterator
from dataclasses import dataclass

from ca_service.policy.allowlist import Policy
from ca_service.policy.changes.approval import compare_approval
from ca_service.policy.changes.brokers import compare_brokers
from ca_service.policy.changes.effects import Change, Effect, Step, about
from ca_service.policy.changes.instances import admitted_unlisted
from ca_service.policy.changes.launches import compare_launches, compare_platforms
from ca_service.policy.changes.orders import (
    Stand,
    allowed,
    changed,
    constraint,
    least,
    most,
    optional,
    permission,
)
from ca_service.policy.changes.tests import compare_tests
from ca_service.policy.entries.terms import USUAL_ENROLMENTS, USUAL_REFUSALS, USUAL_WINDOW_S
from ca_service.policy.judging.checks import SIMULATION
from vtpm.wire.templates import Role


@dataclass(frozen=True)
class Comparison:
    """How a later policy differs from an earlier one.

    Attributes:
        changes: each difference; none if both mean the same.
    """

    changes: tuple[Change, ...]

    @property
    def effect(self) -> Effect:
        """WIDENS if any of them does; else NARROWS if any does; else NEUTRAL."""
        effects = {change.effect for change in self.changes}
        return next(
            (effect for effect in (Effect.WIDENS, Effect.NARROWS) if effect in effects), Effect.NEUTRAL
        )


def compare(old: Policy | None, new: Policy, mode: str) -> Comparison:
    """How `new` differs from `old`.

    Args:
        old: the earlier policy; None if there is none that can be read, so that everything has been refused.
        new: the later one.
        mode: of the CA. One in mode "production" refuses everything under a policy with Unsafe... entries.

    Returns:
        If its effect is not `Effect.WIDENS`, `new` admits nothing at any time that `old` refuses.
    """
    if old is None:
        return Comparison((Change("policy", "admits where nothing was admitted before", Effect.WIDENS),))
    return Comparison(tuple(_changes(old, new, mode)))


def _changes(old: Policy, new: Policy, mode: str) -> Iterator[Change]:
    if mode != SIMULATION and old.unsafe and not new.unsafe:
        text = "has no Unsafe... entries any more, because of which everything was refused"
        yield Change("policy", text, Effect.WIDENS)
    yield from about("approval", compare_approval(old.approval, new.approval, mode))
    yield from about("unsafe", _unsafe(old, new))
    yield from admitted_unlisted(compare_brokers(old, new), new.unsafe)
    yield from compare_launches(old.launches, new.launches)
    yield from compare_platforms(old.platforms, new.platforms)
    yield from about("grant", _grant(old, new))
    yield from about("store", allowed(old.store_formats, new.store_formats, "the formats"))
    yield from about("tpm", _tpm(old, new))
    yield from about("ephemeral", _ephemeral(old, new))
    yield from compare_tests(old.tests, new.tests)
    yield from about("certificates", _certificates(old, new))
    yield from about("limits", _limits(old, new))


def _unsafe(old: Policy, new: Policy) -> Iterator[Step]:
    yield from allowed(old.unsafe.keys(), new.unsafe.keys(), "the permissive entries")
    for name in sorted(old.unsafe.keys() & new.unsafe.keys()):
        if old.unsafe[name] != new.unsafe[name]:
            yield Effect.NEUTRAL, f"says in other words what {name} gives up"


def _grant(old: Policy, new: Policy) -> Iterator[Step]:
    before, after = Stand(old.grant_max_age), Stand(new.grant_max_age)
    yield from constraint(before, after, "the greatest age of a grant, in seconds", most)


def _tpm(old: Policy, new: Policy) -> Iterator[Step]:
    for role in Role:
        before, after = (policy.templates.get(role, frozenset()) for policy in (old, new))
        yield from allowed(before, after, f"the templates of {role.value}")
    yield from changed(old.iak_profile, new.iak_profile, "the profile of IAK certificates")


def _ephemeral(old: Policy, new: Policy) -> Iterator[Step]:
    before, after = old.ephemeral, new.ephemeral
    yield from allowed(before.profiles, after.profiles, "the evidence profiles")
    yield from permission(before.volatile_stores, after.volatile_stores, "volatile stores")
    yield from most(before.days, after.days, "the life of ephemeral certificates, in days")


def _certificates(old: Policy, new: Policy) -> Iterator[Step]:
    """A role without a number is as one with a number that is too large: the CA's own limit is what counts."""
    for role in Role:
        before, after = (policy.certificate_days.get(role) for policy in (old, new))
        yield from optional(before, after, f"the life of {role.value} certificates, in days", most)


def _limits(old: Policy, new: Policy) -> Iterator[Step]:
    before, after = old.limits, new.limits
    yield from most(
        before.instance_enrolments or USUAL_ENROLMENTS,
        after.instance_enrolments or USUAL_ENROLMENTS,
        "how many enrolments of an instance are admitted within the window",
    )
    yield from least(
        before.instance_window_s or USUAL_WINDOW_S,
        after.instance_window_s or USUAL_WINDOW_S,
        "the window, in seconds",
    )
    yield from most(
        before.launch_refusals_per_hour or USUAL_REFUSALS,
        after.launch_refusals_per_hour or USUAL_REFUSALS,
        "how many refusals of a launch are kept per hour",
    )
