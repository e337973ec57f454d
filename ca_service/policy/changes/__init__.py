"""What a change of the allow-list means: sentences for people, and whether it lets anybody in who was kept out.

`compare` says of two policies what differs and which way each difference works. A difference that this package cannot
show to narrow the policy counts as widening it: only what is proven harmless may do without a second pair of eyes.
"""

from ca_service.policy.changes.documents import Comparison, compare
from ca_service.policy.changes.effects import Change, Effect

__all__ = ["Change", "Comparison", "Effect", "compare"]
