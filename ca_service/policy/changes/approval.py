"""What differs between two policies in how many operators it takes to widen them."""

from collections.abc import Iterator

from ca_service.policy.changes.effects import Effect, Step
from ca_service.policy.document.approval import Operators, operators_for_widening


def compare_approval(old: Operators | None, new: Operators | None, mode: str) -> Iterator[Step]:
    """How many two documents ask for under a CA's mode; None for one that does not say."""
    before, after = (operators_for_widening(stated, mode) for stated in (old, new))
    if before != after:
        # It admits nobody by itself, and yet whoever may do it alone may then do the rest alone.
        effect = Effect.WIDENS if after == "one" else Effect.NARROWS
        yield (
            effect,
            f"asks for the approval of {after} operator{'s' if after == 'two' else ''} to be widened, not {before}",
        )
