"""What all tables of a policy document have in common: strictness, the kinds of names, and how errors point."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ca_service.judgment import BadRequest
from ca_service.policy.document.complaints import Shape

_SHOWN_NAME = 64

Identifier = Annotated[
    str,
    Shape(
        r"^[a-z0-9][a-z0-9._-]{0,63}$",
        "1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
    ),
]
"""Stable id or name of an entry."""

Words = Annotated[str, Shape(r"^[ -~]{1,256}$", "1 to 256 printable ASCII characters")]
"""Printable ASCII for people."""


class Table(BaseModel):
    """A TOML table: unknown members refused, no conversions, immutable.

    A table is made ready when one is read, with all that it is made of: most commands read no document.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


def says(text: str) -> Any:
    """What a member means, for editors that know the document's JSON schema."""
    return Field(description=text)


Path = tuple[int | str, ...]
"""Where something stands in a document: names of members and positions in lists."""


def shown(text: str, most: int = _SHOWN_NAME) -> str:
    """Text from a document, made safe for an error message."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:most])


def shown_path(path: Path) -> str:
    """A place as error messages write it: ``kbs[0].resource[1].pattern``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else ("." if text else "") + shown(step)
    return text


def problem(content: Mapping[str, object], path: Path, detail: str) -> BadRequest:
    """The error about one place of a document: its path, and the id or name of the entry that it is in."""
    return BadRequest(shown_path(path), detail + entry_of(content, path), code="policy-invalid")


def entry_of(content: Mapping[str, object], path: Path) -> str:
    """The id or name of the entry that a place is in, for the end of an error message; may be empty."""
    if len(path) < 2 or not isinstance(path[1], int):  # noqa: PLR2004 - table and position
        return ""
    entries = content.get(str(path[0]))
    if isinstance(entries, list) and path[1] < len(entries) and isinstance(entries[path[1]], dict):
        name = entries[path[1]].get("id" if path[0] == "kbs" else "name")
        if isinstance(name, str):
            return f' (entry "{shown(name)}")'
    return ""
