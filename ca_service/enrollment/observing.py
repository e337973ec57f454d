"""What happens at the desk, told to whoever counts it: small facts, without a secret and without evidence.

An event is told after its transaction is durable, so what was counted has happened. An observer must not raise: what it
is told is done already.
"""

from collections.abc import Callable

from vtpm.wire.frozen import frozen


@frozen
class Unproven:
    """A request whose evidence is not authentic; nothing was stored. `rule` is the first that failed."""

    rule: str


@frozen
class Decided:
    """A decision that was stored: `rule` is the first that failed, empty if none did.

    Attributes:
        stage: ``enroll`` or ``activate``.
        admitted: the verdict.
        rule: see above.
        decision_id: its id.
    """

    stage: str
    admitted: bool
    rule: str
    decision_id: str


@frozen
class Enrolled:
    """An enrolment got its answer: the challenge, or the certificates of a known TPM."""

    enrollment_id: str


@frozen
class Certified:
    """Certificates that were stored after they were signed: (profile, role of the issuing CA) of each."""

    enrollment_id: str
    certificates: tuple[tuple[str, str], ...]


@frozen
class Alarmed:
    """An alarm was raised."""

    kind: str


Event = Unproven | Decided | Enrolled | Certified | Alarmed

Observer = Callable[[Event], None]


def unobserved(event: Event) -> None:
    """Nobody counts `event`."""
