"""What a document would have had to say: the smallest change of a policy that admits what it refused.

`remedy` looks for it, `shown` says it in words and as TOML to paste. Nothing here changes a policy.
"""

from ca_service.policy.remedies.case import Case, TokenFacts
from ca_service.policy.remedies.edits import Content, Edit, edited
from ca_service.policy.remedies.search import MOST_JUDGED, Remedy, remedy
from ca_service.policy.remedies.showing import shown

__all__ = [
    "MOST_JUDGED",
    "Case",
    "Content",
    "Edit",
    "Remedy",
    "TokenFacts",
    "edited",
    "remedy",
    "shown",
]
