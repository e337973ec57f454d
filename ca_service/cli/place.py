"""Which CA a command is about, who gives it, and when: its directory, its database, the operator, the clock."""

import os
import pwd
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ca_service.cli.options import DATABASE_VARIABLE, DIRECTORY_VARIABLE
from ca_service.judgment import BadRequest, NotFound

if TYPE_CHECKING:
    from ca_service.keys import PublicAuthority


def now() -> datetime:
    """The present time, whole seconds, UTC."""
    return datetime.now(UTC).replace(microsecond=0)


def user_name(uid: int) -> str:
    """Who an operator is, for the record; environment variables have no say in it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def open_public(directory: Path) -> "PublicAuthority":
    """The CA's public side; raises `BadRequest` if there is no CA in that directory."""
    from ca_service.keys import load_public

    try:
        return load_public(directory)
    except NotFound as error:
        raise BadRequest(
            "",
            f"{directory} is not the directory of a CA: {error.detail}",
            code="no-ca",
            remedy=f"Name it with --dir or {DIRECTORY_VARIABLE}; `vtpm-ca init` makes one.",
        ) from None


def find_database(directory: Path, url: str | None = None) -> str:
    """The URL of the database to work on: given, from the environment, or the one in the CA's directory."""
    from ca_service.operations import database_url

    return url or os.environ.get(DATABASE_VARIABLE) or database_url(directory)
