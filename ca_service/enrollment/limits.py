"""The numbers of the enrolment protocol, in one place."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from ca_service.policy import USUAL_ENROLMENTS, USUAL_REFUSALS, USUAL_WINDOW_S
from vtpm.wire.frozen import frozen

if TYPE_CHECKING:
    from ca_service.policy import Policy


@frozen
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
    instance_enrolments: int = USUAL_ENROLMENTS
    instance_window: timedelta = timedelta(seconds=USUAL_WINDOW_S)
    refusals_per_hour: float = USUAL_REFUSALS
    refusals_at_once: int = USUAL_REFUSALS

    def under(self, policy: "Policy | None") -> Self:
        """The limits that count under a policy: what it states goes before these."""
        if policy is None:
            return self
        said = policy.limits
        window, refusals = said.instance_window_s, said.launch_refusals_per_hour
        if not (said.instance_enrolments or window or refusals):
            return self
        return replace(
            self,
            instance_enrolments=said.instance_enrolments or self.instance_enrolments,
            instance_window=timedelta(seconds=window) if window else self.instance_window,
            refusals_per_hour=refusals or self.refusals_per_hour,
            refusals_at_once=refusals or self.refusals_at_once,
        )

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
