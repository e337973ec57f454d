"""The allow-list: what an operator writes, and how evidence is judged by it.

A policy is a TOML document. `load` reads it strictly and builds the indexes that make every check a lookup;
`launch_checks` and `checks` give the checks that a document stands for. What a document does not say is denied, and
no document at all denies everything; `judge_launch` gives the findings of the first of them without looking twice at
the same launch. `load_complete` refuses a document that leaves a question open or cannot be meant. `with_given_up`
puts the permissive entries of a simulation CA in the place of checks that stand elsewhere. `policies/` holds examples.
"""

from ca_service.policy.allowlist import Policy, kbs_for, load, load_complete, require_complete, require_safe
from ca_service.policy.brokers import EarDemand, KbsEntry
from ca_service.policy.checks import PROFILE_ADMITTED, checks, launch_checks, with_given_up
from ca_service.policy.ephemeral import EphemeralTerms
from ca_service.policy.examples import example_document
from ca_service.policy.expectations import MOST_FILES, Expectation
from ca_service.policy.facts import LaunchFacts, PolicyFacts
from ca_service.policy.fleet import judge_launch
from ca_service.policy.launches import LaunchEntry, PlatformEntry
from ca_service.policy.summary import in_words, summary
from ca_service.policy.terms import USUAL_ENROLMENTS, USUAL_REFUSALS, USUAL_WINDOW_S, LimitTerms
from ca_service.policy.unsafe import UNSAFE_RULES

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
