"""Results for people as text that fits their terminal, for scripts as JSON."""

import errno
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from ca_service.judgment import Unavailable

F = TypeVar("F", bound=Callable[..., Any])

_WIDTH = 120
_LEAST_WIDTH = 40
_NARROWEST_COLUMN = 8
_GAP = "  "
_COLOURS = {"failed": "red", "unsafe-skipped": "yellow"}


class OutputLost(Unavailable):
    """Nobody takes the output; `silent` if whoever read it simply went away."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"the output cannot be written: {error.strerror}", code="output")
        self.silent = error.errno == errno.EPIPE


def with_json(command: F) -> F:
    """Give a command the option --json; it gets the flag as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="print JSON")(command)


def echo(text: str, *, nl: bool = True, err: bool = False, bold: bool = False, fg: str | None = None) -> None:
    """Print a text, what would steer a terminal in it as escapes; raises `OutputLost` if it cannot be written."""
    try:
        click.secho(printable(text, keep="\n\t"), nl=nl, err=err, bold=bold, fg=fg)
    except OSError as error:
        raise OutputLost(error) from None


def show_json(value: object) -> None:
    """Print a value as indented JSON, in ASCII: it is the same under every locale."""
    echo(json.dumps(value, indent=1))


def show_rows(
    rows: Sequence[Mapping[str, object]], columns: Sequence[str], *, as_json: bool, empty: str
) -> None:
    """Print a listing: aligned columns with a head line, or `empty` if there is nothing to list.

    On a terminal, long cells go on in further lines of their column. Into a pipe or file each row is one line.
    """
    if as_json:
        show_json(list(rows))
        return
    if not rows:
        if empty:
            echo(empty)
        return
    table = [[column.replace("_", " ") for column in columns]]
    table += [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    if _is_looked_at():
        widths = _fit(widths, _width() - len(_GAP) * (len(columns) - 1))
    for number, line in enumerate(table):
        cells = [_wrap(cell, width) for cell, width in zip(line, widths, strict=True)]
        for part in range(max(len(cell) for cell in cells)):
            pieces = [cell[part] if part < len(cell) else "" for cell in cells]
            text = _GAP.join(piece.ljust(width) for piece, width in zip(pieces, widths, strict=True))
            echo(text.rstrip(), bold=number == 0)


def show_fields(value: Mapping[str, object], *, as_json: bool) -> None:
    """Print one object, a line per member; nested values are left to --json."""
    if as_json:
        show_json(value)
        return
    flat = {name: item for name, item in value.items() if not isinstance(item, list | dict)}
    width = max((len(name) for name in flat), default=0)
    for name, item in flat.items():
        echo(f"{name.replace('_', ' ').ljust(width)}{_GAP}{_cell(item)}".rstrip())


def show_paragraph(text: str, *, indent: str = "", fg: str | None = None) -> None:
    """Print a text in lines that fit, those after the first indented by two more."""
    room = max(_LEAST_WIDTH, _width() - len(indent))
    for line in _wrap(_cell(text), room, indent="  "):
        echo(indent + line, fg=fg)


def show_trace(findings: Sequence[Mapping[str, str]]) -> None:
    """Print the findings of a decision: verdict, rule, and beside them what was said, wanted and seen."""
    if not findings:
        echo("no check looked")
        return
    verdicts = [f["verdict"].upper() if f["verdict"] in _COLOURS else f["verdict"] for f in findings]
    first = max(map(len, verdicts))
    second = max(len(f["rule"]) for f in findings)
    room = max(_LEAST_WIDTH, _width() - first - second - 2 * len(_GAP))
    for verdict, finding in zip(verdicts, findings, strict=True):
        head, *more = _said(finding, room) or [""]
        colour = _COLOURS.get(finding["verdict"])
        line = _GAP.join((verdict.ljust(first), finding["rule"].ljust(second), head)).rstrip()
        echo(line, fg=colour, bold=colour is not None)
        for text in more:
            echo(" " * (first + second + 2 * len(_GAP)) + text)


def _said(finding: Mapping[str, str], room: int) -> list[str]:
    expected, actual = _cell(finding["expected"]), _cell(finding["actual"])
    texts = [finding["reason"]] if finding["reason"] else []
    if expected and actual and len(expected) + len(actual) + len("expected ; actual ") <= room:
        texts.append(f"expected {expected}; actual {actual}")
    else:
        texts += [f"{word} {text}" for word, text in (("expected", expected), ("actual", actual)) if text]
    return [line for text in texts for line in _wrap(_cell(text), room, indent="  ")]


def _cell(value: object) -> str:
    """A value as one line of text; what would steer the terminal is shown as an escape."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_part(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_part, value))
    return printable(str(value))


def _part(value: object) -> str:
    """A value within another one: it must be seen where it ends."""
    text = _cell(value) or "-"
    return f"({text})" if isinstance(value, Mapping) else text


def printable(text: str, keep: str = "") -> str:
    """The text with everything that would steer a terminal as escapes, but for the characters in `keep`."""
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text
    )


def _is_looked_at() -> bool:
    return bool(os.environ.get("COLUMNS")) or (sys.stdout is not None and sys.stdout.isatty())


def _width() -> int:
    return max(_LEAST_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)


def _fit(widths: list[int], room: int) -> list[int]:
    """Take from the widest columns until all fit, or none can give more."""
    fitted = list(widths)
    while sum(fitted) > room:
        widest = max(fitted)
        if widest <= _NARROWEST_COLUMN:
            break
        fitted[fitted.index(widest)] = widest - 1
    return fitted


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    if len(text) <= width:
        # Most cells, and to wrap one takes longer than all else that is done for it.
        return [text]
    return textwrap.wrap(text, width, break_on_hyphens=False, subsequent_indent=indent) or [""]
