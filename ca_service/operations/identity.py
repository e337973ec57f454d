"""Whether two names of operators stand for two people, as far as the CA can tell."""

import re
from typing import Final
from urllib.parse import unquote

_CERTIFIED: Final = re.compile(r"CN=|[A-Za-z][A-Za-z0-9+.-]*:")
_HOST: Final = "the CA's host"


def party(name: str) -> str:
    """The party that an operator's name stands for: what two names have in common that may be one person's.

    All users of the CA's host are one party. Only root and the CA's own user get to its operator socket; the first may
    act as the second, and each can write to the database without asking anybody. A name in a certificate is compared
    without regard to case, spacing and percent-encoding: who may have ``CN=Alice`` and ``CN=alice`` is not two people
    for that.
    """
    if not _CERTIFIED.match(name):
        return _HOST
    return " ".join(unquote(name).split()).casefold().rstrip("/. ")


def same_operator(one: str, other: str) -> bool:
    """Whether two names may be one person's; in doubt they are."""
    return party(one) == party(other)
