"""The numbers of the enrolment protocol, in one place."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Limits:
    """How long things last.

    Attributes:
        nonce_lifetime: from the issue of a nonce to its last use.
        pending_lifetime: how long a challenge may be answered.
        crl_lifetime: from thisUpdate to nextUpdate of a CRL; a new one is made after half of it.
        instance_enrolments: how many enrolments of one instance are admitted within `instance_window`.
        instance_window: see there.
        refusals_per_hour: how many refusals of one launch are kept, sustained; each process counts for itself.
        refusals_at_once: how many of them at once.
    """

    nonce_lifetime: timedelta = timedelta(minutes=5)
    pending_lifetime: timedelta = timedelta(minutes=10)
    crl_lifetime: timedelta = timedelta(days=7)
    instance_enrolments: int = 60
    instance_window: timedelta = timedelta(hours=1)
    refusals_per_hour: float = 200.0
    refusals_at_once: int = 200

    def instance_wait(self, admitted: Sequence[datetime], at: datetime) -> timedelta | None:
        """How long an instance has to wait before it may enrol again; None if it may now.

        Args:
            admitted: when its newest enrolments were admitted, the newest first.
            at: now.
        """
        if len(admitted) < self.instance_enrolments:
            return None
        wait = admitted[self.instance_enrolments - 1] + self.instance_window - at
        return wait if wait > timedelta(0) else None
