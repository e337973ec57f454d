"""The rules of the lint: each a small check with a stable id, over the view that both readers agree on.

A rule's expectation is computed here from what the certificate shall say, not taken from the code that
drafts. The checks of EK certificates are those of the TCG EK Credential Profile 2.6, section 3.2; pkilint and
OpenSSL know nothing of them (they let an EK certificate without SAN, keyUsage or extendedKeyUsage pass). At the end
come the demands of consumers that every certificate of a profile meets.
"""

from functools import cache

from ca_service.judgment import Check
from ca_service.profiles.contracts import CONTRACTS
from ca_service.profiles.model import Profile
from ca_service.profiles.rule import LintSubject, Rule
from ca_service.profiles.rules_frame import FRAME
from ca_service.profiles.rules_key import KEYS
from ca_service.profiles.rules_name import NAMES

RULES: tuple[Rule, ...] = (
    *FRAME,
    *KEYS,
    *NAMES,
    *(rule.as_lint() for rule in CONTRACTS if rule.required),
)


@cache
def rules_for(profile: Profile) -> tuple[Check[LintSubject], ...]:
    """The rules of a profile, in the order in which they are judged."""
    return tuple(rule for rule in RULES if profile in rule.profiles)
