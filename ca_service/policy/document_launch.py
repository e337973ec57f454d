"""The form of `[[launch]]` and `[[platform]]`: which software may enrol, and on what processors and firmware.

Two tables, because they change for different reasons: a build is replaced when its source changes, a firmware floor
is raised for all builds at once. A member that is missing is an open question, not an answer; what is meant not to
matter stands in `unconstrained`.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator

from ca_service.policy.bits import GUEST_POLICY, OTHER, PLATFORM_INFO
from ca_service.policy.form import Identifier, Table, Words
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


Measurement = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$")]
KeyDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$"), AfterValidator(_not_zero)]
HostData = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
BlockId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
ChipId = Annotated[
    str, StringConstraints(pattern=r"^([0-9a-f]{128}|[0-9a-f]{16})$"), AfterValidator(_not_zero)
]
AbiVersion = Annotated[
    str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})$"), AfterValidator(_small)
]
FirmwareVersion = Annotated[
    str,
    StringConstraints(pattern=r"^(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){1,2}$"),
    AfterValidator(_small),
]
Level = Annotated[int, Field(ge=0, le=255)]

Capability = Literal["verifies-grants", "reports-state", "oracle-free"]
ProductName = Literal["Milan", "Genoa", "Turin"]
KeyName = Literal["VCEK", "VLEK"]
GuestPolicyBit = Annotated[str, AfterValidator(_one_of(GUEST_POLICY))]
PlatformInfoBit = Annotated[str, AfterValidator(_one_of(PLATFORM_INFO))]
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
    """``guest_policy``: what the launch asked of the firmware; each bit in exactly one list."""

    require: list[GuestPolicyBit]
    forbid: list[GuestPolicyBit]
    either: list[GuestPolicyBit]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _each_once((self.require, self.forbid, self.either), GUEST_POLICY)
        return self


class PlatformInfoTable(Table):
    """``platform_info``: what the firmware says of the machine; each bit in exactly one list."""

    require: list[PlatformInfoBit]
    forbid: list[PlatformInfoBit]
    either: list[PlatformInfoBit]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _each_once((self.require, self.forbid, self.either), PLATFORM_INFO)
        if OTHER in self.require:
            raise ValueError('"other" stands for many bits: they can be forbidden, but not required')
        return self


class LaunchTable(Table):
    """``[[launch]]``: an SVSM build that may enrol on one platform, or the builds that a key has signed."""

    name: Identifier
    label: Words | None = None
    measurement: Measurement | None = None
    id_keys: Annotated[list[KeyDigest], Field(min_length=1)] | None = None
    author_keys: Annotated[list[KeyDigest], Field(min_length=1)] | None = None
    host_data: Annotated[list[HostData], Field(min_length=1)] | None = None
    family_ids: Annotated[list[BlockId], Field(min_length=1)] | None = None
    image_ids: Annotated[list[BlockId], Field(min_length=1)] | None = None
    min_guest_svn: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] | None = None
    min_abi: AbiVersion | None = None
    guest_policy: GuestPolicyTable | None = None
    capabilities: list[Capability]
    products: Annotated[list[ProductName], Field(min_length=1)]
    platform: Identifier | None = None
    unconstrained: list[LaunchConstraint] = Field(default_factory=list)

    @model_validator(mode="after")
    def _identified(self) -> Self:
        if self.measurement is None and self.id_keys is None and self.author_keys is None:
            raise ValueError(
                "needs measurement, id_keys or author_keys: something must say what was launched"
            )
        return self


class MitigationsTable(Table):
    """``mitigations``: bits that must be set in LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR."""

    launch: Annotated[int, Field(ge=0, le=_MAX_MITIGATIONS)] | None = None
    current: Annotated[int, Field(ge=0, le=_MAX_MITIGATIONS)] | None = None


class ChipsTable(Table):
    """``chips``: CHIP_IDs that alone may enrol, or that may not; 16 digits are Turin's, the rest being zero."""

    allow: Annotated[list[ChipId], Field(min_length=1)] | None = None
    deny: Annotated[list[ChipId], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.allow is None) == (self.deny is None):
            raise ValueError("needs either allow or deny")
        return self


class TcbTable(Table):
    """``[[platform.tcb]]``: the least levels of one product, from a moment on."""

    product: ProductName
    since: AwareDatetime | None = Field(default=None, alias="from")
    firmware: FirmwareVersion | None = None
    reported: dict[str, Level] | None = None
    committed: dict[str, Level] | None = None
    launch: dict[str, Level] | None = None

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
    """``[[platform]]``: what is demanded of processor and firmware, for all launches that refer to it."""

    name: Identifier
    label: Words | None = None
    keys: Annotated[list[KeyName], Field(min_length=1)] | None = None
    report_versions: Annotated[list[Literal[2, 3, 4, 5]], Field(min_length=1)] | None = None
    platform_info: PlatformInfoTable | None = None
    mitigations: MitigationsTable = Field(default_factory=MitigationsTable)
    chips: ChipsTable | None = None
    provisional_firmware: bool | None = None
    crl_max_age_days: Annotated[int, Field(ge=1, le=_MAX_CRL_AGE_DAYS)] | None = None
    tcb: list[TcbTable] = Field(default_factory=list)
    unconstrained: list[PlatformConstraint] = Field(default_factory=list)
