"""Which form a request has, and which one its answer is to have (RFC 9110, sections 8.3 and 12.5.1)."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from flask import Request
from werkzeug.exceptions import NotAcceptable, UnsupportedMediaType

_WEIGHT: Final = re.compile(r"q\s*=\s*([0-9]{1,3}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})\Z")
"""Bounded, for what comes from a client and is compared."""

_TEXT_CHARSETS = frozenset({"", "utf-8", "utf8"})


class NotOffered(NotAcceptable):
    """The client takes none of the forms that there are."""

    def __init__(self, offered: Sequence[str]) -> None:
        super().__init__()
        self.detail = "offered here: " + ", ".join(offered)


class NotTaken(UnsupportedMediaType):
    """The content has another form than the one that is read.

    Attributes:
        taken: the media type that is.
    """

    def __init__(self, taken: str) -> None:
        super().__init__()
        self.taken = taken
        self.detail = f"the content must be {taken}" + (" in UTF-8" if taken.endswith("json") else "")


def chosen(request: Request, offered: Sequence[str]) -> str:
    """The form that the client likes best; of several, the one that stands first here.

    Raises:
        NotOffered: it likes none.
    """
    accept = request.environ.get("HTTP_ACCEPT")
    weights = _weights(accept) if accept else {}
    if not weights:
        return offered[0]
    best = max(offered, key=lambda form: _weight(weights, form))
    if _weight(weights, best) <= 0:
        raise NotOffered(offered)
    return best


def _weights(accept: str) -> dict[str, float]:
    """Media ranges with their weights. Parameters other than that do not tell one of our forms from another.

    Java's HttpURLConnection writes ``*/*; q=.2``, so that is a weight, too; what is none counts fully.
    """
    found: dict[str, float] = {}
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            match = _WEIGHT.match(parameter)
            weight = float(match[1]) if match else weight
        if "/" in name:
            found[name] = max(weight, found.get(name, 0.0))
    return found


def _weight(weights: dict[str, float], form: str) -> float:
    """Of ranges that cover it, the closest one counts."""
    ranges = (form, form.partition("/")[0] + "/*", "*/*")
    return next((weights[one] for one in ranges if one in weights), 0.0)


def check_content(request: Request, taken: str, *, needed: bool = True) -> None:
    """See that the content has the form that is read.

    Args:
        request: whose content it is.
        taken: media type.
        needed: whether there must be content; what is not there needs no form.

    Raises:
        NotTaken: it has another one, or does not say.
    """
    said = request.environ.get("CONTENT_TYPE")
    if said == taken or (not needed and not request.content_length and not said):
        return
    charset = request.mimetype_params.get("charset", "").lower()
    if request.mimetype != taken or charset not in _TEXT_CHARSETS:
        raise NotTaken(taken)


def methods_of(valid: Iterable[str] | None) -> str:
    """The value of ``Allow``."""
    return ", ".join(sorted(valid or ()))
