"""What a policy says about certificates and limits, without admitting or refusing anybody by it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from vtpm.wire.templates import Role

if TYPE_CHECKING:
    from ca_service.policy.document.tables import CertificatesTable, LimitsTable

USUAL_ENROLMENTS: Final = 60
USUAL_WINDOW_S: Final = 3600
USUAL_REFUSALS: Final = 200
"""The CA's own numbers, where `LimitTerms` has none."""


@dataclass(frozen=True)
class LimitTerms:
    """How often enrolment may be asked for; a member that is None leaves it to the CA.

    Attributes:
        instance_enrolments: how many enrolments of one instance are admitted within the window.
        instance_window_s: the window, in seconds.
        launch_refusals_per_hour: how many refusals of one launch each process of the server keeps per hour.
    """

    instance_enrolments: int | None = None
    instance_window_s: int | None = None
    launch_refusals_per_hour: int | None = None

    @classmethod
    def of(cls, table: "LimitsTable | None") -> Self:
        """What `[limits]` says."""
        if table is None:
            return cls()
        return cls(table.instance_enrolments, table.instance_window_s, table.launch_refusals_per_hour)


def certificate_days(table: "CertificatesTable | None") -> Mapping[Role, int]:
    """For how many days certificates hold at most, by role; a role that is missing has no limit but the CA's own.

    A device lifetime is as long as the CA's key ceremony allows, and so is what the document does not say.
    """
    if table is None:
        return {}
    stated = ((Role.EK, table.ek), (Role.IAK, table.iak), (Role.IDEVID, table.idevid))
    return {role: each.days for role, each in stated if each is not None and each.days is not None}
