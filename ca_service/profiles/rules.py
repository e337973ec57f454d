"""The rules of the lint: each a small check with a stable id, over the view that both readers agree on.

A rule's expectation is computed here from what the certificate shall say, not taken from the code that
drafts. The checks of EK certificates are those of the TCG EK Credential Profile 2.6, section 3.2; pkilint and
OpenSSL know nothing of them (they let an EK certificate without SAN, keyUsage or extendedKeyUsage pass). At the end
come the demands of consumers that every certificate of a profile meets.
"""

from functools import cache, lru_cache
from typing import Final

from ca_service.judgment import Trace, judge_all
from ca_service.profiles.contracts import CONTRACTS
from ca_service.profiles.model import Profile
from ca_service.profiles.outline import Outline
from ca_service.profiles.rule import AnyRule, LintSubject, Rule, SteadyRule
from ca_service.profiles.rules_frame import FRAME
from ca_service.profiles.rules_key import KEYS
from ca_service.profiles.rules_name import NAMES

REMEMBERED: Final = 256
"""How many outlines are remembered; a CA with a few issuers has some ten for each of them."""

RULES: tuple[AnyRule, ...] = (
    *FRAME,
    *KEYS,
    *NAMES,
    *(rule.as_lint() for rule in CONTRACTS if rule.required),
)


@cache
def rules_for(profile: Profile) -> tuple[AnyRule, ...]:
    """The rules of a profile, in the order in which they are judged."""
    return tuple(rule for rule in RULES if profile in rule.profiles)


def judge(subject: LintSubject) -> Trace | None:
    """Let every rule of the draft's profile look, also after a failure.

    Returns:
        All findings; None if there are rules and no rule says no.
    """
    return None if _are_content(subject) else judge_all(rules_for(subject.profile), subject)


def _are_content(subject: LintSubject) -> bool:
    for rule in _other_rules(subject.profile):
        if rule.problem(subject) is not None:
            return False
    return _are_steadily_content(subject.outline)


@cache
def _other_rules(profile: Profile) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules_for(profile) if isinstance(rule, Rule))


@lru_cache(maxsize=REMEMBERED)
def _are_steadily_content(outline: Outline) -> bool:
    """What the steady rules find is a function of the outline alone, the only thing that they are handed."""
    problems = [rule.problem(outline) for rule in rules_for(outline.profile) if isinstance(rule, SteadyRule)]
    return problems != [] and problems == [None] * len(problems)
