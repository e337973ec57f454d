"""The state machine that joins the rooms: nonce, evidence, activation, certificates.

Follow one enrolment: `Enroller.enroll` leads to `admission` (which asks the `judge` and the `ledger`),
`Enroller.activate` to `activation` (which asks `issuance` for drafts and signatures). `revocation` ends
what is no longer good, also on behalf of operators, and `publishing` says so to everybody.
"""

from typing import TYPE_CHECKING

from ca_service.faces import on_demand

if TYPE_CHECKING:
    from ca_service.enrollment.admission import Reply
    from ca_service.enrollment.cause import Ended, Grounds, revoke_by_cause
    from ca_service.enrollment.desk import Desk
    from ca_service.enrollment.enroller import Enroller
    from ca_service.enrollment.judge import Judge
    from ca_service.enrollment.limits import Limits
    from ca_service.enrollment.liveness import FileLiveness, Liveness, SessionLiveness, liveness_for
    from ca_service.enrollment.publishing import publish, publish_all, publish_due, publish_every
    from ca_service.enrollment.revocation import reset_instance, revoke
else:
    __getattr__ = on_demand(
        __name__,
        {
            ".admission": "Reply",
            ".cause": "Ended Grounds revoke_by_cause",
            ".desk": "Desk",
            ".enroller": "Enroller",
            ".judge": "Judge",
            ".limits": "Limits",
            ".liveness": "FileLiveness Liveness SessionLiveness liveness_for",
            ".publishing": "publish publish_all publish_due publish_every",
            ".revocation": "reset_instance revoke",
        },
    )

__all__ = [
    "Desk",
    "Ended",
    "Enroller",
    "FileLiveness",
    "Grounds",
    "Judge",
    "Limits",
    "Liveness",
    "Reply",
    "SessionLiveness",
    "liveness_for",
    "publish",
    "publish_all",
    "publish_due",
    "publish_every",
    "reset_instance",
    "revoke",
    "revoke_by_cause",
]
