"""When a launch falls below a floor: what the dates of a policy mean for the processors that are in use.

A floor is announced before it counts. Here a report that was accepted is held against the floors of its platform at the
time that is asked about and on each later day on which one begins, as if the VM enrolled then from the same processor,
with the same firmware.
"""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ca_service.policy.allowlist import Policy
from ca_service.policy.entries.brokers import KbsEntry
from ca_service.policy.entries.floors import Floor, Levels
from ca_service.policy.entries.launches import PlatformEntry
from ca_service.policy.judging.checks import rules_out
from ca_service.policy.judging.facts import LaunchFacts
from ca_service.policy.judging.platform_rules import PLATFORM_DEMANDS, present_floor
from ca_service.policy.judging.selection import judged
from vtpm.wire.report import Product, Report, tcb_components

UNSTATED: Final = "the policy states no floor"
"""What a processor needs that a policy says nothing about: it is refused."""


@dataclass(frozen=True)
class Shortfall:
    """One thing in which a processor is below its floor.

    Attributes:
        rule: id of the rule that refuses.
        component: of the TCB_VERSION, or ``firmware``.
        has: what the report says, as people write it.
        needs: what the floor says.
    """

    rule: str
    component: str
    has: str
    needs: str


@dataclass(frozen=True)
class Fall:
    """From when on a report is below a floor.

    Attributes:
        since: the day on which the floor begins; None: it counts already.
        launch: name of the launch entry that the report is judged by then.
        platform: name of its platform.
        shortfalls: everything in which it is below, at least one.
    """

    since: datetime | None
    launch: str
    platform: str
    shortfalls: tuple[Shortfall, ...]


_TCBS: Final[dict[str, tuple[Callable[[Report], bytes], Callable[[Floor], Levels | None]]]] = {
    "platform.reported-tcb": (lambda report: report.reported_tcb, lambda floor: floor.reported),
    "platform.committed-tcb": (lambda report: report.committed_tcb, lambda floor: floor.committed),
    "platform.launch-tcb": (lambda report: report.launch_tcb, lambda floor: floor.launch),
}

_API: Final = 2
"""Numbers of a firmware version that make its API version."""

_FIRMWARE: Final = frozenset({"platform.api", "platform.build"})

FLOOR_RULES: Final = frozenset({*_TCBS, *_FIRMWARE})
"""Ids of the rules that compare with a floor."""

_DEMANDS: Final = tuple(demand for demand in PLATFORM_DEMANDS if demand.id in FLOOR_RULES)


def is_listed(policy: Policy, report: Report) -> bool:
    """Whether a report falls under any launch entry of a policy; who does not is refused whatever the floors say."""
    return bool(policy.launches.candidates(report))


def fall(policy: Policy, mode: str, report: Report, product: Product | None, at: datetime) -> Fall | None:
    """When a launch falls below a floor, from `at` on; None if it does not by any date that the policy names.

    None too for a report that is not listed, see `is_listed`.

    Args:
        policy: whose floors are meant. They only rise: who is below one of them stays so.
        mode: as for `launch_checks`.
        report: what the processor says of itself.
        product: of the processor; None if it is none that is known.
        at: aware.
    """
    out = rules_out(policy, mode)
    for moment in (at, *_days(policy, report, product, at)):
        # A VM that enrolled then would bring a fresh list.
        facts = LaunchFacts(report, product, simulated=False, crl_issued_at=moment, at=moment)
        entry = judged(policy, facts, out)
        if entry is None:
            return None
        found = _shortfalls(entry.platform, facts, out)
        if found:
            platform = "" if entry.platform is None else entry.platform.name
            return Fall(None if moment == at else moment, entry.name, platform, found)
    return None


def _days(policy: Policy, report: Report, product: Product | None, at: datetime) -> list[datetime]:
    """The later days on which a floor begins that the report may be held against."""
    if product is None:
        return []
    platforms = (entry.platform for entry in policy.launches.candidates(report))
    floors = (floor for entry in platforms if entry is not None for floor in entry.floors.get(product, ()))
    return sorted({floor.since for floor in floors if floor.since is not None and floor.since > at})


def _shortfalls(
    platform: PlatformEntry | None, facts: LaunchFacts, out: Container[str]
) -> tuple[Shortfall, ...]:
    floor = None if platform is None else present_floor(platform, facts)
    failed = (d.id for d in _DEMANDS if d.id not in out and not d.outcome(platform, facts).holds)
    found = [shortfall for rule in failed for shortfall in _of_rule(rule, floor, facts)]
    # A build is looked at with its API version: who is below in both is told once.
    return tuple({(s.rule in _FIRMWARE or s.rule, s.component): s for s in found}.values())


def _of_rule(rule: str, floor: Floor | None, facts: LaunchFacts) -> Iterator[Shortfall]:
    report, product = facts.report, facts.product
    if rule in _FIRMWARE:
        needs = None if floor is None else floor.firmware
        if needs is None or (rule == "platform.build" and len(needs) == _API):
            yield Shortfall(rule, "firmware", _dotted(report.current_firmware), UNSTATED)
        else:
            needed = needs[:_API] if rule == "platform.api" else needs
            yield Shortfall(rule, "firmware", _dotted(report.current_firmware), _dotted(needed))
        return
    raw, levels_of = _TCBS[rule]
    levels = None if floor is None else levels_of(floor)
    if product is None or levels is None:
        yield Shortfall(rule, "tcb", raw(report).hex(), UNSTATED)
        return
    has = tcb_components(raw(report), product)
    for component, least in levels.items():
        if has[component] < least:
            yield Shortfall(rule, component, str(has[component]), str(least))


def _dotted(firmware: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in firmware)


def endings(policy: Policy, since: datetime, until: datetime) -> list[KbsEntry]:
    """The trusted key brokers whose entries end after `since` and not after `until`, the first to end first."""
    entries = {entry.id: entry for entry in policy.kbs.values() if entry.status == "trusted"}
    ends = [
        (entry.valid_to, name)
        for name, entry in entries.items()
        if entry.valid_to is not None and since < entry.valid_to <= until
    ]
    return [entries[name] for _, name in sorted(ends)]
