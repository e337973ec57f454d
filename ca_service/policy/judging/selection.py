"""Which entry a report is judged by, when it may fall under several.

A launch can be listed by its measurement, once for each platform, and separately by the key that signed it. An entry
whose demands all hold is the one that counts, so that to take an entry away never admits what was refused. Only if none
holds, the most particular one is what the operator wants to see.
"""

from collections.abc import Container
from typing import Final

from ca_service.policy.allowlist import Policy
from ca_service.policy.entries.launches import LaunchEntry
from ca_service.policy.judging.facts import LaunchFacts
from ca_service.policy.judging.launch_rules import LAUNCH_DEMANDS
from ca_service.policy.judging.platform_rules import PLATFORM_DEMANDS
from vtpm.wire.runtime_data import PROFILE

PROFILE_CAPABILITIES: Final = {
    PROFILE: frozenset({"verifies-grants", "reports-state"}),
    "amd-svsm-services": frozenset({"oracle-free", "verifies-grants"}),
    "amd-svsm-vtpm:0": frozenset({"oracle-free"}),
}
"""What a launch must be able to do so that evidence of a profile means what it says.

What AMD's own profiles say is worth something only if the host cannot have the SVSM sign report data of the host's
choice. A grant, which the first of them holds, is worth something only if the SVSM has verified it.
"""


def _holds(entry: LaunchEntry, facts: LaunchFacts, given_up: Container[str]) -> bool:
    return all(
        demand.outcome(entry, facts).holds for demand in LAUNCH_DEMANDS if demand.id not in given_up
    ) and all(
        demand.outcome(entry.platform, facts).holds
        for demand in PLATFORM_DEMANDS
        if demand.id not in given_up
    )


def _preferred(policy: Policy, facts: LaunchFacts, given_up: Container[str]) -> tuple[LaunchEntry, ...]:
    """The candidates among which the choice is: those whose demands hold; all, if none's do."""
    candidates = policy.launches.candidates(facts.report)
    if len(candidates) < 2:  # noqa: PLR2004 - nothing to choose
        return candidates
    return tuple(entry for entry in candidates if _holds(entry, facts, given_up)) or candidates


def judged(policy: Policy, facts: LaunchFacts, given_up: Container[str]) -> LaunchEntry | None:
    """The entry that a report is judged by; None if it falls under none.

    Args:
        policy: the policy in force.
        facts: the report, and what is known about it.
        given_up: ids of rules that do not count here.
    """
    return next(iter(_preferred(policy, facts, given_up)), None)


def capable(policy: Policy, facts: LaunchFacts, profile: str, given_up: Container[str]) -> LaunchEntry | None:
    """The entry by which a report is judged fit for an evidence profile: one that has the capabilities, if any has."""
    preferred = _preferred(policy, facts, given_up)
    needed = PROFILE_CAPABILITIES.get(profile)
    fit = (entry for entry in preferred if needed is not None and needed <= entry.capabilities)
    return next(fit, next(iter(preferred), None))
