"""``[approval]``: how many operators it takes to admit more than before."""

from typing import Annotated, Literal

from ca_service.policy.document.form import Table, says

Operators = Literal["one", "two"]


class ApprovalTable(Table):
    """Whether a version that widens the policy needs the approval of a second operator."""

    widening: Annotated[Operators, says("Whether a version that admits more waits for another operator.")]


def operators_for_widening(stated: Operators | None, mode: str) -> Operators:
    """How many operators it takes to widen a policy.

    Args:
        stated: what its document says; None if it says nothing.
        mode: of the CA. What a simulation CA certifies is worth nothing, so it asks for one.
    """
    if stated is not None:
        return stated
    return "one" if mode == "simulation" else "two"
