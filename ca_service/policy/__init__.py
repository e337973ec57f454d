"""The allow-list: what an operator writes, and how evidence is judged by it.

A policy is a TOML document. `load` reads it strictly and builds the indexes that make every check a lookup;
`launch_checks` and `checks` give the checks that a document stands for. What a document does not say is denied, and
no document at all denies everything; `judge_launch` gives the findings of the first of them without looking twice at
the same launch. `load_complete` refuses a document that leaves a question open or cannot be meant. `with_given_up`
puts the permissive entries of a simulation CA in the place of checks that stand elsewhere. `policies/` holds examples.

A reader's way: `document` has the form of what operators write, `reading` makes `entries` of it, `allowlist` puts them
behind indexes, `judging` holds evidence against them. About policies themselves: `changes` says how two differ,
`remedies` what would have admitted a refusal, `outlook` what a policy says on another day, `editing` changes one entry.
"""

from typing import TYPE_CHECKING

from ca_service.faces import on_demand

if TYPE_CHECKING:
    from ca_service.policy.allowlist import (
        Policy,
        kbs_for,
        load,
        load_complete,
        require_complete,
        require_safe,
    )
    from ca_service.policy.document.examples import example_document
    from ca_service.policy.entries.brokers import EarDemand, KbsEntry
    from ca_service.policy.entries.ephemeral import EphemeralTerms
    from ca_service.policy.entries.expectations import MOST_FILES, Expectation
    from ca_service.policy.entries.launches import LaunchEntry, PlatformEntry
    from ca_service.policy.entries.terms import USUAL_ENROLMENTS, USUAL_REFUSALS, USUAL_WINDOW_S, LimitTerms
    from ca_service.policy.judging.checks import PROFILE_ADMITTED, checks, launch_checks, with_given_up
    from ca_service.policy.judging.facts import LaunchFacts, PolicyFacts
    from ca_service.policy.judging.fleet import judge_launch
    from ca_service.policy.judging.unsafe import UNSAFE_RULES
    from ca_service.policy.wording import in_words, summary
else:
    __getattr__ = on_demand(
        __name__,
        {
            ".allowlist": "Policy kbs_for load load_complete require_complete require_safe",
            ".document.examples": "example_document",
            ".entries.brokers": "EarDemand KbsEntry",
            ".entries.ephemeral": "EphemeralTerms",
            ".entries.expectations": "MOST_FILES Expectation",
            ".entries.launches": "LaunchEntry PlatformEntry",
            ".entries.terms": "USUAL_ENROLMENTS USUAL_REFUSALS USUAL_WINDOW_S LimitTerms",
            ".judging.checks": "PROFILE_ADMITTED checks launch_checks with_given_up",
            ".judging.facts": "LaunchFacts PolicyFacts",
            ".judging.fleet": "judge_launch",
            ".judging.unsafe": "UNSAFE_RULES",
            ".wording": "in_words summary",
        },
    )

__all__ = [
    "MOST_FILES",
    "PROFILE_ADMITTED",
    "UNSAFE_RULES",
    "USUAL_ENROLMENTS",
    "USUAL_REFUSALS",
    "USUAL_WINDOW_S",
    "EarDemand",
    "EphemeralTerms",
    "Expectation",
    "KbsEntry",
    "LaunchEntry",
    "LaunchFacts",
    "LimitTerms",
    "PlatformEntry",
    "Policy",
    "PolicyFacts",
    "checks",
    "example_document",
    "in_words",
    "judge_launch",
    "kbs_for",
    "launch_checks",
    "load",
    "load_complete",
    "require_complete",
    "require_safe",
    "summary",
    "with_given_up",
]
