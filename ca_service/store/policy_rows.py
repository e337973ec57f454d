"""What the tables of policies hold, as frozen values."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True)
class PolicyRow:
    """A policy version, as it was applied; `version` counts from 1, `digest` is SHA-256 in hex.

    `base` is the version that it was to follow (0 for none), against which its changes were read; `requested_from` the
    time from which on it was to be in force, None for at once.
    """

    version: int
    digest: str
    text: str = field(repr=False)
    applied_at: datetime
    applied_by: str
    base: int = 0
    requested_from: datetime | None = None


class PolicyEnd(StrEnum):
    """How a version ends that never was in force: withdrawn by an operator, or dropped for another one."""

    WITHDRAWN = "withdraw"
    DROPPED = "drop"


APPROVED = "approve"
"""The verdict of a second operator that a version may come in force."""


@dataclass(frozen=True)
class PolicyStartRow:
    """From when on a version is in force: `released_at` is when it needed nobody's approval any more.

    One whose `in_force_from` is not later than its `released_at` is in force by any clock.
    """

    version: int
    in_force_from: datetime
    released_at: datetime


@dataclass(frozen=True)
class PolicyVerdictRow:
    """What an operator said about a version: `verdict` is `APPROVED` or one of `PolicyEnd`."""

    version: int
    verdict: str
    by: str
    at: datetime


@dataclass(frozen=True)
class VersionRecord:
    """All that is known of a version but its text: see `PolicyRow`, `PolicyStartRow`, `PolicyVerdictRow`.

    `in_force_from` and `released_at` are None for one that does not come in force by itself.
    """

    version: int
    digest: str
    applied_at: datetime
    applied_by: str
    base: int
    requested_from: datetime | None
    in_force_from: datetime | None
    released_at: datetime | None
    verdicts: tuple[PolicyVerdictRow, ...] = ()

    @property
    def ended(self) -> PolicyVerdictRow | None:
        """What ended it before it ever was in force; None if nothing did."""
        return next((row for row in self.verdicts if row.verdict in tuple(PolicyEnd)), None)


@dataclass(frozen=True)
class PolicyEvidenceRow:
    """Recorded evidence for tests of policy documents; `digest` is SHA-256 of `body`, hex."""

    digest: str
    body: bytes = field(repr=False)
    kept_at: datetime


@dataclass(frozen=True)
class PolicyFileRow:
    """What the document with the digest `policy` means by `path`: the file with the digest `evidence`."""

    policy: str
    path: str
    evidence: str
