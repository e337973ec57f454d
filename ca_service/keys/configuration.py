"""What the operator wants a new CA to be: the ceremony's configuration. It holds no secret."""

from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from ca_service.keys.documents import (
    AbsolutePath,
    CaId,
    Days,
    Organization,
    Strict,
    check_ocsp_url,
    check_url,
    load_document,
)
from ca_service.keys.uri import TokenUri, is_token_uri
from ca_service.profiles import DEVICE_LIFETIME, SIMULATION_MARK, Mode, Validity


class ValidityRule(Strict):
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
        return _validity(at, self.issuing_days, issuer.not_after)

    def device(self, at: datetime, issuer: Validity, most_days: int | None = None) -> Validity:
        """Validity of a device certificate made at `at`, within its issuer's; with `most_days` not longer than that."""
        days = [each for each in (self.device_days, most_days) if each is not None]
        return _validity(at, min(days, default=None), issuer.not_after)


@lru_cache(maxsize=16)
def _validity(at: datetime, days: int | None, end: datetime = DEVICE_LIFETIME) -> Validity:
    """All certificates of a TPM have the same, or two at most."""
    return Validity.device_lifetime(at, end) if days is None else Validity.bounded(at, days, end)


def _token_of(value: str) -> str:
    if TokenUri.parse(value).names_key:
        raise ValueError("must name a token only: each key gets an id of its own")
    return value


def _place_of_issuing_keys(value: str) -> str:
    if value == "file":
        return value
    if not is_token_uri(value):
        raise ValueError('must be "file" or a PKCS#11 URI of a token, for example "pkcs11:token=vtpm-ca"')
    return _token_of(value)


def _place_of_root_key(value: str) -> str:
    if is_token_uri(value):
        if TokenUri.parse(value).id:
            raise ValueError("must not state an id: the ceremony draws one")
    elif not Path(value).is_absolute():
        raise ValueError("must be the absolute path of a folder, or a PKCS#11 URI")
    return value


class RootRule(Strict):
    """Where the root's key is locked away.

    Attributes:
        key: absolute path of a folder, for example on a medium that goes into a safe, or a PKCS#11 URI of a
            token, perhaps with the object's label. Left out, the key lies in the CA's folder ``offline/``.
    """

    key: Annotated[str, AfterValidator(_place_of_root_key)] | None = None


class KeysRule(Strict):
    """Where the keys of the issuing CAs live: ``file`` (sealed, in the CA's directory) or on a PKCS#11 token."""

    issuing: Annotated[str, AfterValidator(_place_of_issuing_keys)] = "file"


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("must be a power of two")
    return value


Shards = Annotated[int, Field(ge=1, le=256), AfterValidator(_power_of_two)]
"""Number of revocation lists of each issuing CA: 1, 2, 4 and so on to 256."""


class PublicationRule(Strict):
    """In which form a new CA says what is revoked.

    Attributes:
        shards: in how many revocation lists the certificates of each issuing CA are divided. With 32, a hundred
            thousand revocations make lists of less than 200 KiB each. It can be raised later, and never lowered.
        ocsp: whether the CA answers OCSP requests, and its certificates say where.
    """

    shards: Shards = 32
    ocsp: bool = True


class PublicationEntry(Strict):
    """The same of a CA that exists, in ``ca.toml``. What is left out is as earlier releases had it."""

    shards: Shards = 1
    ocsp: bool = False


class ModuleRule(Strict):
    """The PKCS#11 module: absolute path of the shared library through which the tokens are reached."""

    module: AbsolutePath


class CeremonyConfig(Strict):
    """What a new CA is to be; fixed for good by the ceremony.

    Attributes:
        mode: ``production`` or ``simulation``.
        organization: O in the names of all CAs, 1 to 64 printable ASCII characters.
        publication_url: base URL under which certificates and revocation lists are published; it goes into
            every certificate.
        ca_id: the CA's name in the protocol (`aud`); by default made from the root's key id.
        validity: how long certificates live.
        publication: in which form it says what is revoked.
        root: where the root's key is locked away.
        keys: where the keys of the issuing CAs live.
        pkcs11: how tokens are reached; needed exactly if a key shall live on one.
    """

    mode: Mode
    organization: Organization
    publication_url: str
    ca_id: CaId | None = None
    validity: ValidityRule = Field(default_factory=ValidityRule)
    publication: PublicationRule = Field(default_factory=PublicationRule)
    root: RootRule = Field(default_factory=RootRule)
    keys: KeysRule = Field(default_factory=KeysRule)
    pkcs11: ModuleRule | None = None

    @field_validator("publication_url")
    @classmethod
    def _url(cls, value: str) -> str:
        return check_url(value)

    @model_validator(mode="after")
    def _honest(self) -> Self:
        if self.mode == "production" and SIMULATION_MARK in self.organization.upper():
            raise ValueError("a production CA must not have SIMULATION in its organization")
        check_ocsp_url(self.publication_url, ocsp=self.publication.ocsp)
        wanted = is_token_uri(self.keys.issuing) or is_token_uri(self.root.key or "")
        if wanted and self.pkcs11 is None:
            raise ValueError("a key on a token needs [pkcs11] with the path of the module")
        if self.pkcs11 is not None and not wanted:
            raise ValueError("[pkcs11] is stated, but no key shall live on a token")
        return self

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read the ceremony's configuration.

        Raises:
            BadRequest: no TOML (with line and column), or a member is missing, unknown or malformed.
        """
        return load_document(cls, text, "ceremony")
