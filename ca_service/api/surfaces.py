"""The faces of the CA. Each listener shows one or two of them, and has no path of the others."""

from enum import Enum

OPERATOR = "vtpm_ca.operator"
"""Member of the WSGI environment: the name of the operator who asks, as the listener found it out; None for others.

No header can set it: what a client sends gets into the environment under names of its own (PEP 3333).
"""


class Surface(Enum):
    """A group of paths."""

    ENROLMENT = "enrolment"
    PUBLICATION = "publication"
    OPERATION = "operation"


ALL_SURFACES = frozenset(Surface)
