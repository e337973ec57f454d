"""The form of a policy document: TOML 1.0, strict.

This module, `document_launch` and `document_tests` know which members there are and what each may hold. What they mean
together, `allowlist` decides.
"""

import tomllib
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, StringConstraints, ValidationError, model_validator

from ca_service.judgment import BadRequest
from ca_service.policy.approval import ApprovalTable
from ca_service.policy.document_launch import LaunchTable, PlatformTable
from ca_service.policy.document_tests import MOST_TESTS, TestTable
from ca_service.policy.form import Identifier, Table, Words, problem, shown

MAX_DOCUMENT = 16 * 1024 * 1024
"""Longest document, in characters."""

MAX_EPHEMERAL_DAYS = 7
"""Longest life of a certificate for a TPM that may be gone tomorrow."""

_MAX_AGE = 7 * 24 * 3600
_SHOWN_REASON = 256

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PairName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,23}$")]
TemplateId = Annotated[str, StringConstraints(pattern=r"^[A-Z]-[0-9]{1,4}$")]
StoreFormat = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*/[1-9][0-9]{0,3}$")]

Origin = Literal["kbs-generated", "provisioned"]
Status = Literal["trusted", "suspended", "compromised"]
IakProfile = Literal["iak", "iak-webauthn"]
EphemeralProfile = Literal["amd-svsm-services", "amd-svsm-vtpm:0"]
UnsafeName = Literal[
    "UnsafeAllowAnyMeasurement",
    "UnsafeAllowMissingCapabilities",
    "UnsafeAllowAnyPlatform",
    "UnsafeAllowAnyKbs",
    "UnsafeAllowAnyResource",
    "UnsafeAllowAnyOrigin",
    "UnsafeAllowAnyReleasePolicy",
    "UnsafeAllowAnyGrantAge",
    "UnsafeAllowVolatileStore",
]


class GrantTable(Table):
    """``[grant]``: how old a grant may be, in seconds."""

    max_age_s: Annotated[int, Field(ge=1, le=_MAX_AGE)]


class KeyTable(Table):
    """``[[kbs.key]]``: an ECDSA public key, as a JWK or as PEM (SubjectPublicKeyInfo)."""

    jwk: dict[str, str] | None = None
    pem: Annotated[str, StringConstraints(max_length=1024)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.jwk is None) == (self.pem is None):
            raise ValueError("needs either jwk or pem")
        return self


class ResourceTable(Table):
    """``[[kbs.resource]]``: a pattern of resources that this KBS may release.

    `shared` says that several volumes live under one resource; then the volume's salt tells instances apart.
    """

    pattern: Annotated[str, StringConstraints(max_length=128)]
    shared: bool = False


class EarTable(Table):
    """``[kbs.ear]``: an attestation token is asked for as well, signed by one of these keys (P-256, ES256)."""

    key: Annotated[list[KeyTable], Field(min_length=1)]
    max_age_s: Annotated[int, Field(ge=1, le=_MAX_AGE)]


class KbsTable(Table):
    """``[[kbs]]``: a key broker service; its `id` stays when its keys change.

    `pair` names the pair of EK and DevID CA that signs for its TPMs, so that their consumers' trust can be withdrawn
    by retiring that pair.
    """

    id: Identifier
    label: Words | None = None
    pair: PairName | None = None
    status: Status
    compromised_since: AwareDatetime | None = None
    origins: Annotated[list[Origin], Field(min_length=1)]
    release_policies: Annotated[list[Digest], Field(min_length=1)] | None = None
    valid_from: AwareDatetime | None = None
    valid_to: AwareDatetime | None = None
    key: Annotated[list[KeyTable], Field(min_length=1)]
    resource: Annotated[list[ResourceTable], Field(min_length=1)]
    ear: EarTable | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.status == "compromised") != (self.compromised_since is not None):
            raise ValueError("compromised_since belongs to the status compromised, and to it alone")
        if self.valid_from is not None and self.valid_to is not None and self.valid_from >= self.valid_to:
            raise ValueError("valid_from must be before valid_to")
        return self


class TpmTable(Table):
    """``[tpm]``: the key templates that get certificates, and in which form IAKs get theirs."""

    ek: Annotated[list[TemplateId], Field(min_length=1)]
    iak: Annotated[list[TemplateId], Field(min_length=1)]
    idevid: Annotated[list[TemplateId], Field(min_length=1)]
    iak_profile: IakProfile = "iak"


class StoreTable(Table):
    """``[store]``: the formats of the volume that holds the TPM's state."""

    formats: Annotated[list[StoreFormat], Field(min_length=1)]


class EphemeralTable(Table):
    """``[ephemeral]``: what is admitted for a certificate of few days by the Ephemeral CA, and for nothing more.

    `days` is how long such a certificate holds; `profiles` names evidence profiles of AMD's SVSM protocol;
    `volatile_stores` admits TPMs whose state dies with their boot.
    """

    days: Annotated[int, Field(ge=1, le=MAX_EPHEMERAL_DAYS)]
    profiles: Annotated[list[EphemeralProfile], Field(min_length=1)] | None = None
    volatile_stores: bool = False

    @model_validator(mode="after")
    def _admits(self) -> Self:
        if self.profiles is None and not self.volatile_stores:
            raise ValueError("admits nothing: name profiles or set volatile_stores, or leave the table out")
        return self


class UnsafeTable(Table):
    """``[[unsafe]]``: a rule given up, on a simulation CA only, with what is lost by it in words."""

    name: UnsafeName
    gives_up: Words


class Document(Table):
    """A whole policy document of schema 1. A table that is missing denies what it would have allowed."""

    schema_: Annotated[int, Field(alias="schema", ge=1, le=1)]
    grant: GrantTable | None = None
    tpm: TpmTable | None = None
    store: StoreTable | None = None
    ephemeral: EphemeralTable | None = None
    approval: ApprovalTable | None = None
    kbs: list[KbsTable] = Field(default_factory=list)
    launch: list[LaunchTable] = Field(default_factory=list)
    platform: list[PlatformTable] = Field(default_factory=list)
    unsafe: list[UnsafeTable] = Field(default_factory=list)
    test: Annotated[list[TestTable], Field(max_length=MOST_TESTS)] = Field(default_factory=list)


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
        reason = shown(str(error), _SHOWN_REASON) if isinstance(error, ValueError) else "nested too deeply"
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
