"""The two TOML documents about a CA: what the operator wants (ceremony) and what became of it (``ca.toml``).

Neither holds a secret.
"""

import json
import tomllib
from datetime import datetime
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from ca_service.judgment import BadRequest
from ca_service.profiles import SIMULATION_MARK, IssuerRole, Mode, Validity

_MAX_URL = 64
_MOST_DAYS = 365 * 1000

Organization = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,64}$")]
CaId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
PairName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,23}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
Days = Annotated[int, Field(ge=1, le=_MOST_DAYS)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


M = TypeVar("M", bound=_Strict)


class ValidityRule(_Strict):
    """How long certificates live.

    Attributes:
        kind: ``device-lifetime`` (no well-defined end, as TCG and 802.1AR want for device identities and
            hence for their issuers) or ``bounded``.
        root_days: with ``bounded``, life of the root.
        issuing_days: life of the issuing CAs, not longer than the root's.
        device_days: life of EK, IAK and IDevID certificates, not longer than the issuing CAs'.
    """

    kind: Literal["device-lifetime", "bounded"] = "device-lifetime"
    root_days: Days | None = None
    issuing_days: Days | None = None
    device_days: Days | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        days = (self.root_days, self.issuing_days, self.device_days)
        if self.kind == "device-lifetime":
            if any(d is not None for d in days):
                raise ValueError('a device lifetime has no number of days; did you mean kind = "bounded"?')
            return self
        if self.root_days is None or self.issuing_days is None or self.device_days is None:
            raise ValueError("bounded validity needs root_days, issuing_days and device_days")
        if not self.root_days >= self.issuing_days >= self.device_days:
            raise ValueError("nothing may outlive its issuer: root_days >= issuing_days >= device_days")
        return self

    def root(self, at: datetime) -> Validity:
        """Validity of a root made at `at`."""
        return _validity(at, self.root_days)

    def issuing(self, at: datetime, issuer: Validity) -> Validity:
        """Validity of an issuing CA made at `at`, within the root's."""
        return _validity(at, self.issuing_days, issuer)

    def device(self, at: datetime, issuer: Validity) -> Validity:
        """Validity of a device certificate made at `at`, within its issuer's."""
        return _validity(at, self.device_days, issuer)


def _validity(at: datetime, days: int | None, issuer: Validity | None = None) -> Validity:
    whole = Validity.device_lifetime(at)
    end = whole.not_after if issuer is None else issuer.not_after
    if days is None:
        return Validity(whole.not_before, end)
    return Validity.bounded(at, days, end)


def _check_url(value: str) -> str:
    parts = urlsplit(value)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username is not None
        or parts.query
        or parts.fragment
        or not value.isascii()
        or not value.isprintable()
        or " " in value
    ):
        raise ValueError("must be a plain http or https URL")
    if value.endswith("/"):
        raise ValueError("must not end with a slash")
    if len(value) > _MAX_URL:
        raise ValueError(f"must be at most {_MAX_URL} characters long: it goes into every certificate")
    return value


class CeremonyConfig(_Strict):
    """What a new CA is to be; fixed for good by the ceremony.

    Attributes:
        mode: ``production`` or ``simulation``.
        organization: O in the names of all CAs, 1 to 64 printable ASCII characters.
        publication_url: base URL under which certificates and revocation lists are published; it goes into
            every certificate.
        ca_id: the CA's name in the protocol (`aud`); by default made from the root's key id.
        validity: how long certificates live.
    """

    mode: Mode
    organization: Organization
    publication_url: str
    ca_id: CaId | None = None
    validity: ValidityRule = ValidityRule()

    @field_validator("publication_url")
    @classmethod
    def _url(cls, value: str) -> str:
        return _check_url(value)

    @model_validator(mode="after")
    def _honest(self) -> Self:
        if self.mode == "production" and SIMULATION_MARK in self.organization.upper():
            raise ValueError("a production CA must not have SIMULATION in its organization")
        return self

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read the ceremony's configuration.

        Raises:
            BadRequest: no TOML (with line and column), or a member is missing, unknown or malformed.
        """
        return _load(cls, text, "ceremony")


class RootEntry(_Strict):
    """The root in ``ca.toml``: file name below ``certs/``, and the SHA-256 of its DER."""

    certificate: FileName
    sha256: Digest


class IssuerEntry(_Strict):
    """An issuing CA in ``ca.toml``; `key` is a file name below ``private/``."""

    role: IssuerRole
    pair: PairName
    certificate: FileName
    key: FileName
    sha256: Digest


class CaFacts(_Strict):
    """The content of ``ca.toml``: public facts about a CA.

    `serial_prefix` (1 to 127) starts each serial number, so that two instances of one CA never draw the same.
    """

    version: Literal[1]
    ca_id: CaId
    mode: Mode
    organization: Organization
    publication_url: str
    serial_prefix: Annotated[int, Field(ge=1, le=127)]
    validity: ValidityRule
    root: RootEntry
    issuer: Annotated[list[IssuerEntry], Field(min_length=1)]

    @field_validator("publication_url")
    @classmethod
    def _url(cls, value: str) -> str:
        return _check_url(value)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({(i.role, i.pair) for i in self.issuer}) != len(self.issuer):
            raise ValueError("two issuers have the same role and pair")
        return self

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read ``ca.toml``; raises BadRequest as `CeremonyConfig.from_toml`."""
        return _load(cls, text, "ca.toml")

    def to_toml(self) -> str:
        """The facts as TOML; `from_toml` reads them back."""
        top = {
            "version": self.version,
            "ca_id": self.ca_id,
            "mode": self.mode,
            "organization": self.organization,
            "publication_url": self.publication_url,
            "serial_prefix": self.serial_prefix,
        }
        tables = [("[validity]", self.validity), ("[root]", self.root)]
        tables += [("[[issuer]]", issuer) for issuer in self.issuer]
        blocks = ["# Public facts about this CA, written by its key ceremony. Do not edit.\n" + _lines(top)]
        blocks += [f"{head}\n{_lines(model.model_dump(exclude_none=True))}" for head, model in tables]
        return "\n".join(blocks)


def _lines(values: dict[str, object]) -> str:
    """Key-value lines; printable-ASCII strings have the same form in JSON and TOML."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def _load(kind: type[M], text: str, document: str) -> M:
    try:
        return kind.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(document, f"is no TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join([document, *(str(part) for part in first["loc"])])
        raise BadRequest(path, first["msg"].removeprefix("Value error, ")) from None
