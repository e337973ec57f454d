"""The form of `[[kbs]]`: whose word is taken for where a TPM's state comes from."""

from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints, model_validator

from ca_service.policy.document.complaints import Shape, hex_digits
from ca_service.policy.document.form import Identifier, Table, Words, says

MAX_AGE = 7 * 24 * 3600
"""Greatest age of a grant or token that a document may admit, in seconds."""

Digest = Annotated[str, hex_digits(64)]
PairName = Annotated[
    str,
    Shape(
        r"^[a-z0-9][a-z0-9-]{0,23}$",
        "1 to 24 of a-z, 0-9 and '-', beginning with a letter or digit",
    ),
]
Seconds = Annotated[int, Field(ge=1, le=MAX_AGE)]

Origin = Literal["kbs-generated", "provisioned"]
Status = Literal["trusted", "suspended", "compromised"]
KbsConstraint = Literal["release-policy"]
"""What a key broker may leave open: each the part of a rule's id after ``kbs.``."""


class KeyTable(Table):
    """An ECDSA public key, as a JWK or as PEM (SubjectPublicKeyInfo)."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["jwk"]}, {"required": ["pem"]}]},
    )

    jwk: Annotated[dict[str, str], says("RFC 7517: kty EC, crv, x and y, and nothing else.")] | None = None
    pem: Annotated[str, StringConstraints(max_length=1024), says("One block of type PUBLIC KEY.")] | None = (
        None
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.jwk is None) == (self.pem is None):
            raise ValueError("needs either jwk or pem")
        return self


class ResourceTable(Table):
    """A pattern of resources that this KBS may release. Patterns of one KBS must not overlap."""

    pattern: Annotated[
        str,
        StringConstraints(max_length=128),
        says('Repository, type and tag, each a name or * for any, such as "default/vtpm/*".'),
    ]
    shared: Annotated[
        bool,
        says(
            "Several volumes live under one resource; then the volume's salt tells instances apart, and a host "
            "that resets a TPM goes unnoticed."
        ),
    ] = False


class EarTable(Table):
    """An attestation token (EAR) is asked for as well."""

    key: Annotated[
        list[KeyTable], Field(min_length=1), says("One of these has signed it: on P-256, by ES256.")
    ]
    max_age_s: Annotated[Seconds, says("How old the token may be, in seconds.")]


class KbsTable(Table):
    """A key broker service (KBS)."""

    id: Annotated[
        Identifier,
        says("Stays when the keys change: it is part of what an instance is called."),
    ]
    label: Annotated[Words, says("For people.")] | None = None
    tenant: (
        Annotated[Identifier, says("Whose keys it holds; for listings, and nothing is decided by it.")] | None
    ) = None
    pair: (
        Annotated[
            PairName,
            says("The pair of EK and DevID CA that signs for its TPMs; left out, the default one."),
        ]
        | None
    ) = None
    status: Annotated[
        Status, says("Grants count under the status trusted only; compromised needs compromised_since.")
    ]
    compromised_since: Annotated[AwareDatetime, says("From when on its key was not its own.")] | None = None
    origins: Annotated[
        list[Origin],
        Field(min_length=1),
        says("Where secrets may come from; whoever stored a provisioned one knows it."),
    ]
    release_policies: (
        Annotated[
            list[Digest],
            Field(min_length=1),
            says("Digests of the release policies under which it may hand keys out (SHA-256, hex)."),
        ]
        | None
    ) = None
    grant_max_age_s: (
        Annotated[
            Seconds,
            says("How old its grants may be, in seconds, in the place of the number in [grant]."),
        ]
        | None
    ) = None
    valid_from: Annotated[AwareDatetime, says("The first moment at which the entry counts.")] | None = None
    valid_to: Annotated[AwareDatetime, says("The first moment at which it no longer counts.")] | None = None
    key: Annotated[
        list[KeyTable],
        Field(min_length=1),
        says("Keys that sign its grants, on P-256 or P-384; several while one is being rotated."),
    ]
    resource: Annotated[list[ResourceTable], Field(min_length=1), says("What it may release.")]
    ear: Annotated[EarTable, says("Asks for an attestation token besides the grant.")] | None = None
    unconstrained: Annotated[
        list[KbsConstraint], says("What does not matter here, and is not stated for that reason.")
    ] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.status == "compromised") != (self.compromised_since is not None):
            raise ValueError("compromised_since belongs to the status compromised, and to it alone")
        if self.valid_from is not None and self.valid_to is not None and self.valid_from >= self.valid_to:
            raise ValueError("valid_from must be before valid_to")
        return self
