"""Options of all commands that revoke certificates at once."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ca_service.operations.bounds import LISTED, MAX_LISTED, REASONS

F = TypeVar("F", bound=Callable[..., Any])

with_limit = click.option(
    "--limit",
    type=click.IntRange(0, MAX_LISTED),
    default=LISTED,
    show_default=True,
    help="how many certificates are listed at most; all are counted",
)


def with_reason(default: str = REASONS[0]) -> Callable[[F], F]:
    """Why, for the revocation list and for the record: ``--reason`` and ``--cause``."""

    def add(command: F) -> F:
        command = click.option("--cause", help="why, for the record")(command)
        return click.option(
            "--reason",
            type=click.Choice(REASONS),
            default=default,
            show_default=True,
            help="as RFC 5280 names it",
        )(command)

    return add
