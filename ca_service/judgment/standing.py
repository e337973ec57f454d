"""Findings that stand: a check that looks at no clock need not look twice at the same things.

An enrolment is judged when it comes and again when the TPM has answered, and most of its checks rest on bytes, policy
and collateral alone. Such a check says of itself that it is `timeless`. One that does not say so is asked each time.
"""

from typing import Any, ClassVar, TypeVar

from ca_service.judgment.checks import Check, Finding

T = TypeVar("T")


class Timeless:
    """A check whose finding follows from its subject, whatever time it is: `timeless` is all that it adds.

    Not for a check that reads a time, or what was chosen by one.
    """

    timeless: ClassVar[bool] = True


def is_timeless(check: Check[Any]) -> bool:
    """Whether a check says that no time can change its finding."""
    return bool(getattr(check, "timeless", False))


class Standing:
    """What timeless checks found about one subject, by rule. Safe for threads: at worst a check looks twice.

    Whoever has one answers for it that the subjects which are shown to it differ in their time only.
    """

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}

    def judge(self, check: Check[T], subject: T) -> Finding:
        """What the check finds, or found."""
        found = self._found.get(check.id)
        if found is None:
            found = check.judge(subject)
            if is_timeless(check):
                self._found[check.id] = found
        return found
