"""Ways to admit a launch and its processor: an entry that it falls under asks for less, or it gets an entry of its own.

An entry of its own is written after the listed one that comes nearest, and says the same wherever the report allows.
"""

from collections.abc import Container, Iterator, Mapping
from typing import Any, Final

from ca_service.policy.allowlist import Policy
from ca_service.policy.entries.launches import LaunchEntry, PlatformEntry
from ca_service.policy.judging.launch_rules import LAUNCH_DEMANDS, MEASUREMENT
from ca_service.policy.judging.selection import PROFILE_CAPABILITIES
from ca_service.policy.judging.unsafe import CAPABILITIES
from ca_service.policy.reading.launches import LAUNCH_MEMBERS
from ca_service.policy.remedies import easing
from ca_service.policy.remedies.case import Case, Listed
from ca_service.policy.remedies.easing import Ease, Table
from ca_service.policy.remedies.edits import Content, Edit, add, found, put, stepped
from ca_service.policy.remedies.options import Option, free_name
from ca_service.policy.remedies.platforms import (
    NAME_DIGITS,
    Place,
    eased_edit,
    failing_of,
    floor_of_product,
    platform_edits,
    platform_for,
)

MOST_MODELS: Final = 64
"""Kinds of entries that are looked at for the one that comes nearest to a launch that is not listed."""

_TRIED_MODELS: Final = 3
_LAUNCH_ORDER: Final = (
    "name",
    "label",
    *LAUNCH_MEMBERS.values(),
    "capabilities",
    "products",
    "platform",
    "unconstrained",
)
_UNKNOWN_BUILD: Final = (
    "the processor vouches for the measurement, and nobody for the build: admit it only if it is one of yours"
)
_REVIEWED: Final = "its capabilities say that somebody has reviewed the build for them"


def launch_options(listed: Listed, case: Case) -> Iterator[Option]:
    """Ways to admit the launch of a decision that refused it, or what its build can do."""
    candidates = listed.policy.launches.candidates(case.launch.report)
    for entry in candidates:
        yield Option(f"launch {entry.name}", _in_place(listed, case, entry))
    if case.launch.report.measurement not in listed.policy.launches.by_measurement:
        yield from _of_its_own(listed, case)


def models(policy: Policy, content: Content) -> list[LaunchEntry]:
    """Entries of which a new one may be written: of each kind the last, the last kinds first."""
    named = {entry.name: entry for entry in policy.launches.entries()}
    kinds: dict[tuple[object, ...], LaunchEntry] = {}
    for table in content.get("launch", ()):
        entry = named[table["name"]]
        kind = _kind(entry)
        kinds.pop(kind, None)
        kinds[kind] = entry
    return list(reversed(kinds.values()))[:MOST_MODELS]


def _kind(entry: LaunchEntry) -> tuple[object, ...]:
    platform = None if entry.platform is None else entry.platform.name
    stated = (entry.id_keys, entry.author_keys, entry.host_data, entry.family_ids, entry.image_ids)
    least = (entry.min_guest_svn, entry.min_abi, str(entry.guest_policy))
    return (*stated, *least, entry.capabilities, entry.products, platform, entry.unconstrained)


def _failing(entry: LaunchEntry, case: Case, out: Container[str]) -> frozenset[str]:
    return frozenset(
        demand.id
        for demand in LAUNCH_DEMANDS
        if demand.id not in out and not demand.outcome(entry, case.launch).holds
    )


def _lacking(entry: LaunchEntry, case: Case, out: Container[str]) -> frozenset[str]:
    needed = PROFILE_CAPABILITIES.get(case.facts.profile, frozenset())
    return frozenset() if CAPABILITIES in out else needed - entry.capabilities


def _in_place(listed: Listed, case: Case, entry: LaunchEntry) -> tuple[Edit, ...]:
    """What makes an entry take the launch."""
    name, table = entry.name, found(listed.content, ("launch", entry.name))
    failing, lacking = _failing(entry, case, listed.out), _lacking(entry, case, listed.out)
    eases = list(_launch_eases(table, failing, case))
    if lacking:
        eases.append(_capable(table, lacking))
    edits = [eased_edit("launch", name, ease) for ease in eases]
    row = None
    if "launch.product" in failing:
        row = floor_of_product(listed, case, entry.platform)
        edits.append(_another_product(case, name, table, entry.platform, row))
    if entry.platform is not None:
        return (*edits, *platform_edits(listed, case, entry.platform, floor_is_new=row is not None))
    if "platform.stated" not in failing:
        return tuple(edits)
    place = platform_for(listed, case)
    step = put("launch", name, "platform", value=place.name)
    words = f"launch {name} names the platform {place.name}"
    return (*edits, *place.edits, Edit(("platform.stated",), (f"launch {name}",), (step,), words))


def _launch_eases(table: Table, failing: frozenset[str], case: Case) -> Iterator[Ease]:
    for constraint in LAUNCH_MEMBERS:
        if f"launch.{constraint}" not in failing:
            continue
        if constraint == "measurement" and "measurement" in table:
            continue  # it is listed, so VMPL 0 is what is missing; no policy gives that up
        yield easing.eased("launch", constraint, table, case.launch)


def _capable(table: Table, lacking: frozenset[str]) -> Ease:
    names = sorted(lacking)
    step = put("capabilities", value=[*table["capabilities"], *names])
    said = f"gets the capabilities {', '.join(names)}"
    return Ease((CAPABILITIES,), (step,), said, (_REVIEWED,), easing.GIVEN_UP_WIDTH)


def _another_product(
    case: Case, name: str, table: Table, platform: PlatformEntry | None, row: Mapping[str, Any] | None
) -> Edit:
    product = case.launch.product
    if product is None:
        # No document can name it; the edit is tried, found to admit nothing, and thrown away.
        return Edit(("launch.product",), (f"launch {name}",), (), f"launch {name} stays as it is")
    steps = [put("launch", name, "products", value=[*table["products"], product.value])]
    entries, words = [f"launch {name}"], f"launch {name} may run on {product.value} as well"
    if row is not None and platform is not None:
        steps.insert(0, add("platform", platform.name, "tcb", value=dict(row)))
        entries.append(f"platform {platform.name}")
        words += f", for which platform {platform.name} gets the levels of this report as its floor"
    return Edit(("launch.product",), tuple(entries), tuple(steps), words)


def _of_its_own(listed: Listed, case: Case) -> Iterator[Option]:
    """New entries for a measurement that none has."""
    nearest = sorted(models(listed.policy, listed.content), key=lambda entry: _distance(entry, listed, case))
    for entry in nearest[:_TRIED_MODELS]:
        yield _after(listed, case, entry)
    if not nearest:
        yield _from_nothing(listed, case)


def _distance(entry: LaunchEntry, listed: Listed, case: Case) -> tuple[int, int, int]:
    """How far a launch is from what an entry says: rules and entries that must change, and what it leaves open."""
    of_launch = _failing(entry, case, listed.out) - {MEASUREMENT, "platform.stated"}
    of_platform = failing_of(entry.platform, case, listed.out)
    lacking = bool(_lacking(entry, case, listed.out)) + (entry.platform is None)
    entries = bool(of_platform) + (entry.platform is None)
    return len(of_launch) + len(of_platform) + lacking, entries, len(entry.unconstrained)


def _after(listed: Listed, case: Case, entry: LaunchEntry) -> Option:
    """A new launch that says what `entry` says, but for its measurement and what the report does not meet."""
    source = found(listed.content, ("launch", entry.name))
    failing = _failing(entry, case, listed.out) - {MEASUREMENT, "platform.stated"}
    table = dict(source)
    table.pop("label", None)
    table["unconstrained"] = [word for word in table.get("unconstrained", ()) if word != "measurement"]
    rules, warnings = [MEASUREMENT], [_UNKNOWN_BUILD, _REVIEWED]
    width = 1 + easing.GIVEN_UP_WIDTH * len(table["unconstrained"])
    eases = list(_launch_eases(table, failing, case))
    lacking = _lacking(entry, case, listed.out)
    if lacking:
        eases.append(_capable(table, lacking))
    for ease in eases:
        table = dict(stepped(table, ease.steps))
        rules += ease.rules
        warnings += ease.warnings
        width += ease.width
    if "launch.product" in failing and case.launch.product is not None:
        table["products"] = [case.launch.product.value]
        rules.append("launch.product")
    place = platform_for(listed, case, entry.platform)
    name = _new_name(listed, case)
    table |= {"name": name, "measurement": case.launch.report.measurement.hex(), "platform": place.name}
    said = f"a new launch {name} with this measurement, and all else as {entry.name} has it"
    if len(rules) > 1:
        said += " but for " + ", ".join(rule for rule in rules if rule != MEASUREMENT)
    return _new_launch(table, place, tuple(rules), said, tuple(warnings), width)


def _from_nothing(listed: Listed, case: Case) -> Option:
    """A new launch where no other is listed: all that can be named is asked for."""
    product = case.launch.product
    place, name = platform_for(listed, case), _new_name(listed, case)
    table = easing.stated("launch", case.launch) | {
        "name": name,
        "capabilities": sorted(PROFILE_CAPABILITIES.get(case.facts.profile, frozenset())),
        "products": [] if product is None else [product.value],
        "platform": place.name,
    }
    said = f"a new launch {name} that asks for exactly what this report says"
    return _new_launch(table, place, (MEASUREMENT,), said, (_UNKNOWN_BUILD, _REVIEWED), 1)


def _new_launch(
    table: Mapping[str, Any],
    place: Place,
    rules: tuple[str, ...],
    said: str,
    warnings: tuple[str, ...],
    width: int,
) -> Option:
    ordered = {member: table[member] for member in _LAUNCH_ORDER if member in table}
    entry = f"launch {table['name']}"
    new = Edit(rules, (entry,), (add("launch", value=ordered),), said, tuple(dict.fromkeys(warnings)), width)
    return Option("a new launch", (*place.edits, new))


def _new_name(listed: Listed, case: Case) -> str:
    return free_name(listed.whole, "launch", f"svsm-{case.launch.report.measurement.hex()[:NAME_DIGITS]}")
