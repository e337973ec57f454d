"""The form of a policy document: TOML 1.0, strict.

This module knows which members there are and what each may hold. What they mean together, `allowlist` decides.
"""

import tomllib
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from ca_service.judgment import BadRequest

MAX_DOCUMENT = 16 * 1024 * 1024
"""Longest document, in characters."""

_MAX_AGE = 7 * 24 * 3600
_SHOWN_NAME = 64
_SHOWN_REASON = 256

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
"""Stable id or name of an entry."""

Words = Annotated[str, StringConstraints(pattern=r"^[ -~]{1,256}$")]
"""Printable ASCII for people."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Measurement = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$")]
TemplateId = Annotated[str, StringConstraints(pattern=r"^[A-Z]-[0-9]{1,4}$")]
StoreFormat = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*/[1-9][0-9]{0,3}$")]

Capability = Literal["verifies-grants", "reports-state", "oracle-free"]
ProductName = Literal["Milan", "Genoa", "Turin"]
Origin = Literal["kbs-generated", "provisioned"]
Status = Literal["trusted", "suspended", "compromised"]
UnsafeName = Literal[
    "UnsafeAllowAnyMeasurement",
    "UnsafeAllowMissingCapabilities",
    "UnsafeAllowAnyKbs",
    "UnsafeAllowAnyResource",
    "UnsafeAllowAnyOrigin",
    "UnsafeAllowAnyReleasePolicy",
    "UnsafeAllowAnyGrantAge",
    "UnsafeAllowVolatileStore",
]


class _Table(BaseModel):
    """A TOML table: unknown members refused, no conversions, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class GrantTable(_Table):
    """``[grant]``: how old a grant may be, in seconds."""

    max_age_s: Annotated[int, Field(ge=1, le=_MAX_AGE)]


class KeyTable(_Table):
    """``[[kbs.key]]``: an ECDSA public key, as a JWK or as PEM (SubjectPublicKeyInfo)."""

    jwk: dict[str, str] | None = None
    pem: Annotated[str, StringConstraints(max_length=1024)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.jwk is None) == (self.pem is None):
            raise ValueError("needs either jwk or pem")
        return self


class ResourceTable(_Table):
    """``[[kbs.resource]]``: a pattern of resources that this KBS may release.

    `shared` says that several volumes live under one resource; then the volume's salt tells instances apart.
    """

    pattern: Annotated[str, StringConstraints(max_length=128)]
    shared: bool = False


class KbsTable(_Table):
    """``[[kbs]]``: a key broker service; its `id` stays when its keys change."""

    id: Identifier
    label: Words | None = None
    status: Status
    compromised_since: AwareDatetime | None = None
    origins: Annotated[list[Origin], Field(min_length=1)]
    release_policies: Annotated[list[Digest], Field(min_length=1)] | None = None
    valid_from: AwareDatetime | None = None
    valid_to: AwareDatetime | None = None
    key: Annotated[list[KeyTable], Field(min_length=1)]
    resource: Annotated[list[ResourceTable], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.status == "compromised") != (self.compromised_since is not None):
            raise ValueError("compromised_since belongs to the status compromised, and to it alone")
        if self.valid_from is not None and self.valid_to is not None and self.valid_from >= self.valid_to:
            raise ValueError("valid_from must be before valid_to")
        return self


class LaunchTable(_Table):
    """``[[launch]]``: an SVSM build that may enrol."""

    name: Identifier
    label: Words | None = None
    measurement: Measurement
    capabilities: list[Capability]
    products: Annotated[list[ProductName], Field(min_length=1)]


class TpmTable(_Table):
    """``[tpm]``: the key templates that get certificates."""

    ek: Annotated[list[TemplateId], Field(min_length=1)]
    iak: Annotated[list[TemplateId], Field(min_length=1)]
    idevid: Annotated[list[TemplateId], Field(min_length=1)]


class StoreTable(_Table):
    """``[store]``: the formats of the volume that holds the TPM's state."""

    formats: Annotated[list[StoreFormat], Field(min_length=1)]


class UnsafeTable(_Table):
    """``[[unsafe]]``: a rule given up, on a simulation CA only, with what is lost by it in words."""

    name: UnsafeName
    gives_up: Words


class Document(_Table):
    """A whole policy document of schema 1. A table that is missing denies what it would have allowed."""

    schema_: Annotated[int, Field(alias="schema", ge=1, le=1)]
    grant: GrantTable | None = None
    tpm: TpmTable | None = None
    store: StoreTable | None = None
    kbs: list[KbsTable] = Field(default_factory=list)
    launch: list[LaunchTable] = Field(default_factory=list)
    unsafe: list[UnsafeTable] = Field(default_factory=list)


def _shown(text: str, most: int = _SHOWN_NAME) -> str:
    """Text from the document, made safe for an error message."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:most])


def problem(content: Mapping[str, object], path: tuple[int | str, ...], detail: str) -> BadRequest:
    """The error about one place of a document: its path, and the id or name of the entry that it is in."""
    shown = ""
    for step in path:
        shown += f"[{step}]" if isinstance(step, int) else ("." if shown else "") + _shown(step)
    return BadRequest(shown, detail + _entry(content, path), code="policy-invalid")


def _entry(content: Mapping[str, object], path: tuple[int | str, ...]) -> str:
    if len(path) < 2 or not isinstance(path[1], int):  # noqa: PLR2004 - table and position
        return ""
    entries = content.get(str(path[0]))
    if isinstance(entries, list) and path[1] < len(entries) and isinstance(entries[path[1]], dict):
        name = entries[path[1]].get("name" if path[0] in ("launch", "unsafe") else "id")
        if isinstance(name, str):
            return f' (entry "{_shown(name)}")'
    return ""


def read(text: str) -> tuple[Document, dict[str, object]]:
    """Read a document.

    Returns:
        The document, and its content as TOML gives it.

    Raises:
        BadRequest: too long; no TOML (with line and column); or a member that is unknown, missing or holds what it
            must not (with its path and the entry's id).
    """
    if len(text) > MAX_DOCUMENT:
        raise BadRequest("", f"must be at most {MAX_DOCUMENT} characters long", code="policy-invalid")
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = _shown(str(error), _SHOWN_REASON) if isinstance(error, ValueError) else "nested too deeply"
        raise BadRequest("", f"is not TOML: {reason}", code="policy-invalid") from error
    try:
        return Document.model_validate(content), content
    except ValidationError as error:
        first, *more = error.errors(include_url=False, include_input=False, include_context=False)
        detail = first["msg"].removeprefix("Value error, ")
        if more:
            detail += f", and {len(more)} more problem" + ("s" if len(more) > 1 else "")
        raise problem(content, first["loc"], detail) from None


def plain(value: object) -> object:
    """The content with times as ISO 8601 text, so that it has a canonical JSON form."""
    if isinstance(value, dict):
        return {name: plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [plain(element) for element in value]
    return value.isoformat() if isinstance(value, datetime) else value
