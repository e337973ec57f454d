"""The numbers of the enrolment protocol, in one place."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Limits:
    """How long things last.

    Attributes:
        nonce_lifetime: from the issue of a nonce to its last use.
        pending_lifetime: how long a challenge may be answered.
        crl_lifetime: from thisUpdate to nextUpdate of a CRL; a new one is made after half of it.
    """

    nonce_lifetime: timedelta = timedelta(minutes=5)
    pending_lifetime: timedelta = timedelta(minutes=10)
    crl_lifetime: timedelta = timedelta(days=7)
