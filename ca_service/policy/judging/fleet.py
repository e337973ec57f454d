"""Judging the launches of a fleet: many machines that differ in nothing which a policy asks about.

A report of an image on a host says the same as the last one of it, but for what makes it this report: REPORT_DATA,
REPORT_ID, REPORT_ID_MA and the signature. So what a policy's rules find about a launch is found once, by rules that
see neither those parts nor the clock, but the day from which the present floors hold. The rules that need the time
itself are asked each time.
"""

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Final

from ca_service.judgment import Checks, Steps, Trace, judge_all
from ca_service.policy.allowlist import Policy
from ca_service.policy.entries.floors import first_day
from ca_service.policy.judging.checks import checks_of_launch, rules_out
from ca_service.policy.judging.facts import LaunchFacts
from ca_service.policy.judging.platform_rules import present_floor
from ca_service.policy.judging.selection import judged
from vtpm.wire.report import Product, Report

REMEMBERED: Final = 512
"""For how many launches of a policy the findings are remembered; a launch is an image on one host, as a rule."""

_Known = Callable[[str | None, bytes, Product | None, bool, datetime], Steps]


def judge_launch(policy: Policy, mode: str, facts: LaunchFacts) -> Trace:
    """The findings of `launch_checks`, in their order.

    Args:
        policy: the policy in force.
        mode: as for `launch_checks`.
        facts: what is asked about.
    """
    known: _Known = policy.once("fleet", mode, lambda: _known(policy, mode))
    entry = judged(policy, facts, rules_out(policy, mode))
    platform = None if entry is None else entry.platform
    floors_since = first_day(None if platform is None else present_floor(platform, facts))
    name = None if entry is None else entry.name
    steps = known(name, facts.report.common_part, facts.product, facts.simulated, floors_since)
    return steps.all(facts)


def _known(policy: Policy, mode: str) -> _Known:
    entries = {entry.name: entry for entry in policy.launches.entries()}

    @lru_cache(maxsize=REMEMBERED)
    def steps(
        name: str | None, common_part: bytes, product: Product | None, simulated: bool, floors_since: datetime
    ) -> Steps:
        # The rules see what stands in the key and nothing else: that is why the key is enough.
        entry = None if name is None else entries[name]
        rules = checks_of_launch(policy, mode, lambda _facts: entry)
        facts = LaunchFacts(
            Report.parse(common_part), product, simulated, crl_issued_at=None, at=floors_since
        )
        return Steps([Checks(rules)], judge_all(rules, facts))

    return steps
