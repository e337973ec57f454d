"""Results for people as tables, for scripts as JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def with_json(command: F) -> F:
    """Give a command the option --json; it gets the flag as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="print JSON")(command)


def show_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def show_rows(
    rows: Sequence[Mapping[str, object]], columns: Sequence[str], *, as_json: bool, empty: str
) -> None:
    """Print a listing: aligned columns with a head line, or `empty` if there is nothing to list."""
    if as_json:
        show_json(list(rows))
        return
    if not rows:
        click.echo(empty)
        return
    table = [[column.replace("_", " ") for column in columns]]
    table += [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    for number, line in enumerate(table):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        click.secho(text, bold=number == 0)


def show_fields(value: Mapping[str, object], *, as_json: bool) -> None:
    """Print one object, a line per member; nested values are left to --json."""
    if as_json:
        show_json(value)
        return
    flat = {name: item for name, item in value.items() if not isinstance(item, list | dict)}
    width = max((len(name) for name in flat), default=0)
    for name, item in flat.items():
        click.echo(f"{name.replace('_', ' ').ljust(width)}  {_cell(item)}")
