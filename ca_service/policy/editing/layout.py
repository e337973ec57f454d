"""Where the entries of a table stand in the text of a policy document.

An entry is edited in its own lines, so that every other line of the document stays what it is, byte for byte. This
finds the lines; it takes only text that is TOML.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# A string hides brackets, line ends and number signs, so strings are found first (TOML 1.0, sections String, Comment).
_TOKEN = re.compile(
    r"""
    \"{3}(?:\\.|[^\\])*?\"{3,5}
    | '{3}.*?'{3,5}
    | "(?:\\.|[^"\\\n])*"
    | '[^'\n]*'
    | \#[^\n]*
    | [\[\]{}\n]
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENS, _CLOSES = "[{", "]}"


@dataclass(frozen=True)
class Lines:
    """The lines of one entry, as positions in the text.

    Attributes:
        start: of its header.
        end: where something new of the entry is to stand: behind its last line and the comments that belong to it.
        upto: where the next header begins, or the text ends.
    """

    start: int
    end: int
    upto: int


def entries(text: str, table: str) -> list[Lines]:
    """The entries of an array of tables that have a header of their own, in their order.

    Args:
        text: a document that is TOML.
        table: name of the array, a bare key.
    """
    headers, hollow = _scan(text)
    own = re.compile(rf"\[\[[ \t]*{table}[ \t]*\]\]")
    inner = re.compile(rf"\[{{1,2}}[ \t]*{table}[ \t]*\.")
    found: list[Lines] = []
    starts = [*headers, len(text)]
    for number, start in enumerate(headers):
        if own.match(text, start):
            rest = (at for at in starts[number + 1 :] if not inner.match(text, at))
            upto = _line_start(text, next(rest))
            found.append(Lines(_line_start(text, start), _end(text, upto, hollow), upto))
    return found


def _line_start(text: str, at: int) -> int:
    return at if at == len(text) else text.rfind("\n", 0, at) + 1


def _scan(text: str) -> tuple[list[int], set[int]]:
    """Where the headers begin, and where lines that hold nothing but a comment or blanks do."""
    headers, hollow, depth, line = list[int](), set[int](), 0, 0
    for match in _TOKEN.finditer(text):
        found, at = match[0], match.start()
        if found == "\n":
            if not depth and not text[line:at].strip():
                hollow.add(line)
            line = match.end()
        elif found[0] == "#":
            if not depth and not text[line:at].strip():
                hollow.add(line)
        elif found in _OPENS:
            if found == "[" and not depth and not text[line:at].strip():
                headers.append(at)
            depth += 1
        elif found in _CLOSES:
            depth -= 1
    return headers, hollow


def _end(text: str, upto: int, hollow: set[int]) -> int:
    """Behind the last line that says something, and the comments right below it.

    Comments right above the next header belong to that one, unless an empty line tells which are whose.
    """
    tail = list(_tail(text, upto, hollow))
    for at in reversed(tail):
        if text.startswith(("\n", "\r\n"), at) or not text[at : _next_line(text, at)].strip():
            return at
    return upto if upto == len(text) or not tail else tail[-1]


def _next_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _tail(text: str, upto: int, hollow: set[int]) -> Iterator[int]:
    """The hollow lines before `upto`, the last one first."""
    at = upto
    while at:
        at = text.rfind("\n", 0, at - 1) + 1
        if at not in hollow:
            return
        yield at
