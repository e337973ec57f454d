"""The settings of `vtpm-ca serve` as a file: the same names as its options, read strictly."""

import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from ca_service.cli.files import read_text
from ca_service.cli.options import PathName
from ca_service.judgment import BadRequest

F = TypeVar("F", bound=Callable[..., Any])

_MAX_FILE = 64 * 1024
_KINDS: dict[type, str] = {str: "a text", int: "a whole number", bool: "true or false"}


def settings_option(command: F) -> F:
    """Give a command the option --config: a file with values for its other options.

    What is given on the command line wins. Paths in the file are relative to its folder.
    """
    return click.option(
        "--config",
        type=PathName(directory=False),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_take,
        help='take these options from a file (TOML: bind = "..." and so on); those given here win',
    )(command)


def _take(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        # Other commands have to find the CA too, so its directory is named where all of them look.
        others = (
            option for option in context.command.params if option.name not in (parameter.name, "directory")
        )
        context.default_map = read_settings(value, others)


def read_settings(path: Path, options: Iterable[click.Parameter]) -> dict[str, object]:
    """The values in a settings file, by the name of the parameter that each is for.

    Args:
        path: a TOML document without tables. A member is an option without its hyphens in front.
        options: those that it may set.

    Raises:
        BadRequest: it cannot be read, is no TOML, or a member is unknown or of the wrong kind; with the line.
    """
    text = read_text(path, _MAX_FILE)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(str(path), f"is no TOML: {error}") from None
    known = {option.opts[0].removeprefix("--"): option for option in options}
    found: dict[str, object] = {}
    for name, value in document.items():
        where = f"{path}, line {_line_of(text, name)}"
        if name not in known:
            raise BadRequest(
                where, f"{name!r} is no setting", remedy=f"There are: {', '.join(sorted(known))}."
            )
        option = known[name]
        wanted = _kind_of(option)
        # A bool is an int to isinstance.
        if type(value) is not wanted:
            raise BadRequest(where, f"{name} must be {_KINDS[wanted]}")
        named = isinstance(option.type, PathName) and isinstance(value, str) and value
        found[option.name or name] = str(path.absolute().parent / named) if named else value
    return found


def _kind_of(option: click.Parameter) -> type:
    if isinstance(option, click.Option) and option.is_flag:
        return bool
    return int if isinstance(option.type, click.IntRange) else str


def _line_of(text: str, name: str) -> int:
    """The line where a member of a document without tables, or the table of that name, begins."""
    member = re.compile(rf"""\s*\[*\s*["']?{re.escape(name)}(?![\w-])""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if member.match(line)), 1)
