"""What differs between the launches and the platforms of two policies."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ca_service.policy.changes.effects import Change, Effect, Step, about
from ca_service.policy.changes.floors import compare_floors
from ca_service.policy.changes.orders import (
    Order,
    Stand,
    allowed,
    bits,
    constraint,
    denied,
    least,
    mask,
    most,
    permission,
    worded,
)
from ca_service.policy.entries.launches import LaunchEntry, LaunchIndex, PlatformEntry


@dataclass(frozen=True)
class _Chips:
    """The only chips that may, or those that may not; the other member is None."""

    admitted: frozenset[bytes] | None
    refused: frozenset[bytes] | None

    def __str__(self) -> str:
        if self.admitted is not None:
            return f"one of {len(self.admitted)}"
        return f"a chip id, and none of {len(self.refused or ())}"


@dataclass(frozen=True)
class _Part:
    """A constraint of an entry: the name by which it is given up, in words, its value, and the order of values."""

    name: str
    what: str
    value: Callable[[Any], Any]
    order: Order[Any]


def _measurement(entry: LaunchEntry) -> frozenset[bytes] | None:
    return None if entry.measurement is None else frozenset({entry.measurement})


def _chips(entry: PlatformEntry) -> _Chips | None:
    if entry.chips_allowed is None and entry.chips_denied is None:
        return None
    return _Chips(entry.chips_allowed, entry.chips_denied)


def _chips_order(old: _Chips, new: _Chips, what: str) -> Iterator[Step]:
    if old.admitted is not None and new.admitted is not None:
        yield from allowed(old.admitted, new.admitted, f"{what} that are admitted")
    elif old.refused is not None and new.refused is not None:
        yield from denied(old.refused, new.refused, f"{what} that are refused")
    else:
        apart = old.refused is not None and new.admitted is not None and not new.admitted & old.refused
        yield Effect.NARROWS if apart else Effect.WIDENS, f"asks otherwise for {what}: {old} -> {new}"


_LAUNCH: Final = (
    _Part("measurement", "the measurement", _measurement, allowed),
    _Part("id-key", "the ID keys", lambda entry: entry.id_keys, allowed),
    _Part("author-key", "the author keys", lambda entry: entry.author_keys, allowed),
    _Part("host-data", "the host data", lambda entry: entry.host_data, allowed),
    _Part("family-id", "the family ids", lambda entry: entry.family_ids, allowed),
    _Part("image-id", "the image ids", lambda entry: entry.image_ids, allowed),
    _Part("guest-svn", "the least guest SVN", lambda entry: entry.min_guest_svn, least),
    _Part("abi", "the least ABI version", lambda entry: entry.min_abi, least),
    _Part("guest-policy", "the guest policy", lambda entry: entry.guest_policy, bits),
)

_PLATFORM: Final = (
    _Part("signing-key", "the kinds of signing key", lambda entry: entry.keys, allowed),
    _Part("report-version", "the versions of the report", lambda entry: entry.report_versions, allowed),
    _Part("info", "the platform info", lambda entry: entry.info, bits),
    _Part("launch-mitigations", "the launch mitigations", lambda entry: entry.launch_mitigations, mask),
    _Part("current-mitigations", "the current mitigations", lambda entry: entry.current_mitigations, mask),
    _Part("chip", "chips", _chips, _chips_order),
    _Part(
        "provisional-firmware", "provisional firmware", lambda entry: entry.provisional_firmware, permission
    ),
    _Part("crl-age", "the greatest age of the CRL, in days", lambda entry: entry.crl_max_age_days, most),
)


def _parts(
    parts: tuple[_Part, ...], old: LaunchEntry | PlatformEntry, new: LaunchEntry | PlatformEntry
) -> Iterator[Step]:
    for part in parts:
        before, after = (Stand(part.value(entry), part.name in entry.unconstrained) for entry in (old, new))
        yield from constraint(before, after, part.what, part.order)


def compare_launches(old: LaunchIndex, new: LaunchIndex) -> Iterator[Change]:
    """Differences between launches, by name; those of a platform that an entry keeps are the platform's."""
    before, after = ({entry.name: entry for entry in index.entries()} for index in (old, new))
    for name in sorted(before.keys() | after.keys()):
        yield from about(f"launch {name}", _launch(before.get(name), after.get(name)))


def _launch(old: LaunchEntry | None, new: LaunchEntry | None) -> Iterator[Step]:
    if old is None or new is None:
        if new is not None:
            by = "its key alone" if new.measurement is None else f"measurement {new.measurement.hex()}"
            yield Effect.WIDENS, f"is new, found by {by}"
        else:
            yield Effect.NARROWS, "is no longer listed"
        return
    yield from _parts(_LAUNCH, old, new)
    yield from allowed(old.capabilities, new.capabilities, "its capabilities")
    yield from allowed(old.products, new.products, "its products")
    yield from _other_platform(old.platform, new.platform)
    yield from worded(old.label, new.label, "its label")


def _other_platform(old: PlatformEntry | None, new: PlatformEntry | None) -> Iterator[Step]:
    if (old and old.name) == (new and new.name):
        return
    if old is None or new is None:
        effect, to = (
            (Effect.NARROWS, "no platform, which denies") if new is None else (Effect.WIDENS, new.name)
        )
        yield effect, f"moves to {to}"
        return
    steps = [step for step in _platform(old, new) if step[0] is not Effect.NEUTRAL]
    yield Effect.NEUTRAL, f"moves from platform {old.name} to {new.name}"
    for effect, text in steps:
        yield effect, f"by its new platform: {text}"


def compare_platforms(old: Mapping[str, PlatformEntry], new: Mapping[str, PlatformEntry]) -> Iterator[Change]:
    """Differences between platforms, by name. A new one admits nothing until a launch names it."""
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before is None or after is None:
            text = "is no longer there" if after is None else "is new"
            yield Change(f"platform {name}", text, Effect.NEUTRAL)
        else:
            yield from about(f"platform {name}", _platform(before, after))


def _platform(old: PlatformEntry, new: PlatformEntry) -> Iterator[Step]:
    yield from _parts(_PLATFORM, old, new)
    yield from compare_floors(old, new)
    yield from worded(old.label, new.label, "its label")
