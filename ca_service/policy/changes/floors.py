"""What differs between the floors of two platforms, now and on every day that either of them names."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ca_service.policy.changes.effects import Step
from ca_service.policy.changes.orders import Order, Stand, constraint, least, levels
from ca_service.policy.entries.floors import Floor, in_force
from ca_service.policy.entries.launches import PlatformEntry
from vtpm.wire.report import Product

_ALWAYS: Final = datetime.min.replace(tzinfo=UTC)
_API: Final = 2
_BUILD: Final = 3
"""Numbers of a firmware version that names its API version, and its build too."""


@dataclass(frozen=True)
class _Kind:
    name: str
    what: str
    value: Callable[[Floor], Any]
    order: Order[Any]


def _api(floor: Floor) -> tuple[int, ...] | None:
    return None if floor.firmware is None else floor.firmware[:_API]


def _build(floor: Floor) -> tuple[int, ...] | None:
    return floor.firmware if floor.firmware is not None and len(floor.firmware) == _BUILD else None


_KINDS: Final = (
    _Kind("reported-tcb", "the floor of the reported TCB", lambda floor: floor.reported, levels),
    _Kind("committed-tcb", "the floor of the committed TCB", lambda floor: floor.committed, levels),
    _Kind("launch-tcb", "the floor of the launch TCB", lambda floor: floor.launch, levels),
    _Kind("api", "the floor of the firmware's API version", _api, least),
    _Kind("build", "the floor of the firmware's build", _build, least),
)


def compare_floors(old: PlatformEntry, new: PlatformEntry) -> Iterator[Step]:
    """Differences between the floors of two platforms, by kind and product, and by the day from which they hold."""
    for kind in _KINDS:
        given_up = [kind.name in entry.unconstrained for entry in (old, new)]
        if any(given_up):
            before, after = (Stand("a floor for each product", given) for given in given_up)
            yield from constraint(before, after, kind.what, least)
            continue
        for product in Product:
            yield from _of_product(kind, product, old.floors.get(product, ()), new.floors.get(product, ()))


def _of_product(
    kind: _Kind, product: Product, old: tuple[Floor, ...], new: tuple[Floor, ...]
) -> Iterator[Step]:
    earlier: tuple[Any, Any] = (None, None)
    for day in sorted({_ALWAYS, *(floor.since or _ALWAYS for floor in (*old, *new))}):
        pair = _value(kind, old, day), _value(kind, new, day)
        if pair != earlier:
            since = "" if day == _ALWAYS else f" from {day.isoformat()}"
            what = f"{kind.what} of {product}{since}"
            yield from constraint(Stand(pair[0]), Stand(pair[1]), what, kind.order)
        earlier = pair


def _value(kind: _Kind, floors: tuple[Floor, ...], day: datetime) -> Any:
    floor = in_force(floors, day)
    return None if floor is None else kind.value(floor)
