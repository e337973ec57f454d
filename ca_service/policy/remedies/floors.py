"""Lower floors: exactly the levels that a report misses, in the floor that counted.

Earlier floors of the product follow as far as they must, because a later one may ask for nothing less than they.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from ca_service.policy.judging.facts import LaunchFacts
from ca_service.policy.reading.launches import FLOOR_MEMBERS
from ca_service.policy.remedies.easing import Ease, Table
from ca_service.policy.remedies.edits import Step, put
from vtpm.wire.report import Report, tcb_components

_RAW: Final[Mapping[str, Callable[[Report], bytes]]] = MappingProxyType(
    {
        "reported": lambda report: report.reported_tcb,
        "committed": lambda report: report.committed_tcb,
        "launch": lambda report: report.launch_tcb,
    }
)
_OLD_FIRMWARE: Final = "firmware is admitted whose holes may be known by now"
_BUILD: Final = 3


def eased(rules: frozenset[str], table: Table, facts: LaunchFacts) -> Iterator[Ease]:
    """The narrowest changes by which the floors of a platform take a report.

    Args:
        rules: those about floors that refuse it.
        table: the platform as it stands; it has a floor of the report's product.
        facts: what the report says.
    """
    rows = _rows(table, facts)
    if not rows:
        return
    present = max((n for n, row in enumerate(rows) if _started(row[1], facts.at)), default=0)
    for member in _RAW:
        rule = f"platform.{member}-tcb"
        if rule in rules:
            yield _levels(rule, member, rows[: present + 1], facts)
    by_firmware = tuple(rule for rule in ("platform.api", "platform.build") if rule in rules)
    if by_firmware:
        yield _firmware(by_firmware, rows[: present + 1], facts)


def stated(unconstrained: frozenset[str], facts: LaunchFacts) -> dict[str, Any] | None:
    """A floor that a report just reaches, for its product; None if that is not known.

    Args:
        unconstrained: what the platform gives up, so that a floor must not state it.
        facts: what the report says.
    """
    if facts.product is None:
        return None
    row: dict[str, Any] = {"product": facts.product.value}
    current = facts.report.current_firmware
    if not {"api", "build"} <= unconstrained:
        row["firmware"] = _dotted(current[:2] if "build" in unconstrained else current)
    for member, raw in _RAW.items():
        if f"{member}-tcb" not in unconstrained:
            row[member] = tcb_components(raw(facts.report), facts.product)
    return row


def floors_wanted(table: Table) -> bool:
    """Whether a platform must have a floor for each product that runs on it."""
    return not set(FLOOR_MEMBERS) <= set(table.get("unconstrained", ()))


def _rows(table: Table, facts: LaunchFacts) -> list[tuple[int, Table]]:
    return [(k, row) for k, row in enumerate(table.get("tcb", ())) if row["product"] == facts.product]


def _started(row: Table, at: datetime) -> bool:
    since = row.get("from")
    return since is None or since <= at


def _levels(rule: str, member: str, rows: list[tuple[int, Table]], facts: LaunchFacts) -> Ease:
    if facts.product is None:
        raise ValueError("there are no levels without a product")
    actual = tcb_components(_RAW[member](facts.report), facts.product)
    (_, row), present = rows[-1], rows[-1][1].get(member)
    if present is None:
        return Ease((rule,), (_put(rows[-1], member, actual),), f"states the floor {member}, which was open")
    lower = {name: min(least, actual[name]) for name, least in present.items()}
    missed = [f"{name} {least} -> {lower[name]}" for name, least in present.items() if lower[name] < least]
    steps = [_put(rows[-1], member, lower)]
    for earlier in rows[:-1]:
        levels = earlier[1].get(member)
        allowed = {name: min(least, lower[name]) for name, least in (levels or {}).items()}
        if levels is not None and allowed != levels:
            steps.append(_put(earlier, member, allowed))
    said = f"lowers the {member} TCB of {facts.product}, {_since(row)}: {', '.join(missed)}"
    return Ease((rule,), tuple(steps), said, (_OLD_FIRMWARE,), len(missed) + len(steps) - 1)


def _firmware(rules: tuple[str, ...], rows: list[tuple[int, Table]], facts: LaunchFacts) -> Ease:
    current, row = facts.report.current_firmware, rows[-1][1]
    present = row.get("firmware")
    if present is None:
        return Ease(
            rules, (_put(rows[-1], "firmware", _dotted(current)),), "states the firmware, which was open"
        )
    least = tuple(int(part) for part in present.split("."))
    # Where only the build is open, 0 is the least that can be named.
    new = tuple(current[: len(least)]) if current < least else (*least, 0)[:_BUILD]
    steps = [_put(rows[-1], "firmware", _dotted(new))]
    for earlier in rows[:-1]:
        before = earlier[1].get("firmware")
        if before is not None and tuple(int(part) for part in before.split(".")) > new:
            steps.append(_put(earlier, "firmware", _dotted(new)))
    said = f"firmware of {facts.product}, {_since(row)}: {present} -> {_dotted(new)}"
    return Ease(rules, tuple(steps), said, (_OLD_FIRMWARE,), len(steps))


def _put(row: tuple[int, Table], member: str, value: Any) -> Step:
    return put("tcb", row[0], member, value=value)


def _since(row: Table) -> str:
    since = row.get("from")
    return "which counts from the beginning" if since is None else f"which counts since {since.isoformat()}"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
