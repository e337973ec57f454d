"""Entries that make a policy permissive: what each of them gives up, and how that is traced.

They exist to show on a simulation CA what a rule is worth. A production CA refuses a document that has one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from ca_service.judgment import Check, Finding, Verdict, is_timeless
from ca_service.policy.judging.launch_rules import LAUNCH_DEMANDS
from ca_service.policy.judging.platform_rules import PLATFORM_DEMANDS

F = TypeVar("F")

CAPABILITIES: Final = "launch.capabilities"

_LISTED: Final = tuple(demand.id for demand in LAUNCH_DEMANDS)
_PLATFORM: Final = tuple(
    rule for rule in (*_LISTED, *(demand.id for demand in PLATFORM_DEMANDS)) if rule.startswith("platform.")
)

# A KBS that nobody has listed asks for no token. If a listed one still did, to strike it off would let more in.
_EAR: Final = (
    "ear.present",
    "ear.signature",
    "ear.profile",
    "ear.time",
    "ear.tee-key",
    "ear.nonce",
    "ear.status",
)

UNSAFE_RULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "UnsafeAllowAnyMeasurement": (
            *(rule for rule in _LISTED if rule not in _PLATFORM),
            CAPABILITIES,
            *_PLATFORM,
        ),
        "UnsafeAllowMissingCapabilities": (CAPABILITIES,),
        "UnsafeAllowAnyPlatform": _PLATFORM,
        "UnsafeAllowAnyKbs": (
            "kbs.listed",
            "kbs.status",
            "kbs.valid",
            "kbs.resource",
            "kbs.origin",
            "kbs.release-policy",
            *_EAR,
        ),
        "UnsafeAllowAnyResource": ("kbs.resource",),
        "UnsafeAllowAnyOrigin": ("kbs.origin",),
        "UnsafeAllowAnyReleasePolicy": ("kbs.release-policy",),
        "UnsafeAllowAnyGrantAge": ("grant.age",),
        "UnsafeAllowVolatileStore": ("store.persistent", "store.format"),
    }
)
"""Name of each permissive entry, and the rules that it gives up."""


def given_up(unsafe: Mapping[str, str]) -> dict[str, str]:
    """The rules that the permissive entries of a policy give up, each with the name of an entry that does."""
    return {rule: entry for entry in unsafe for rule in UNSAFE_RULES[entry]}


@dataclass(frozen=True)
class UnsafeAllowed(Generic[F]):
    """Stands in the place of a check that a permissive entry gives up.

    The check still looks, so that the trace tells what it would have said; its word does not count.

    Attributes:
        check: the check that is given up.
        entry: name of the policy entry that gives it up.
    """

    check: Check[F]
    entry: str

    @property
    def id(self) -> str:
        """The id of the check that is given up."""
        return self.check.id

    @property
    def timeless(self) -> bool:
        """As the check that is given up."""
        return is_timeless(self.check)

    def judge(self, subject: F) -> Finding:
        """Admit, and leave in the trace who gave the check up and what it would have said."""
        found = self.check.judge(subject)
        return Finding(
            self.id,
            Verdict.UNSAFE_SKIPPED,
            expected=f"{self.entry} gives this up; the check alone: {found.verdict.value}",
            actual=found.actual,
        )
