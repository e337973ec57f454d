"""A policy as of one moment: what it says of other times is left out.

Old evidence that is judged anew raises two questions about time. What ages is judged at the time of the evidence: a
grant or a revocation list of last month was fresh then, and a TPM that enrolled today would bring a fresh one. What the
operator has dated is judged at the time that is asked about: from its day on a floor counts for everybody, and a key
broker's entry ends for everybody. So the dates are resolved in the policy, and the evidence stays as it came.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from ca_service.policy.allowlist import Policy
from ca_service.policy.entries.brokers import KbsEntry
from ca_service.policy.entries.floors import in_force
from ca_service.policy.entries.launches import LaunchEntry, LaunchIndex, PlatformEntry

_OVER: Final = datetime.min.replace(tzinfo=UTC)
"""End of an entry that does not count: before every decision."""


def as_of(policy: Policy, at: datetime) -> Policy:
    """The policy with the dates of floors and key brokers resolved at `at`.

    Whenever the result is asked, floors and key brokers count as those of `policy` do at `at`. The greatest ages of
    grants, tokens and revocation lists are untouched. It is for judging, not for showing: `digest` and `text` are those
    of `policy`.

    Args:
        policy: any policy.
        at: aware.
    """
    platforms = {name: _platform(entry, at) for name, entry in policy.platforms.items()}
    brokers = {entry.id: _broker(entry, at) for entry in policy.kbs.values()}
    return replace(
        policy,
        kbs={thumbprint: brokers[entry.id] for thumbprint, entry in policy.kbs.items()},
        platforms=platforms,
        launches=_launches(policy.launches, platforms),
    )


def _broker(entry: KbsEntry, at: datetime) -> KbsEntry:
    if (entry.valid_from is None or entry.valid_from <= at) and (
        entry.valid_to is None or at < entry.valid_to
    ):
        return replace(entry, valid_from=None, valid_to=None)
    return replace(entry, valid_from=None, valid_to=_OVER)


def _platform(entry: PlatformEntry, at: datetime) -> PlatformEntry:
    floors = {}
    for product, dated in entry.floors.items():
        floor = in_force(dated, at)
        floors[product] = () if floor is None else (replace(floor, since=None),)
    return replace(entry, floors=floors)


def _launches(index: LaunchIndex, platforms: dict[str, PlatformEntry]) -> LaunchIndex:
    made: dict[str, LaunchEntry] = {}

    def moved(entry: LaunchEntry) -> LaunchEntry:
        if entry.name not in made:
            platform = None if entry.platform is None else platforms[entry.platform.name]
            made[entry.name] = replace(entry, platform=platform)
        return made[entry.name]

    return LaunchIndex(
        by_measurement={key: tuple(map(moved, entries)) for key, entries in index.by_measurement.items()},
        by_id_key={key: moved(entry) for key, entry in index.by_id_key.items()},
        by_author_key={key: moved(entry) for key, entry in index.by_author_key.items()},
    )
