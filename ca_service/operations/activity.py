"""How many enrolments each hour of the last week saw, without counting the same hour twice."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from ca_service.store import Transaction, Verdicts, hourly

DAYS: Final = 7
_HOUR: Final = timedelta(hours=1)
_SETTLED: Final = timedelta(minutes=5)
"""An hour is over when nobody writes into it any more: nodes of one CA have clocks of their own."""


@dataclass(frozen=True)
class Hour:
    """What was decided in the hour that begins at `at` (UTC)."""

    at: datetime
    verdicts: Verdicts


@dataclass(frozen=True)
class Day:
    """What was decided on a day (UTC), altogether and in each of its hours that have begun."""

    at: datetime
    verdicts: Verdicts
    hours: tuple[Hour, ...]


class Activity:
    """Counts the decisions of the last `DAYS` days, today among them. Safe for threads.

    Hours that are over are remembered, so what is counted again is the present one. The first time it is all of them,
    from an index: 0.1 s of CPU for 300,000 decisions.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._known: dict[datetime, Verdicts] = {}

    def read(self, tx: Transaction, at: datetime) -> tuple[Day, ...]:
        """The days, the newest first; the last hour of the first is the one that `at` lies in."""
        now = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        over = at - _HOUR - _SETTLED
        with self._guard:
            # Of a clock that was put back nothing counts any more: its hours come once more.
            known = {begin: verdicts for begin, verdicts in self._known.items() if begin <= over}
        days = tuple(_day(now.replace(hour=0) - timedelta(days=back), now, tx, known) for back in range(DAYS))
        hours = [hour for day in days for hour in day.hours]
        with self._guard:
            self._known = {hour.at: hour.verdicts for hour in hours if hour.at <= over}
        return days


def _day(begin: datetime, now: datetime, tx: Transaction, known: Mapping[datetime, Verdicts]) -> Day:
    begins = [at for number in range(24) if (at := begin + number * _HOUR) <= now]
    hours = tuple(Hour(at, known.get(at) or hourly(tx, at, at + _HOUR)) for at in begins)
    admitted = sum(hour.verdicts.admitted for hour in hours)
    return Day(begin, Verdicts(admitted, sum(hour.verdicts.refused for hour in hours)), hours)
