"""Ways to admit a launch and its processor: an entry that it falls under asks for less, or it gets an entry of its own.

An entry of its own is written after the listed one that comes nearest, and says the same wherever the report allows.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ca_service.policy.allowlist import Policy
from ca_service.policy.launch_rules import LAUNCH_DEMANDS, MEASUREMENT
from ca_service.policy.launches import LaunchEntry, PlatformEntry
from ca_service.policy.platform_rules import PLATFORM_DEMANDS
from ca_service.policy.reading_launch import FLOOR_MEMBERS, LAUNCH_MEMBERS
from ca_service.policy.remedies import easing, floors
from ca_service.policy.remedies.case import Case
from ca_service.policy.remedies.easing import Ease, Table
from ca_service.policy.remedies.edits import Content, Edit, add, found, put, stepped
from ca_service.policy.remedies.options import Option, free_name
from ca_service.policy.selection import PROFILE_CAPABILITIES
from ca_service.policy.unsafe import CAPABILITIES

MOST_MODELS: Final = 64
"""Kinds of entries that are looked at for the one that comes nearest to a launch that is not listed."""

_TRIED_MODELS: Final = 3
_NAME_DIGITS: Final = 12
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


@dataclass(frozen=True)
class Listed:
    """A policy and the content of its document, with what does not count because it was given up.

    Attributes:
        policy: the part of the policy that matters, read.
        content: the same as TOML gives it.
        whole: the content of the whole document.
        out: ids of rules that permissive entries give up.
    """

    policy: Policy
    content: Content
    whole: Content
    out: Container[str]


def launch_options(listed: Listed, case: Case) -> Iterator[Option]:
    """Ways to admit the launch of a decision that refused it, or what its build can do."""
    candidates = listed.policy.launches.candidates(case.launch.report)
    for entry in candidates:
        edits = _in_place(listed, case, entry)
        if edits is not None:
            yield Option(f"launch {entry.name}", edits)
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


def _failing_of(platform: PlatformEntry | None, case: Case, out: Container[str]) -> frozenset[str]:
    if platform is None:
        return frozenset()
    return frozenset(
        demand.id
        for demand in PLATFORM_DEMANDS
        if demand.id not in out and not demand.outcome(platform, case.launch).holds
    )


def _lacking(entry: LaunchEntry, case: Case, out: Container[str]) -> frozenset[str]:
    needed = PROFILE_CAPABILITIES.get(case.facts.profile, frozenset())
    return frozenset() if CAPABILITIES in out else needed - entry.capabilities


def _in_place(listed: Listed, case: Case, entry: LaunchEntry) -> tuple[Edit, ...] | None:
    """What makes an entry take the launch; None if it cannot be seen."""
    table = found(listed.content, ("launch", entry.name))
    edits = [
        _on("launch", entry.name, ease)
        for ease in _launch_eases(table, _failing(entry, case, listed.out), case)
    ]
    lacking = _lacking(entry, case, listed.out)
    if lacking:
        edits.append(_on("launch", entry.name, _capable(table, lacking)))
    failing = _failing(entry, case, listed.out)
    row = _floor_of_product(listed, case, entry.platform) if "launch.product" in failing else None
    if "launch.product" in failing:
        edits.append(_another_product(case, entry.name, table, entry.platform, row))
    if entry.platform is None:
        if "platform.stated" in failing:
            choice = _platform_for(listed, case)
            name = choice.name
            words = f"launch {entry.name} names the platform {name}"
            step = put("launch", entry.name, "platform", value=name)
            edits = [
                *choice.edits,
                *edits,
                Edit(("platform.stated",), (f"launch {entry.name}",), (step,), words),
            ]
    else:
        edits += _platform_edits(listed, case, entry.platform, floor_is_new=row is not None)
    return tuple(edits) or None


def _launch_eases(table: Table, failing: frozenset[str], case: Case) -> Iterator[Ease]:
    for constraint in LAUNCH_MEMBERS:
        if f"launch.{constraint}" not in failing:
            continue
        if constraint == "measurement" and "measurement" in table:
            continue  # it is listed, so VMPL 0 is what is missing; no policy gives that up
        yield easing.eased("launch", constraint, table, case.launch)


def _on(kind: str, name: str, ease: Ease) -> Edit:
    return Edit(
        ease.rules,
        (f"{kind} {name}",),
        tuple(step.under(kind, name) for step in ease.steps),
        f"{kind} {name} {ease.words}",
        ease.warnings,
        ease.width,
    )


def _capable(table: Table, lacking: frozenset[str]) -> Ease:
    names = sorted(lacking)
    step = put("capabilities", value=[*table["capabilities"], *names])
    said = f"gets the capabilities {', '.join(names)}"
    return Ease((CAPABILITIES,), (step,), said, (_REVIEWED,), easing.GIVEN_UP_WIDTH)


def _floor_of_product(listed: Listed, case: Case, platform: PlatformEntry | None) -> dict[str, Any] | None:
    """The floor that a platform must get so that launches of the report's product may refer to it; None: it has one."""
    if platform is None or case.launch.product is None or case.launch.product in platform.floors:
        return None
    table = found(listed.content, ("platform", platform.name))
    return floors.stated(platform.unconstrained, case.launch) if floors.floors_wanted(table) else None


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


def _platform_eases(table: Table, failing: frozenset[str], case: Case) -> Iterator[Ease]:
    of_floors = frozenset(f"platform.{name}" for name in FLOOR_MEMBERS)
    for rule in sorted(failing - of_floors):
        yield easing.eased("platform", rule.partition(".")[2], table, case.launch)
    yield from floors.eased(failing & of_floors, table, case.launch)


def _platform_edits(listed: Listed, case: Case, platform: PlatformEntry, *, floor_is_new: bool) -> list[Edit]:
    """What makes a platform take the report, for all launches that refer to it."""
    failing = _failing_of(platform, case, listed.out)
    if floor_is_new:
        failing -= {f"platform.{name}" for name in FLOOR_MEMBERS}
    table = found(listed.content, ("platform", platform.name))
    others = _users(listed, platform.name) - 1
    edits = []
    for ease in _platform_eases(table, failing, case):
        edit = _on("platform", platform.name, ease)
        if others > 0:
            shared = (
                f"it counts for {others} other launch"
                + ("es" if others > 1 else "")
                + " on this platform too"
            )
            edit = Edit(
                edit.rules,
                edit.entries,
                edit.steps,
                edit.words,
                (*edit.warnings, shared),
                edit.width + others,
            )
        edits.append(edit)
    return edits


def _users(listed: Listed, platform: str) -> int:
    return sum(table.get("platform") == platform for table in listed.whole.get("launch", ()))


@dataclass(frozen=True)
class _Platform:
    """A platform that a new launch can refer to, and what must be done to it first."""

    name: str
    edits: tuple[Edit, ...]
    rules: tuple[str, ...]


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
    of_platform = _failing_of(entry.platform, case, listed.out)
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
    eases = list(_launch_eases(table | {"measurement": ""}, failing, case))
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
    place = _platform_for(listed, case, entry.platform)
    name = _new_name(listed, case)
    table |= {"name": name, "measurement": case.launch.report.measurement.hex(), "platform": place.name}
    said = f"a new launch {name} with this measurement, and all else as {entry.name} has it"
    if len(rules) > 1:
        said += " but for " + ", ".join(rule for rule in rules if rule != MEASUREMENT)
    return _new_launch(table, place, tuple(rules), said, tuple(warnings), width)


def _from_nothing(listed: Listed, case: Case) -> Option:
    """A new launch where no other is listed: all that can be named is asked for."""
    product = case.launch.product
    place, name = _platform_for(listed, case), _new_name(listed, case)
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
    place: _Platform,
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
    return free_name(listed.whole, "launch", f"svsm-{case.launch.report.measurement.hex()[:_NAME_DIGITS]}")


def _platform_for(listed: Listed, case: Case, wanted: PlatformEntry | None = None) -> _Platform:
    """The platform of a new launch: the wanted one, else the listed one that comes nearest, else a new one.

    One that other launches refer to stays as it is for them, so where it must ask for less it gets a copy that does.
    """
    known = [wanted] if wanted is not None else list(listed.policy.platforms.values())
    usable = [platform for platform in known if case.launch.product is not None]
    if not usable:
        return _new_platform(listed, case)
    nearest = min(usable, key=lambda platform: len(_failing_of(platform, case, listed.out)))
    failing = _failing_of(nearest, case, listed.out)
    row = _floor_of_product(listed, case, nearest)
    if row is not None:
        failing -= {f"platform.{name}" for name in FLOOR_MEMBERS}
    if not failing and row is None:
        return _Platform(nearest.name, (), ())
    table = found(listed.content, ("platform", nearest.name))
    steps = [add("tcb", value=dict(row))] if row is not None else []
    eases = list(_platform_eases(table, failing, case))
    for ease in eases:
        steps += ease.steps
    rules = tuple(rule for ease in eases for rule in ease.rules)
    warnings = tuple(dict.fromkeys(text for ease in eases for text in ease.warnings))
    words = "; ".join(ease.words for ease in eases) or "gets a floor for this product"
    width = sum(ease.width for ease in eases) or 1
    if not _users(listed, nearest.name):
        on = tuple(step.under("platform", nearest.name) for step in steps)
        said = f"platform {nearest.name} {words}"
        edit = Edit(rules, (f"platform {nearest.name}",), on, said, warnings, width)
        return _Platform(nearest.name, (edit,), rules)
    digits = case.launch.report.measurement.hex()[:_NAME_DIGITS]
    name = free_name(listed.whole, "platform", f"{nearest.name[:40]}-{digits}")
    copy = dict(stepped(table, steps)) | {"name": name}
    copy.pop("label", None)
    said = f"a new platform {name} for this launch alone, as {nearest.name} but that it {words}"
    edit = Edit(rules, (f"platform {name}",), (add("platform", value=copy),), said, warnings, width)
    return _Platform(name, (edit,), rules)


def _new_platform(listed: Listed, case: Case) -> _Platform:
    name = free_name(listed.whole, "platform", "new-platform")
    table = {"name": name} | easing.stated("platform", case.launch)
    row = floors.stated(frozenset(table["unconstrained"]), case.launch)
    table["tcb"] = [] if row is None else [row]
    said = f"a new platform {name} that asks for exactly what this report says"
    edit = Edit((), (f"platform {name}",), (add("platform", value=table),), said)
    return _Platform(name, (edit,), ())
