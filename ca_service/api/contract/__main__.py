"""``python -m ca_service.api.contract [--check]``: write the OpenAPI document, or see whether it is the right one."""

import difflib
import sys
from importlib.resources import as_file, files
from typing import TextIO

import click

from ca_service.api.contract.openapi import text
from ca_service.api.document import FILE

_DIFFERS = 1
_MOST_LINES = 60


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="write nothing; exit 1 and show the difference if there is one")
@click.option("--stdout", is_flag=True, help="print the document instead of keeping it")
def main(*, check: bool, stdout: bool) -> None:
    """Write the OpenAPI document of this release to where the server takes it from."""
    wanted = text()
    if stdout:
        click.echo(wanted, nl=False)
        return
    with as_file(files("ca_service.api").joinpath(FILE)) as path:
        kept = path.read_text(encoding="utf-8") if path.exists() else ""
        if not check:
            path.write_text(wanted, encoding="utf-8")
            return
    if kept != wanted:
        _show(kept, wanted, sys.stderr)
        sys.exit(_DIFFERS)


def _show(kept: str, wanted: str, stream: TextIO) -> None:
    lines = list(difflib.unified_diff(kept.splitlines(), wanted.splitlines(), "kept", "made", lineterm=""))
    for line in lines[:_MOST_LINES]:
        click.echo(line, file=stream)
    click.echo("The document differs. Write it: python -m ca_service.api.contract", file=stream)


if __name__ == "__main__":
    main()
