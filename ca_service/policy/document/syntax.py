"""TOML text to values, in bounded time; every complaint has a line and a column.

The time that Python's reader takes for a dotted key grows with the square of its parts, and a document may come from
anybody who hands an auditor a folder. No member of a policy lies deeper than a few tables, so long keys are refused
before the reader sees them.
"""

import re
import tomllib
from typing import Final

from ca_service.judgment import BadRequest
from ca_service.policy.document.form import shown

MAX_DOCUMENT: Final = 16 * 1024 * 1024
"""Longest document, in characters."""

MOST_PARTS: Final = 16
"""Most parts of a dotted key."""

_MOST_DIGITS: Final = 4300
"""Python converts no integer of more decimal digits, so that this takes no quadratic time either."""

_SHOWN_REASON = 256

# TOML 1.0: strings and comments. Up to two further quotes before the last three belong to a multi-line string. One that
# does not end counts as far as it goes: the reader stops there, and no character is looked at twice.
_LITERALS: Final = re.compile(
    r'"""[^\\]*?(?:\\(?:.|\Z)[^\\]*?)*?(?:"{3,5}|\Z)'
    r"|'''.*?(?:'{3,5}|\Z)"
    r'|"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*"?'
    r"|'[^'\n]*'?"
    r"|#[^\n]*",
    re.DOTALL,
)
_AROUND_KEYS: Final = str.maketrans("=,{}[]", "\n" * 6)
_END: Final = re.compile(r"\(at end of document\)\Z")
_NUMBER: Final = re.compile(rf"(?<![0-9_])[0-9][0-9_]{{{_MOST_DIGITS},}}")


def parse(text: str) -> dict[str, object]:
    """Read TOML 1.0.

    Raises:
        BadRequest: too long, a key of more than `MOST_PARTS` parts, or no TOML; with line and column, code
            ``policy-invalid``.
    """
    if len(text) > MAX_DOCUMENT:
        raise _refused(f"must be at most {MAX_DOCUMENT} characters long")
    if (long := _long_key(text)) is not None:
        raise _refused(
            f"is not like any policy: a key of more than {MOST_PARTS} parts ({_place(text, long)})"
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = _END.sub(f"({_place(text, len(text))}, the end of the document)", str(error))
        raise _refused(f"is not TOML: {shown(reason, _SHOWN_REASON)}") from error
    except RecursionError as error:
        raise _refused(f"is not TOML: nested too deeply ({_place(text, _deepest(text))})") from error
    except ValueError as error:
        number = _NUMBER.search(_bare(text))
        at = "" if number is None else f" ({_place(text, number.start())})"
        raise _refused(f"is not TOML: a number of too many digits{at}") from error


def _refused(detail: str) -> BadRequest:
    return BadRequest("", detail, code="policy-invalid")


def _place(text: str, position: int) -> str:
    """Line and column as the reader counts them."""
    before = text[:position]
    line_start = before.rfind("\n") + 1
    return f"at line {before.count(chr(10)) + 1}, column {position - line_start + 1}"


def _long_key(text: str) -> int | None:
    """Where a key of too many parts begins; None if there is none.

    Outside of strings and comments a dot stands in keys and numbers, and a number has one.
    """
    pieces = _LITERALS.sub("s", text).translate(_AROUND_KEYS).split("\n")
    if all(piece.count(".") < MOST_PARTS for piece in pieces):
        return None
    start = 0
    for piece in _bare(text).translate(_AROUND_KEYS).split("\n"):
        if piece.count(".") >= MOST_PARTS:
            return start + len(piece) - len(piece.lstrip())
        start += len(piece) + 1
    return 0


def _bare(text: str) -> str:
    """The text with its strings and comments blotted out, every other character in its place."""
    return _LITERALS.sub(lambda found: re.sub(r"[^\n]", "s", found[0]), text)


def _deepest(text: str) -> int:
    """Where the most brackets are open."""
    depth = deepest = position = 0
    for bracket in re.finditer(r"[\[{}\]]", _bare(text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > deepest:
            deepest, position = depth, bracket.start()
    return position
