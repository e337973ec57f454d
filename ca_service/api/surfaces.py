"""The faces of the CA. Each listener shows one or two of them, and has no path of the others."""

from enum import Enum


class Surface(Enum):
    """A group of paths."""

    ENROLMENT = "enrolment"
    PUBLICATION = "publication"
    OPERATION = "operation"


ALL_SURFACES = frozenset(Surface)
