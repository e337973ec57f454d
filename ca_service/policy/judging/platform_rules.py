"""What a policy demands of processor and firmware, whatever runs on them.

Sources: AMD 56860, table ATTESTATION_REPORT; the fields are those of go-sev-guest's validate options.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from ca_service.policy.document.bits import PLATFORM_INFO, named
from ca_service.policy.entries.floors import Firmware, Floor, Levels, in_force, meets, shown_levels
from ca_service.policy.entries.launches import PlatformEntry
from ca_service.policy.judging.facts import LaunchFacts
from ca_service.policy.judging.rules import Demand, Look, Seen, listing
from vtpm.wire.report import Report, tcb_components

_KEYS: Final = {0: "VCEK", 1: "VLEK"}
_TOO_OLD: Final = "the firmware of this processor is not recent enough"
_API: Final = 2
"""Numbers of a firmware version that make its API version."""


def _signing_key(entry: PlatformEntry, facts: LaunchFacts) -> Seen:
    key = _KEYS.get(facts.report.signing_key, "none of them")
    return Seen(None if entry.keys is None else listing(entry.keys), key in (entry.keys or ()), key)


def _report_version(entry: PlatformEntry, facts: LaunchFacts) -> Seen:
    version, allowed = facts.report.version, entry.report_versions
    expected = None if allowed is None else listing([str(known) for known in allowed])
    return Seen(expected, version in (allowed or ()), str(version))


def _info(entry: PlatformEntry, facts: LaunchFacts) -> Seen:
    word, demand = facts.report.platform_info, entry.info
    return Seen(
        None if demand is None else str(demand),
        demand is not None and demand.holds(word),
        named(PLATFORM_INFO, word),
    )


def _mitigations(wanted: int | None, vector: int) -> Seen:
    if wanted is None:
        return Seen(None, False, f"{vector:#x}")
    return Seen(f"all bits of {wanted:#x}", vector & wanted == wanted, f"{vector:#x}")


def _launch_mitigations(entry: PlatformEntry, facts: LaunchFacts) -> Seen:
    return _mitigations(entry.launch_mitigations, facts.report.launch_mit_vector)


def _current_mitigations(entry: PlatformEntry, facts: LaunchFacts) -> Seen:
    return _mitigations(entry.current_mitigations, facts.report.current_mit_vector)


def _chip(entry: PlatformEntry, facts: LaunchFacts) -> Seen:
    chip = facts.report.chip_id
    if entry.chips_allowed is not None:
        return Seen(f"one of {len(entry.chips_allowed)} chips", chip in entry.chips_allowed, chip.hex())
    if entry.chips_denied is not None:
        # A platform that masks its chip id could be any chip, the denied ones too.
        told = any(chip)
        expected = f"a chip id, and none of {len(entry.chips_denied)}"
        return Seen(expected, told and chip not in entry.chips_denied, chip.hex())
    return Seen(None, False, chip.hex())


def _provisional(entry: PlatformEntry, facts: LaunchFacts) -> Seen:
    report = facts.report
    committed = (
        report.committed_tcb == report.current_tcb and report.committed_firmware == report.current_firmware
    )
    actual = "committed" if committed else "provisional"
    if entry.provisional_firmware is None:
        return Seen(None, False, actual)
    allowed = entry.provisional_firmware
    return Seen("committed or provisional" if allowed else "committed", allowed or committed, actual)


def _crl_age(entry: PlatformEntry, facts: LaunchFacts) -> Seen:
    issued, days = facts.crl_issued_at, entry.crl_max_age_days
    expected = None if days is None else f"a CRL issued at most {days} days ago"
    if issued is None:
        return Seen(expected, False, "no CRL is known")
    holds = days is not None and facts.at - issued <= timedelta(days=days)
    return Seen(expected, holds, f"issued {issued.isoformat()}")


def present_floor(entry: PlatformEntry, facts: LaunchFacts) -> Floor | None:
    """The floor of the report's product that counts at the time of the decision."""
    if facts.product is None:
        return None
    return in_force(entry.floors.get(facts.product, ()), facts.at)


def _tcb(raw: Callable[[Report], bytes], floor_of: Callable[[Floor], Levels | None]) -> Look[PlatformEntry]:
    """The demand that a TCB_VERSION of the report is at or above the floor in every component."""

    def look(entry: PlatformEntry, facts: LaunchFacts) -> Seen:
        found = raw(facts.report)
        if facts.product is None:
            return Seen(None, False, f"{found.hex()} of an unknown product")
        actual = shown_levels(tcb_components(found, facts.product))
        floor = present_floor(entry, facts)
        levels = None if floor is None else floor_of(floor)
        if levels is None:
            return Seen(None, False, actual)
        return Seen(f"at least {shown_levels(levels)}", meets(found, levels, facts.product), actual)

    return look


def _dotted(firmware: Firmware) -> str:
    return ".".join(str(number) for number in firmware)


def _api(entry: PlatformEntry, facts: LaunchFacts) -> Seen:
    floor, current = present_floor(entry, facts), facts.report.current_firmware
    if floor is None or floor.firmware is None:
        return Seen(None, False, _dotted(current))
    least = floor.firmware[:_API]
    return Seen(f"API at least {_dotted(least)}", current[:_API] >= least, _dotted(current))


def _build(entry: PlatformEntry, facts: LaunchFacts) -> Seen:
    floor, current = present_floor(entry, facts), facts.report.current_firmware
    if floor is None or floor.firmware is None or len(floor.firmware) == _API:
        return Seen(None, False, _dotted(current))
    # Builds are counted anew for each API version, so a later API decides whatever its build.
    return Seen(f"at least {_dotted(floor.firmware)}", current >= floor.firmware, _dotted(current))


PLATFORM_DEMANDS: Final[tuple[Demand[PlatformEntry], ...]] = (
    Demand("platform.signing-key", "reports signed by this kind of key are not admitted", _signing_key),
    Demand("platform.report-version", "reports of this version are not admitted", _report_version),
    Demand("platform.info", "this processor is configured in a way that is not admitted", _info),
    Demand("platform.launch-mitigations", _TOO_OLD, _launch_mitigations),
    Demand("platform.current-mitigations", _TOO_OLD, _current_mitigations),
    Demand("platform.chip", "this processor is not admitted", _chip),
    Demand("platform.provisional-firmware", "the firmware of this processor is not committed", _provisional),
    Demand("platform.crl-age", "it is not known whether this chain has been revoked", _crl_age, timed=True),
    Demand("platform.reported-tcb", _TOO_OLD, _tcb(lambda report: report.reported_tcb, lambda f: f.reported)),
    Demand(
        "platform.committed-tcb", _TOO_OLD, _tcb(lambda report: report.committed_tcb, lambda f: f.committed)
    ),
    Demand("platform.launch-tcb", _TOO_OLD, _tcb(lambda report: report.launch_tcb, lambda f: f.launch)),
    Demand("platform.api", _TOO_OLD, _api),
    Demand("platform.build", _TOO_OLD, _build),
)
"""What an entry of `[[platform]]` demands, in the order in which it is traced."""
