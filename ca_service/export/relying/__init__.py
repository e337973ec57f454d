"""Does a certificate of this CA count? What a relying party has to look at, as checks with stable ids.

A reader starts at `judge_certificate`. It is pure: certificates, lists and answers are handed in as bytes, and so is
the time. Consumers such as keylime look at the issuer's name and one signature; everything else is here.
"""

from ca_service.export.relying.judging import CHECKS, Lookup, judge_certificate, lookup
from ca_service.export.relying.rule import ProvenanceRule
from ca_service.export.relying.subject import LARGEST_CERTIFICATE, Kind
from ca_service.export.relying.trust import Trust

__all__ = [
    "CHECKS",
    "LARGEST_CERTIFICATE",
    "Kind",
    "Lookup",
    "ProvenanceRule",
    "Trust",
    "judge_certificate",
    "lookup",
]
