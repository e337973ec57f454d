"""What differs between the key brokers of two policies."""

from collections.abc import Iterator, Mapping

from ca_service.policy.brokers import EarDemand, KbsEntry
from ca_service.policy.changes.effects import Change, Effect, Step, about
from ca_service.policy.changes.orders import allowed, changed, least, most, optional, worded
from ca_service.policy.resources import ANY, Pattern

_TRUSTED = "trusted"


def compare_brokers(old: Mapping[str, KbsEntry], new: Mapping[str, KbsEntry]) -> Iterator[Change]:
    """Differences between key brokers, by id.

    Args:
        old: the earlier entries, by thumbprint of each of their keys.
        new: the later ones.
    """
    before = {entry.id: entry for entry in old.values()}
    after = {entry.id: entry for entry in new.values()}
    for name in sorted(before.keys() | after.keys()):
        yield from about(f"kbs {name}", _entry(before.get(name), after.get(name)))


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
    yield from optional(old.release_policies, new.release_policies, "release policies", allowed)
    yield from _ear(old.ear, new.ear)
    yield from changed(old.pair, new.pair, "the pair of CAs that signs for its TPMs")
    yield from worded(old.label, new.label, "its label")


def _status(old: KbsEntry, new: KbsEntry) -> Iterator[Step]:
    if old.status != new.status:
        effect = Effect.WIDENS if new.status == _TRUSTED else Effect.NARROWS
        yield effect, f"changes its status: {old.status} -> {new.status}"
    # Nobody is admitted by a compromised KBS, whenever that began; the date says what is to be revoked.
    yield from worded(old.compromised_since, new.compromised_since, "since when it is compromised")


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
