"""Options that several commands share; nothing of the CA is loaded for them."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from vtpm.wire.report import Product

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

DIRECTORY_VARIABLE = "VTPM_CA_DIR"
DATABASE_VARIABLE = "VTPM_CA_DATABASE"
_ALIASES = {"bergamo": Product.GENOA, "siena": Product.GENOA}


class PathName(click.Path):
    """A path; the empty text is none, for it would mean the working directory."""

    def __init__(self, *, directory: bool) -> None:
        super().__init__(path_type=Path, file_okay=not directory, dir_okay=directory)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse the empty path."""
        if not str(value):
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class OrAbsent(click.ParamType[Any]):
    """A parameter of another type whose empty value counts as absent, as from an unset variable of a script."""

    def __init__(self, inner: click.ParamType[Any]) -> None:
        self.inner = inner
        self.name = inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The other type's value, or None."""
        return None if str(value) == "" else self.inner.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """As the other type."""
        return self.inner.get_metavar(param, ctx)


def given(context: click.Context, parameter: click.Parameter, value: T | None) -> T:
    """The value of an option that must be given, for types where an empty one counts as absent."""
    if value is None:
        raise click.MissingParameter(ctx=context, param=parameter)
    return value


class Moment(click.ParamType[datetime]):
    """A time in ISO 8601; one without a zone is taken as UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read the time."""
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time in ISO 8601, such as 2026-11-26T12:00:00Z", param, ctx)


class ProductName(click.Choice[str]):
    """Milan, Genoa or Turin; Bergamo and Siena are Genoa to everything that is judged here."""

    def __init__(self) -> None:
        super().__init__([product.value for product in Product], case_sensitive=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The product's name, written as AMD does."""
        return super().convert(_ALIASES.get(str(value).lower(), value), param, ctx)


def directory_option(callback: Callable[..., Path | None] | None = None) -> Callable[[F], F]:
    """The option --dir."""
    return click.option(
        "--dir", "directory", metavar="DIR", callback=callback, help=f"the CA's directory, else {DIRECTORY_VARIABLE}"
    )  # fmt: skip


def find_directory(context: click.Context, value: str | None) -> Path:
    """The CA's directory: given, given before the command, or from the environment; raises `click.UsageError`."""
    found = value or context.find_root().obj or os.environ.get(DIRECTORY_VARIABLE)
    if not found:
        raise click.UsageError(f"name the CA's directory with --dir or {DIRECTORY_VARIABLE}", context)
    return Path(found)


def with_directory(command: F) -> F:
    """Give a command the option --dir; it gets the CA's directory as `directory`."""
    return directory_option(lambda context, _parameter, value: find_directory(context, value))(command)


def bundle_option(command: F) -> F:
    """Give a command the option --bundle; it gets the directory, or None, as `bundle`."""
    return click.option(
        "--bundle",
        type=PathName(directory=True),
        metavar="DIR",
        help="this bundle instead of collateral/ in the CA's directory",
    )(command)


def kds_url_option(command: F) -> F:
    """Give a command the option --kds-url; it gets the base URL, or None, as `kds_url`."""
    return click.option(
        "--kds-url", metavar="URL", callback=_kds_url, help="a mirror of AMD's service, instead of AMD's own"
    )(command)


def _kds_url(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if not value:
        return None
    from ca_service.collateral.kds import check_base

    return check_base(value)
