"""Evidence profiles: one reader each, one kind of value that all of them give, and each profile's own rules.

`read` turns a profile's bytes into `Claims`; from there on, whoever judges need not know which profile it was, but
for what the claims do not have. `profile_checks` are the rules that a profile adds, and `is_ephemeral` says which
evidence earns an ephemeral certificate at most.
"""

from ca_service.evidence.profiles.checks import ISSUED_PROFILES, PROFILE_ISSUED, is_ephemeral, profile_checks
from ca_service.evidence.profiles.claims import Claims
from ca_service.evidence.profiles.readers import read

__all__ = ["ISSUED_PROFILES", "PROFILE_ISSUED", "Claims", "is_ephemeral", "profile_checks", "read"]
