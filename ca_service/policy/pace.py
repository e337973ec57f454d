"""How often one instance may enrol: a client that runs wild fills neither the database nor the log.

Pure: who judges hands in when the instance enrolled before, and gets how long it has to wait.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final


@dataclass(frozen=True)
class InstanceLimit:
    """At most `enrolments` within any span of `per`.

    Attributes:
        enrolments: how many; at least 1.
        per: in which time; more than none.
    """

    enrolments: int
    per: timedelta

    def __post_init__(self) -> None:
        """Refuse a limit that nobody could keep."""
        if self.enrolments < 1 or self.per <= timedelta():
            raise ValueError("a limit lets at least one enrolment pass, in a span of time")

    def since(self, at: datetime) -> datetime:
        """The moment behind which earlier enrolments do not count any more."""
        return at - self.per

    def wait(self, earlier: Iterable[datetime], at: datetime) -> timedelta:
        """How long an instance has to wait at `at` before it may enrol; nothing if it may now.

        Args:
            earlier: when it enrolled before, in any order; what lies outside the span may be left out.
            at: now. Times after it, by a clock that was set back, count as now, so that they end too.

        Returns:
            The wait, at most `per`. A server tells it, rounded up to seconds, in Retry-After (RFC 9110, section
            10.2.3).
        """
        counted = sorted(min(moment, at) for moment in earlier if moment > self.since(at))
        if len(counted) < self.enrolments:
            return timedelta()
        return counted[-self.enrolments] + self.per - at


INSTANCE_LIMIT: Final = InstanceLimit(enrolments=20, per=timedelta(hours=1))
"""What an instance may use: each boot enrols once, or twice if TPM2_Certify was left out at first."""
