"""TCB floors: the least levels that a processor may report, per product, ordered in time.

An operator announces a floor before it counts: the entry with the new levels has a date in the future, so that hosts
have until then to update. Levels are compared component by component, never as one number: the components of a
TCB_VERSION are independent (AMD 57230).
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from vtpm.wire.report import Product, tcb_components

Levels = Mapping[str, int]
"""Least level of each component of a TCB_VERSION."""

Firmware = tuple[int, ...]
"""Major, minor and, if it matters, build of the SNP firmware."""

_BEFORE_ALL: Final = datetime.min.replace(tzinfo=UTC)
"""Before every date that a document can name."""


@dataclass(frozen=True)
class Floor:
    """The least levels from one moment on; a member that is None says nothing.

    Attributes:
        since: from when on; None: always.
        firmware: of the current firmware.
        reported: of REPORTED_TCB.
        committed: of COMMITTED_TCB.
        launch: of LAUNCH_TCB.
    """

    since: datetime | None
    firmware: Firmware | None = None
    reported: Levels | None = None
    committed: Levels | None = None
    launch: Levels | None = None


def in_force(floors: tuple[Floor, ...], at: datetime) -> Floor | None:
    """The last of the floors that counts at `at`; None if there is none.

    Args:
        floors: in order; only the first has no date, and the dates increase.
        at: aware.
    """
    count = bisect_right(floors, at.timestamp(), key=_start)
    return floors[count - 1] if count else None


def first_day(floor: Floor | None) -> datetime:
    """A moment at which `floor` is in force, and the same for every other one at which it is; None: none is yet."""
    return _BEFORE_ALL if floor is None or floor.since is None else floor.since


def _start(floor: Floor) -> float:
    return float("-inf") if floor.since is None else floor.since.timestamp()


def meets(raw: bytes, floor: Levels, product: Product) -> bool:
    """Whether an 8-byte TCB_VERSION is at or above a floor in every component."""
    levels = tcb_components(raw, product)
    return all(levels[component] >= least for component, least in floor.items())


def lowered(earlier: Floor, later: Floor) -> str:
    """The first member in which `later` asks for less than `earlier`, with its component; empty if none does."""
    pairs = (
        ("reported", earlier.reported, later.reported),
        ("committed", earlier.committed, later.committed),
        ("launch", earlier.launch, later.launch),
    )
    for member, before, after in pairs:
        for component, least in (before or {}).items():
            if after is not None and after.get(component, 0) < least:
                return f"{member}.{component}"
    if earlier.firmware is not None and later.firmware is not None and later.firmware < earlier.firmware:
        return "firmware"
    return ""


def shown_levels(levels: Levels) -> str:
    """Levels for the operator: ``bootloader 4, tee 0, snp 27, microcode 219``."""
    return ", ".join(f"{component} {level}" for component, level in levels.items())
