"""The allow-list: what an operator writes, and how evidence is judged by it.

A policy is a TOML document. `load` reads it strictly and builds the indexes that make every check a lookup;
`checks` gives the checks that a document stands for. What a document does not say is denied, and no document at
all denies everything. `policies/` holds examples.
"""

from ca_service.policy.allowlist import KbsEntry, LaunchEntry, Policy, kbs_for, load
from ca_service.policy.checks import checks
from ca_service.policy.examples import example_document
from ca_service.policy.facts import PolicyFacts
from ca_service.policy.unsafe import UNSAFE_RULES

__all__ = [
    "UNSAFE_RULES",
    "KbsEntry",
    "LaunchEntry",
    "Policy",
    "PolicyFacts",
    "checks",
    "example_document",
    "kbs_for",
    "load",
]
