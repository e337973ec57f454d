"""What a check is: the language in which every room of the CA states and records its verdicts."""

from ca_service.judgment.checks import (
    Check,
    Finding,
    Trace,
    UnsafeSkip,
    Verdict,
    failed,
    judge_all,
    judge_until_failure,
    passed,
    replaced,
)
from ca_service.judgment.errors import (
    BadRequest,
    Conflict,
    NotFound,
    Refused,
    TooMany,
    Unavailable,
    VtpmCaError,
)
from ca_service.judgment.record import Record
from ca_service.judgment.standing import Checks, Part, Standing, Steps, Timeless, is_timeless

__all__ = [
    "BadRequest",
    "Check",
    "Checks",
    "Conflict",
    "Finding",
    "NotFound",
    "Part",
    "Record",
    "Refused",
    "Standing",
    "Steps",
    "Timeless",
    "TooMany",
    "Trace",
    "Unavailable",
    "UnsafeSkip",
    "Verdict",
    "VtpmCaError",
    "failed",
    "is_timeless",
    "judge_all",
    "judge_until_failure",
    "passed",
    "replaced",
]
