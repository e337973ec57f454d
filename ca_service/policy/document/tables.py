"""The form of a policy document: TOML 1.0, strict.

This module, `document_kbs`, `document_launch` and `document_tests` know which members there are and what each may hold.
What they mean together, `allowlist` decides. What a member says of itself goes into the JSON schema, see `schema`.
"""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ca_service.policy.document.approval import ApprovalTable
from ca_service.policy.document.complaints import Shape, complaint
from ca_service.policy.document.form import Table, Words, problem, says
from ca_service.policy.document.kbs import KbsTable, Seconds
from ca_service.policy.document.launch import LaunchTable, PlatformTable
from ca_service.policy.document.syntax import parse
from ca_service.policy.document.tests import MOST_TESTS, TestTable

MAX_EPHEMERAL_DAYS = 7
"""Longest life of a certificate for a TPM that may be gone tomorrow."""

MAX_ENROLMENTS = 10_000
MIN_WINDOW = 60
MAX_WINDOW = 7 * 24 * 3600
MAX_REFUSALS = 100_000
"""Bounds of the numbers in `LimitsTable`; windows in seconds."""

MAX_DAYS = 365 * 1000
"""Longest life of a certificate that has an end, in days; as in the ceremony."""

TemplateId = Annotated[str, Shape(r"^[A-Z]-[0-9]{1,4}$", 'the id of a key template, such as "H-3"')]
StoreFormat = Annotated[
    str, Shape(r"^[a-z][a-z0-9-]*/[1-9][0-9]{0,3}$", 'a name and a version, such as "cocoonfs/1"')
]

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
    """The grants of all key brokers that do not state it themselves."""

    max_age_s: Annotated[
        Seconds, says("How old a grant may be when a TPM enrols, in seconds from its iat to the decision.")
    ]


class TpmTable(Table):
    """The TPM keys that get certificates."""

    ek: Annotated[list[TemplateId], Field(min_length=1), says("Key templates of EKs.")]
    iak: Annotated[list[TemplateId], Field(min_length=1), says("Key templates of IAKs.")]
    idevid: Annotated[list[TemplateId], Field(min_length=1), says("Key templates of IDevIDs.")]
    iak_profile: Annotated[
        IakProfile,
        says("The form of IAK certificates: the TCG's, or the one that WebAuthn verifiers want."),
    ] = "iak"


class ValidityTable(Table):
    """How long the certificates of a role hold: never longer than the key ceremony and the issuer's own end allow."""

    validity: Annotated[
        Literal["device-lifetime", "bounded"],
        says("As long as the key ceremony allows (device-lifetime), or for days (bounded)."),
    ]
    days: Annotated[int, Field(ge=1, le=MAX_DAYS), says("With bounded, for how long.")] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.validity == "bounded") != (self.days is not None):
            raise ValueError("days belongs to the validity bounded, and to it alone")
        return self


class CertificatesTable(Table):
    """How long certificates hold, by the role of their key. A role that is left out: as the key ceremony says."""

    ek: Annotated[ValidityTable, says("EK certificates.")] | None = None
    iak: Annotated[ValidityTable, says("IAK certificates.")] | None = None
    idevid: Annotated[ValidityTable, says("IDevID certificates.")] | None = None

    @model_validator(mode="after")
    def _says(self) -> Self:
        if self.ek is None and self.iak is None and self.idevid is None:
            raise ValueError("says nothing: name a role, or leave the table out")
        return self


class StoreTable(Table):
    """The volume that holds the TPM's state."""

    formats: Annotated[list[StoreFormat], Field(min_length=1), says("Admitted formats.")]


class EphemeralTable(Table):
    """What is admitted for a certificate of few days by the Ephemeral CA, and for nothing more."""

    days: Annotated[int, Field(ge=1, le=MAX_EPHEMERAL_DAYS), says("For how long such a certificate holds.")]
    profiles: (
        Annotated[
            list[EphemeralProfile], Field(min_length=1), says("Evidence profiles of AMD's SVSM protocol.")
        ]
        | None
    ) = None
    volatile_stores: Annotated[bool, says("Admits TPMs whose state dies with their boot.")] = False

    @model_validator(mode="after")
    def _admits(self) -> Self:
        if self.profiles is None and not self.volatile_stores:
            raise ValueError("admits nothing: name profiles or set volatile_stores, or leave the table out")
        return self


class LimitsTable(Table):
    """How often enrolment may be asked for. A member that is left out: the CA's own number."""

    instance_enrolments: (
        Annotated[
            int,
            Field(ge=1, le=MAX_ENROLMENTS),
            says("How many enrolments of one instance are admitted within the window."),
        ]
        | None
    ) = None
    instance_window_s: (
        Annotated[int, Field(ge=MIN_WINDOW, le=MAX_WINDOW), says("The window, in seconds.")] | None
    ) = None
    launch_refusals_per_hour: (
        Annotated[
            int,
            Field(ge=1, le=MAX_REFUSALS),
            says("How many refusals of one launch each process of the server keeps per hour."),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _says(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("says nothing: name a limit, or leave the table out")
        return self


class UnsafeTable(Table):
    """A rule given up, on a simulation CA only."""

    name: Annotated[UnsafeName, says("Which one.")]
    gives_up: Annotated[Words, says("What is lost by it, in words.")]


class Document(Table):
    """Allow-list of a vTPM CA, schema 1. A table that is missing denies what it would have allowed."""

    schema_: Annotated[int, Field(alias="schema", ge=1, le=1), says("The form of this document.")]
    grant: Annotated[GrantTable, says("How old grants may be.")] | None = None
    tpm: Annotated[TpmTable, says("Which TPM keys get certificates.")] | None = None
    certificates: Annotated[CertificatesTable, says("How long certificates hold.")] | None = None
    store: Annotated[StoreTable, says("Which volumes are good enough.")] | None = None
    ephemeral: Annotated[EphemeralTable, says("What earns an ephemeral certificate.")] | None = None
    limits: Annotated[LimitsTable, says("How often enrolment may be asked for.")] | None = None
    kbs: Annotated[list[KbsTable], says("Key brokers that are trusted, or were.")] = Field(
        default_factory=list
    )
    launch: Annotated[list[LaunchTable], says("Which software may enrol.")] = Field(default_factory=list)
    platform: Annotated[list[PlatformTable], says("What is demanded of processors and firmware.")] = Field(
        default_factory=list
    )
    unsafe: Annotated[list[UnsafeTable], says("Rules that a simulation CA gives up.")] = Field(
        default_factory=list
    )
    approval: Annotated[ApprovalTable, says("How many operators it takes to widen the policy.")] | None = None
    test: Annotated[
        list[TestTable], Field(max_length=MOST_TESTS), says("What recorded evidence must come to.")
    ] = Field(default_factory=list)


def make_ready() -> None:
    """Make the tables ready to read documents, which the first document would have to wait for otherwise."""
    Document.model_rebuild()


def read(text: str) -> tuple[Document, dict[str, object]]:
    """Read a document.

    Returns:
        The document, and its content as TOML gives it.

    Raises:
        BadRequest: as `syntax.parse`; or a member is unknown, missing or holds what it must not (with its path and the
            entry's id).
    """
    content = parse(text)
    try:
        return Document.model_validate(content), content
    except ValidationError as error:
        first, *more = error.errors(include_url=False, include_input=False)
        detail = complaint(first)
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
