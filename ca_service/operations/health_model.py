"""What a check of the CA's health is: a named look at one thing, with thresholds and a remedy.

A check never raises: what it cannot look at, it calls unknown. It changes nothing but what `Store.check_writable` does.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Final

import sqlalchemy as sa

from ca_service.evidence.snp import Collateral
from ca_service.judgment import BadRequest, Unavailable, VtpmCaError
from ca_service.keys import Authority, PublicAuthority
from ca_service.store import Gauges, Store, is_bad_value, read_gauges


class Status(StrEnum):
    """How well something is. A `NOTICE` is good to know and wants nobody to act; `UNKNOWN`: nobody could look."""

    OK = "ok"
    NOTICE = "notice"
    WARNING = "warning"
    UNKNOWN = "unknown"
    CRITICAL = "critical"


ORDER: Final = tuple(Status)
"""From good to bad. What could not be looked at may be critical, so it comes behind a warning."""


class Unit(StrEnum):
    """What a threshold counts."""

    SECONDS = "time"
    BYTES = "size"
    COUNT = "number"


_FACTORS: Final[Mapping[Unit, Mapping[str, int]]] = {
    Unit.SECONDS: {"s": 1, "m": 60, "h": 3600, "d": 86_400},
    Unit.BYTES: {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    Unit.COUNT: {},
}
_NUMBER: Final = re.compile(r"([0-9]{1,9})([A-Za-z]{0,3})\Z")


@dataclass(frozen=True)
class Threshold:
    """From where on a value is a warning, and from where on critical; None: never.

    Attributes:
        unit: of both.
        warning: see above.
        critical: see above.
        falling: whether values *below* are bad; else those that reach it.
    """

    unit: Unit
    warning: int | None
    critical: int | None = None
    falling: bool = False

    def grade(self, value: float) -> Status:
        """How good a value is."""
        for limit, status in ((self.critical, Status.CRITICAL), (self.warning, Status.WARNING)):
            if limit is not None and (value < limit if self.falling else value >= limit):
                return status
        return Status.OK

    def reset(self, text: str, path: str) -> "Threshold":
        """The threshold with other numbers.

        Args:
            text: ``WARNING``, ``WARNING,CRITICAL`` or ``,CRITICAL``, each like 90, 36h, 10d, 512MiB.
            path: what an error names.

        Raises:
            BadRequest: it is none, or the warning would come after what is critical.
        """
        warning, _, critical = text.partition(",")
        made = replace(
            self,
            warning=self._number(warning, path) if warning else self.warning,
            critical=self._number(critical, path) if critical else self.critical,
        )
        first, second = made.warning, made.critical
        if not (warning or critical):
            raise BadRequest(path, f"needs {self._form()}")
        if first is not None and second is not None and (first < second if self.falling else first > second):
            raise BadRequest(path, "has its warning behind what is critical; give both, as WARNING,CRITICAL")
        return made

    def _number(self, text: str, path: str) -> int:
        found, factors = _NUMBER.match(text), _FACTORS[self.unit]
        if found is None or (found[2] and found[2] not in factors):
            raise BadRequest(path, f"{text[:40]} is no {self.unit}: it needs {self._form()}")
        return int(found[1]) * factors.get(found[2], 1)

    def _form(self) -> str:
        units = ", ".join(_FACTORS[self.unit])
        return f"WARNING[,CRITICAL], each a number{f' with one of {units}' if units else ''}"

    def __str__(self) -> str:
        word = "below" if self.falling else "from"
        parts = ((Status.WARNING, self.warning), (Status.CRITICAL, self.critical))
        return ", ".join(
            f"{status} {word} {shown(value, self.unit)}" for status, value in parts if value is not None
        )


def shown(value: float, unit: Unit) -> str:
    """A number with the largest unit that leaves nothing of importance behind."""
    number, name = round(value), ""
    for suffix, factor in _FACTORS[unit].items():
        if factor == 1 or abs(value) >= 2 * factor:
            number, name = round(value / factor), suffix
    return f"{number}{name}"


@dataclass(frozen=True)
class Seen:
    """What one look found: a status, a sentence for people, and a remedy if it is not the check's."""

    status: Status
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class HealthContext:
    """What there is to look at.

    Attributes:
        public: the CA's public side.
        unlock: gives the CA with its keys.
        open: gives its database; raises what keeps it from being used.
        at: now, aware.
        collateral: gives what the CA judges reports with.
        url: of the database.
    """

    public: PublicAuthority
    unlock: Callable[[], Authority] = field(repr=False)
    open: Callable[[], Store] = field(repr=False)
    at: datetime
    collateral: Callable[[], Collateral] = field(repr=False)
    url: str = field(repr=False)

    @property
    def store(self) -> Store:
        """The database; raises `VtpmCaError` if it cannot be used."""
        return self.open()

    @cached_property
    def gauges(self) -> Gauges:
        """How the database stands; raises as `store`."""
        with self.store.read() as tx:
            return read_gauges(tx, self.at)


Look = Callable[[HealthContext, Threshold | None], Iterable[Seen]]


@dataclass(frozen=True)
class HealthCheck:
    """A named check.

    Attributes:
        id: stable name.
        looks_at: what it looks at, for people.
        remedy: what to do if it is not well.
        look: looks; the worst of what it finds counts.
        threshold: its default thresholds, if it has any.
    """

    id: str
    looks_at: str
    remedy: str
    look: Look = field(repr=False)
    threshold: Threshold | None = None

    def examine(self, context: HealthContext) -> "Result":
        """Look, whatever happens."""
        try:
            found = list(self.look(context, self.threshold))
        except VtpmCaError as error:
            return Result(self, Status.UNKNOWN, error.detail, error.remedy)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            return Result(self, Status.UNKNOWN, f"cannot be looked at: {type(error).__name__}")
        except Exception as error:
            if not is_bad_value(error):
                raise
            return Result(self, Status.UNKNOWN, f"holds what cannot be read: {type(error).__name__}")
        if not found:
            return Result(self, Status.OK, "nothing to look at")
        worst = max((seen.status for seen in found), key=ORDER.index)
        texts = [seen.text for seen in found if seen.status is worst]
        remedies = [seen.remedy for seen in found if seen.status is worst and seen.remedy]
        if worst is Status.OK and len(texts) > 1:
            texts = [f"{texts[0]} (and {len(texts) - 1} more that is well)"]
        return Result(self, worst, "; ".join(texts), next(iter(remedies), ""))


@dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes:
        check: which.
        status: how well it is.
        detail: what was seen.
        remedy: what to do about it if that is not what the check says in general.
    """

    check: HealthCheck
    status: Status
    detail: str
    remedy: str = ""

    def to_json(self) -> dict[str, object]:
        """The result as plain values; the remedy is empty if all is well."""
        remedy = "" if self.status is Status.OK else self.remedy or self.check.remedy
        limit = "" if self.check.threshold is None else str(self.check.threshold)
        return {
            "check": self.check.id,
            "status": self.status.value,
            "detail": self.detail,
            "remedy": remedy,
            "threshold": limit,
        }


def graded(threshold: Threshold | None, value: float, text: str) -> Seen:
    """A value that a threshold grades."""
    if threshold is None:
        raise Unavailable("the check has no threshold")
    return Seen(threshold.grade(value), text)


def failing(look: Callable[[HealthContext], object], well: str) -> Look:
    """A look that is critical if something raises, and well if nothing does."""

    def found(context: HealthContext, _threshold: Threshold | None) -> Iterable[Seen]:
        try:
            look(context)
        except VtpmCaError as error:
            yield Seen(Status.CRITICAL, error.detail, error.remedy)
        else:
            yield Seen(Status.OK, well)

    return found


def failing_store(look: Callable[[HealthContext, Store], object], well: str) -> Look:
    """The same about a database that can be opened; if it cannot, this check is not the one to say so."""

    def found(context: HealthContext, threshold: Threshold | None) -> Iterable[Seen]:
        store = context.store
        return failing(lambda same: look(same, store), well)(context, threshold)

    return found
