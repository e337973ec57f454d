"""What differs between the key brokers of two policies."""

from collections.abc import Iterator, Mapping

from ca_service.policy.allowlist import Policy
from ca_service.policy.changes.effects import Change, Effect, Step, about
from ca_service.policy.changes.orders import (
    Stand,
    allowed,
    changed,
    constraint,
    least,
    most,
    optional,
    worded,
)
from ca_service.policy.entries.brokers import EarDemand, KbsEntry
from ca_service.policy.entries.resources import ANY, Pattern

_TRUSTED = "trusted"


_GRANT_AGE = "the greatest age of its grants, in seconds"


def compare_brokers(old: Policy, new: Policy) -> Iterator[Change]:
    """Differences between key brokers, by id; the general age of grants is none of theirs."""
    before, after = ({entry.id: entry for entry in policy.brokers()} for policy in (old, new))
    for name in sorted(before.keys() | after.keys()):
        first, second = before.get(name), after.get(name)
        yield from about(f"kbs {name}", _entry(first, second))
        if first is not None and second is not None:
            ages = old.grant_max_age, new.grant_max_age
            yield from about(f"kbs {name}", _grant_age(first, second, ages))


def _entry(old: KbsEntry | None, new: KbsEntry | None) -> Iterator[Step]:
    if old is None or new is None:
        if new is not None:
            yield Effect.WIDENS, f"is new, with the status {new.status} and keys {', '.join(new.thumbprints)}"
        else:
            yield Effect.NARROWS, "is no longer listed"
        return
    yield from allowed(frozenset(old.thumbprints), frozenset(new.thumbprints), "its keys")
    yield from _status(old, new)
    yield from optional(old.valid_from, new.valid_from, "the beginning of its validity", least)
    yield from optional(old.valid_to, new.valid_to, "the end of its validity", most)
    yield from _resources(old.resources, new.resources)
    yield from allowed(old.origins, new.origins, "origins of secrets")
    yield from _release_policies(old, new)
    yield from _ear(old.ear, new.ear)
    yield from changed(old.pair, new.pair, "the pair of CAs that signs for its TPMs")
    yield from worded(old.label, new.label, "its label")
    yield from worded(old.tenant, new.tenant, "its tenant")


def _status(old: KbsEntry, new: KbsEntry) -> Iterator[Step]:
    if old.status != new.status:
        effect = Effect.WIDENS if new.status == _TRUSTED else Effect.NARROWS
        yield effect, f"changes its status: {old.status} -> {new.status}"
    # Nobody is admitted by a compromised KBS, whenever that began; the date says what is to be revoked.
    yield from worded(old.compromised_since, new.compromised_since, "since when it is compromised")


def _release_policies(old: KbsEntry, new: KbsEntry) -> Iterator[Step]:
    """Release policies; an entry that gives them up says in words what silence means too."""
    yield from optional(old.release_policies, new.release_policies, "release policies", allowed)
    if (
        old.release_policies is None
        and new.release_policies is None
        and old.unconstrained != new.unconstrained
    ):
        said = "says" if new.unconstrained else "no longer says"
        yield Effect.NEUTRAL, f"{said} that release policies do not matter"


def _grant_age(old: KbsEntry, new: KbsEntry, general: tuple[int | None, int | None]) -> Iterator[Step]:
    """How old grants may be, where an entry states it for itself or no longer does."""
    own = old.grant_max_age, new.grant_max_age
    if own[0] == own[1]:
        return
    counts = [every if each is None else each for each, every in zip(own, general, strict=True)]
    if counts[0] == counts[1]:
        said = f"leaves {_GRANT_AGE}, to [grant]" if own[1] is None else f"states {_GRANT_AGE}, itself"
        yield Effect.NEUTRAL, said
        return
    yield from constraint(Stand(counts[0]), Stand(counts[1]), _GRANT_AGE, most)


def _covers(wide: Pattern, narrow: Pattern) -> bool:
    return all(part in (ANY, asked) for part, asked in zip(wide, narrow, strict=True))


def _resources(old: Mapping[Pattern, bool], new: Mapping[Pattern, bool]) -> Iterator[Step]:
    """Patterns of resources.

    A resource that is shared now and was not, or the other way round, counts as widening in both directions: its
    volumes become instances that nobody has seen before, so nothing that is known of the earlier ones holds them back.
    """
    for pattern in sorted(new.keys() - old.keys()):
        covered = any(_covers(wide, pattern) and new[pattern] == shared for wide, shared in old.items())
        shared = ", shared" if new[pattern] else ""
        yield Effect.NARROWS if covered else Effect.WIDENS, f"adds the resources {'/'.join(pattern)}{shared}"
    for pattern in sorted(old.keys() - new.keys()):
        yield Effect.NARROWS, f"drops the resources {'/'.join(pattern)}"
    for pattern in sorted(old.keys() & new.keys()):
        yield from changed(
            old[pattern], new[pattern], f"whether the resources {'/'.join(pattern)} are shared"
        )


def _ear(old: EarDemand | None, new: EarDemand | None) -> Iterator[Step]:
    if old is None or new is None:
        if new is not None:
            yield Effect.NARROWS, "demands an attestation token"
        elif old is not None:
            yield Effect.WIDENS, "no longer demands an attestation token"
        return
    before, after = (frozenset(key.thumbprint() for key in demand.keys) for demand in (old, new))
    yield from allowed(before, after, "the keys of its attestation tokens")
    yield from most(old.max_age_s, new.max_age_s, "the greatest age of its attestation tokens, in seconds")
