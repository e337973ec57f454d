"""What makes a platform take a report, and the platform that a new launch can refer to."""

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from ca_service.policy.entries.launches import PlatformEntry
from ca_service.policy.judging.platform_rules import PLATFORM_DEMANDS
from ca_service.policy.reading.launches import FLOOR_MEMBERS
from ca_service.policy.remedies import easing, floors
from ca_service.policy.remedies.case import Case, Listed
from ca_service.policy.remedies.easing import Ease, Table
from ca_service.policy.remedies.edits import Edit, add, found, stepped
from ca_service.policy.remedies.options import free_name

NAME_DIGITS: Final = 12
"""Digits of a measurement in the name of a new entry."""

_OF_FLOORS: Final = frozenset(f"platform.{name}" for name in FLOOR_MEMBERS)
_MOST_NAME: Final = 40


def failing_of(platform: PlatformEntry | None, case: Case, out: Container[str]) -> frozenset[str]:
    """The rules by which a platform refuses the report; none without a platform."""
    if platform is None:
        return frozenset()
    return frozenset(
        demand.id
        for demand in PLATFORM_DEMANDS
        if demand.id not in out and not demand.outcome(platform, case.launch).holds
    )


def eased_edit(kind: str, name: str, ease: Ease) -> Edit:
    """An ease of an entry as an edit of the document."""
    return Edit(
        ease.rules,
        (f"{kind} {name}",),
        tuple(step.under(kind, name) for step in ease.steps),
        f"{kind} {name} {ease.words}",
        ease.warnings,
        ease.width,
    )


def floor_of_product(listed: Listed, case: Case, platform: PlatformEntry | None) -> dict[str, Any] | None:
    """The floor that a platform must get so that launches of the report's product may refer to it; None: it has one."""
    if platform is None or case.launch.product is None or case.launch.product in platform.floors:
        return None
    table = found(listed.content, ("platform", platform.name))
    return floors.stated(platform.unconstrained, case.launch) if floors.floors_wanted(table) else None


def platform_edits(listed: Listed, case: Case, platform: PlatformEntry, *, floor_is_new: bool) -> list[Edit]:
    """What makes a platform take the report, for all launches that refer to it.

    Args:
        listed: the policy.
        case: the decision's facts.
        platform: as it stands.
        floor_is_new: whether another edit gives it a floor of the report's product.
    """
    failing = failing_of(platform, case, listed.out) - (_OF_FLOORS if floor_is_new else frozenset())
    others, edits = _users(listed, platform.name) - 1, []
    for ease in _eases(found(listed.content, ("platform", platform.name)), failing, case):
        edit = eased_edit("platform", platform.name, ease)
        if others > 0:
            count = "1 other launch" if others == 1 else f"{others} other launches"
            warnings = (*edit.warnings, f"it counts for {count} on this platform too")
            edit = replace(edit, warnings=warnings, width=edit.width + others)
        edits.append(edit)
    return edits


def _eases(table: Table, failing: frozenset[str], case: Case) -> Iterator[Ease]:
    for rule in sorted(failing - _OF_FLOORS):
        yield easing.eased("platform", rule.partition(".")[2], table, case.launch)
    yield from floors.eased(failing & _OF_FLOORS, table, case.launch)


def _users(listed: Listed, platform: str) -> int:
    return sum(table.get("platform") == platform for table in listed.whole.get("launch", ()))


@dataclass(frozen=True)
class Place:
    """A platform that a new launch can refer to, and what must be done to the document first."""

    name: str
    edits: tuple[Edit, ...] = ()


def platform_for(listed: Listed, case: Case, wanted: PlatformEntry | None = None) -> Place:
    """The platform of a new launch: the wanted one, else the listed one that comes nearest, else a new one.

    One that other launches refer to stays as it is for them, so where it must ask for less it gets a copy that does.
    """
    known = [wanted] if wanted is not None else list(listed.policy.platforms.values())
    if not known or case.launch.product is None:
        return _new(listed, case)
    nearest = min(known, key=lambda platform: len(failing_of(platform, case, listed.out)))
    row = floor_of_product(listed, case, nearest)
    failing = failing_of(nearest, case, listed.out) - (frozenset() if row is None else _OF_FLOORS)
    if not failing and row is None:
        return Place(nearest.name)
    table = found(listed.content, ("platform", nearest.name))
    eases = list(_eases(table, failing, case))
    if row is not None:
        eases.insert(0, Ease((), (add("tcb", value=row),), "gets the levels of this report as a floor"))
    return _eased(listed, case, nearest.name, table, eases)


def _eased(listed: Listed, case: Case, name: str, table: Table, eases: list[Ease]) -> Place:
    """The platform with less to ask for, or a copy of it if others rely on it."""
    rules = tuple(rule for ease in eases for rule in ease.rules)
    steps = tuple(step for ease in eases for step in ease.steps)
    warnings = tuple(dict.fromkeys(text for ease in eases for text in ease.warnings))
    words, width = "; ".join(ease.words for ease in eases), sum(ease.width for ease in eases)
    if not _users(listed, name):
        return Place(name, (eased_edit("platform", name, Ease(rules, steps, words, warnings, width)),))
    digits = case.launch.report.measurement.hex()[:NAME_DIGITS]
    new = free_name(listed.whole, "platform", f"{name[:_MOST_NAME]}-{digits}")
    copy = {**stepped(table, steps), "name": new}
    copy.pop("label", None)
    said = f"a new platform {new} for this launch alone, as {name} but that it {words}"
    step = add("platform", value=copy)
    return Place(new, (Edit(rules, (f"platform {new}",), (step,), said, warnings, width),))


def _new(listed: Listed, case: Case) -> Place:
    name = free_name(listed.whole, "platform", "new-platform")
    table = {"name": name} | easing.stated("platform", case.launch)
    row = floors.stated(frozenset(table["unconstrained"]), case.launch)
    table["tcb"] = [] if row is None else [row]
    said = f"a new platform {name} that asks for exactly what this report says"
    return Place(name, (Edit((), (f"platform {name}",), (add("platform", value=table),), said),))
