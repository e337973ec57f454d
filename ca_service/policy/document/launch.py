"""The form of `[[launch]]` and `[[platform]]`: which software may enrol, and on what processors and firmware.

Two tables, because they change for different reasons: a build is replaced when its source changes, a firmware floor
is raised for all builds at once. A member that is missing is an open question, not an answer; what is meant not to
matter stands in `unconstrained`.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from ca_service.policy.document.bits import GUEST_POLICY, OTHER, PLATFORM_INFO
from ca_service.policy.document.complaints import Shape, hex_digits
from ca_service.policy.document.form import Identifier, Table, Words, says
from vtpm.wire.report import TCB_LAYOUT, Product

_MAX_MITIGATIONS = (1 << 53) - 1
"""The digest of a document is over JSON, whose numbers are exact up to here (RFC 8785)."""

_MAX_CRL_AGE_DAYS = 3660


def _not_zero(text: str) -> str:
    if not text.strip("0"):
        raise ValueError("must not be all zero: that is how a report says that it has none")
    return text


def _small(text: str) -> str:
    if any(int(part) > 255 for part in text.split(".")):  # noqa: PLR2004 - one byte each in the report
        raise ValueError("must have numbers of at most 255")
    return text


def _one_of(names: Iterable[str]) -> Callable[[str], str]:
    known = tuple(names)

    def check(name: str) -> str:
        if name not in known:
            raise ValueError("must be one of " + ", ".join(known))
        return name

    return check


def _named(names: Iterable[str]) -> Any:
    return Field(json_schema_extra={"enum": list(names)})


Measurement = Annotated[str, hex_digits(96)]
KeyDigest = Annotated[str, hex_digits(96), AfterValidator(_not_zero)]
HostData = Annotated[str, hex_digits(64)]
BlockId = Annotated[str, hex_digits(32)]
ChipId = Annotated[
    str,
    Shape(r"^([0-9a-f]{128}|[0-9a-f]{16})$", "128 lower-case hex digits, or 16 on Turin"),
    AfterValidator(_not_zero),
]
AbiVersion = Annotated[
    str,
    Shape(r"^(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})$", 'major.minor, such as "1.51"'),
    AfterValidator(_small),
]
FirmwareVersion = Annotated[
    str,
    Shape(
        r"^(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){1,2}$",
        'major.minor, or with the build, such as "1.55.29"',
    ),
    AfterValidator(_small),
]
Level = Annotated[int, Field(ge=0, le=255)]

Capability = Literal["verifies-grants", "reports-state", "oracle-free"]
ProductName = Literal["Milan", "Genoa", "Turin"]
KeyName = Literal["VCEK", "VLEK"]
GuestPolicyBit = Annotated[str, AfterValidator(_one_of(GUEST_POLICY)), _named(GUEST_POLICY)]
PlatformInfoBit = Annotated[str, AfterValidator(_one_of(PLATFORM_INFO)), _named(PLATFORM_INFO)]
LaunchConstraint = Literal[
    "measurement",
    "id-key",
    "author-key",
    "host-data",
    "family-id",
    "image-id",
    "guest-svn",
    "abi",
    "guest-policy",
]
"""What a launch may leave open: each the part of a rule's id after ``launch.``."""

PlatformConstraint = Literal[
    "signing-key",
    "report-version",
    "info",
    "launch-mitigations",
    "current-mitigations",
    "chip",
    "provisional-firmware",
    "crl-age",
    "reported-tcb",
    "committed-tcb",
    "launch-tcb",
    "api",
    "build",
]
"""What a platform may leave open: each the part of a rule's id after ``platform.``."""


def _each_once(lists: Iterable[list[str]], known: Iterable[str]) -> None:
    """Refuse a bit that is not said anything about, or more than once."""
    said = [name for names in lists for name in names]
    for name in known:
        if said.count(name) != 1:
            problem = "stands twice" if name in said else "is missing"
            raise ValueError(f'each bit must stand once in require, forbid or either: "{name}" {problem}')


class GuestPolicyTable(Table):
    """What the launch asked of the firmware; each bit in exactly one list."""

    require: Annotated[list[GuestPolicyBit], says("These must be set.")]
    forbid: Annotated[list[GuestPolicyBit], says("These must not be set.")]
    either: Annotated[list[GuestPolicyBit], says("These do not matter.")]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _each_once((self.require, self.forbid, self.either), GUEST_POLICY)
        return self


class PlatformInfoTable(Table):
    """What the firmware says of the machine; each bit in exactly one list."""

    require: Annotated[list[PlatformInfoBit], says("These must be set.")]
    forbid: Annotated[list[PlatformInfoBit], says("These must not be set.")]
    either: Annotated[list[PlatformInfoBit], says("These do not matter.")]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _each_once((self.require, self.forbid, self.either), PLATFORM_INFO)
        if OTHER in self.require:
            raise ValueError('"other" stands for many bits: they can be forbidden, but not required')
        return self


class LaunchTable(Table):
    """An SVSM build that may enrol on one platform, or the builds that a key has signed."""

    name: Annotated[Identifier, says("Unique among the launches.")]
    label: Annotated[Words, says("For people.")] | None = None
    measurement: Annotated[Measurement, says("The launch digest, MEASUREMENT (SHA-384, hex).")] | None = None
    id_keys: (
        Annotated[
            list[KeyDigest],
            Field(min_length=1),
            says("ID_KEY_DIGEST is one of these (SHA-384 of the ID public key structure, hex)."),
        ]
        | None
    ) = None
    author_keys: (
        Annotated[
            list[KeyDigest],
            Field(min_length=1),
            says("AUTHOR_KEY_EN is set and AUTHOR_KEY_DIGEST is one of these (SHA-384, hex)."),
        ]
        | None
    ) = None
    host_data: (
        Annotated[
            list[HostData],
            Field(min_length=1),
            says("HOST_DATA is one of these (hex): what the host passed at launch."),
        ]
        | None
    ) = None
    family_ids: (
        Annotated[
            list[BlockId], Field(min_length=1), says("FAMILY_ID of the ID block is one of these (hex).")
        ]
        | None
    ) = None
    image_ids: (
        Annotated[list[BlockId], Field(min_length=1), says("IMAGE_ID of the ID block is one of these (hex).")]
        | None
    ) = None
    min_guest_svn: (
        Annotated[int, Field(ge=0, le=0xFFFFFFFF), says("GUEST_SVN of the ID block is at least this.")] | None
    ) = None
    min_abi: (
        Annotated[AbiVersion, says("ABI_MAJOR.ABI_MINOR of the guest policy is at least this.")] | None
    ) = None
    guest_policy: Annotated[GuestPolicyTable, says("The other bits of the guest policy.")] | None = None
    capabilities: Annotated[list[Capability], says("What the build was reviewed for.")]
    products: Annotated[list[ProductName], Field(min_length=1), says("The AMD products on which it may run.")]
    platform: (
        Annotated[
            Identifier, says("Name of the platform that says what is demanded of processor and firmware.")
        ]
        | None
    ) = None
    unconstrained: Annotated[
        list[LaunchConstraint], says("What does not matter here, and is not stated for that reason.")
    ] = Field(default_factory=list)

    @model_validator(mode="after")
    def _identified(self) -> Self:
        if self.measurement is None and self.id_keys is None and self.author_keys is None:
            raise ValueError(
                "needs measurement, id_keys or author_keys: something must say what was launched"
            )
        return self


class MitigationsTable(Table):
    """Bits that must be set in the mitigation vectors; these are zero before report version 5."""

    launch: Annotated[int, Field(ge=0, le=_MAX_MITIGATIONS), says("Of LAUNCH_MIT_VECTOR.")] | None = None
    current: Annotated[int, Field(ge=0, le=_MAX_MITIGATIONS), says("Of CURRENT_MIT_VECTOR.")] | None = None


class ChipsTable(Table):
    """CHIP_IDs that alone may enrol, or that may not; 16 digits are Turin's, the rest being zero."""

    allow: Annotated[list[ChipId], Field(min_length=1), says("Only these (hex).")] | None = None
    deny: (
        Annotated[list[ChipId], Field(min_length=1), says("Not these (hex), and no masked CHIP_ID.")] | None
    ) = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.allow is None) == (self.deny is None):
            raise ValueError("needs either allow or deny")
        return self


class TcbTable(Table):
    """The least levels of one product, from a moment on."""

    product: Annotated[ProductName, says("The AMD product.")]
    since: Annotated[
        AwareDatetime | None,
        Field(alias="from"),
        says("From when on; the first floor of a product holds from the beginning."),
    ] = None
    firmware: (
        Annotated[FirmwareVersion, says("Least version of the current firmware: major.minor, and the build.")]
        | None
    ) = None
    reported: Annotated[dict[str, Level], says("Least level of each component of REPORTED_TCB.")] | None = (
        None
    )
    committed: Annotated[dict[str, Level], says("Least level of each component of COMMITTED_TCB.")] | None = (
        None
    )
    launch: Annotated[dict[str, Level], says("Least level of each component of LAUNCH_TCB.")] | None = None

    @model_validator(mode="after")
    def _components(self) -> Self:
        wanted = TCB_LAYOUT[Product(self.product)]
        for name, levels in (
            ("reported", self.reported),
            ("committed", self.committed),
            ("launch", self.launch),
        ):
            if levels is not None and set(levels) != set(wanted):
                raise ValueError(f"{name} must have exactly {', '.join(wanted)} on {self.product}")
        return self


class PlatformTable(Table):
    """What is demanded of processor and firmware, for all launches that refer to it."""

    name: Annotated[Identifier, says("As launches refer to it.")]
    label: Annotated[Words, says("For people.")] | None = None
    keys: (
        Annotated[
            list[KeyName],
            Field(min_length=1),
            says("Kinds of signing key: VCEK, a processor's own; VLEK, one for a provider's region."),
        ]
        | None
    ) = None
    report_versions: (
        Annotated[
            list[Literal[2, 3, 4, 5]],
            Field(min_length=1),
            says("Admitted versions of the report; version 2 has no CPUID fields."),
        ]
        | None
    ) = None
    platform_info: Annotated[PlatformInfoTable, says("The bits of PLATFORM_INFO.")] | None = None
    mitigations: Annotated[MitigationsTable, says("Mitigations that must be in place.")] = Field(
        default_factory=MitigationsTable
    )
    chips: Annotated[ChipsTable, says("Which processors.")] | None = None
    provisional_firmware: (
        Annotated[bool, says("Whether firmware may run that its host can still roll back.")] | None
    ) = None
    crl_max_age_days: (
        Annotated[
            int,
            Field(ge=1, le=_MAX_CRL_AGE_DAYS),
            says("How long ago the newest CRL of AMD's root that the CA knows may have been issued."),
        ]
        | None
    ) = None
    tcb: Annotated[
        list[TcbTable],
        says("Floors, ordered in time for each product; a later one has a date and is nowhere lower."),
    ] = Field(default_factory=list)
    unconstrained: Annotated[
        list[PlatformConstraint], says("What does not matter here, and is not stated for that reason.")
    ] = Field(default_factory=list)
