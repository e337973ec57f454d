"""``ca.toml``: the public facts about a CA, as its ceremony wrote them and later generations extended them."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, field_validator, model_validator

from ca_service.keys.configuration import KeysRule, ModuleRule, PublicationEntry, ValidityRule
from ca_service.keys.documents import (
    CaId,
    Digest,
    FileName,
    Generation,
    KeyReference,
    Organization,
    PairName,
    Strict,
    check_ocsp_url,
    check_url,
    load_document,
    toml_lines,
)
from ca_service.keys.uri import is_token_uri
from ca_service.profiles import IssuerRole, Mode


class RootEntry(Strict):
    """The root in ``ca.toml``: file name below ``certs/``, and the SHA-256 of its DER.

    `key` is stated if the root's key lives on a token, `list_number` once the root has made a revocation list: the
    number of the newest.
    """

    certificate: FileName
    sha256: Digest
    key: KeyReference | None = None
    list_number: Annotated[int, Field(ge=1)] | None = None


class LogEntry(Strict):
    """The CA's log in ``ca.toml``: see `LogIdentity`; the public key in base64url."""

    origin: Annotated[str, StringConstraints(pattern=r"^[\x21-\x2a\x2c-\x7e]{1,160}$")]
    public: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$")]


class IssuerEntry(Strict):
    """An issuing CA in ``ca.toml``; `key` is a file name below ``private/`` or a PKCS#11 URI."""

    role: IssuerRole
    pair: PairName
    certificate: FileName
    key: KeyReference
    sha256: Digest
    generation: Generation = 1


class CaFacts(Strict):
    """The content of ``ca.toml``: public facts about a CA.

    `serial_prefix` (1 to 127) starts each serial number, so that two instances of one CA never draw the same.
    `keys` says where the keys of further issuing CAs shall live. `state_kept` says that the CA remembers in ``state/``
    what its database must not fall behind: without that folder no database is opened then. `publication` may be
    changed by hand, see ``docs/status.md``.
    """

    version: Literal[1]
    ca_id: CaId
    mode: Mode
    organization: Organization
    publication_url: str
    serial_prefix: Annotated[int, Field(ge=1, le=127)]
    state_kept: bool = False
    validity: ValidityRule
    keys: KeysRule = Field(default_factory=KeysRule)
    publication: PublicationEntry = Field(default_factory=PublicationEntry)
    pkcs11: ModuleRule | None = None
    log: LogEntry | None = None
    root: RootEntry
    issuer: Annotated[list[IssuerEntry], Field(min_length=1)]

    @field_validator("publication_url")
    @classmethod
    def _url(cls, value: str) -> str:
        return check_url(value)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        check_ocsp_url(self.publication_url, ocsp=self.publication.ocsp)
        if len({(i.role, i.pair, i.generation) for i in self.issuer}) != len(self.issuer):
            raise ValueError("two issuers have the same role, pair and generation")
        for what in ("certificate", "key"):
            if len({getattr(i, what) for i in self.issuer}) != len(self.issuer):
                raise ValueError(f"two issuers have the same {what}")
        if self.pkcs11 is None and any(is_token_uri(i.key) for i in self.issuer):
            raise ValueError("a key on a token needs [pkcs11] with the path of the module")
        return self

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read ``ca.toml``; raises BadRequest as `CeremonyConfig.from_toml`."""
        return load_document(cls, text, "ca.toml")

    def to_toml(self) -> str:
        """The facts as TOML; `from_toml` reads them back."""
        top: dict[str, object] = {
            "version": self.version,
            "ca_id": self.ca_id,
            "mode": self.mode,
            "organization": self.organization,
            "publication_url": self.publication_url,
            "serial_prefix": self.serial_prefix,
        }
        if self.state_kept:
            top["state_kept"] = True
        tables: list[tuple[str, BaseModel | None]] = [("[validity]", self.validity), ("[keys]", self.keys)]
        if self.publication != PublicationEntry():
            tables.append(("[publication]", self.publication))
        tables += [("[pkcs11]", self.pkcs11), ("[log]", self.log), ("[root]", self.root)]
        tables += [("[[issuer]]", issuer) for issuer in self.issuer]
        blocks = [
            "# Public facts about this CA, written by its key ceremony. Do not edit, but for [publication].\n"
            + toml_lines(top)
        ]
        blocks += [
            f"{head}\n{toml_lines(model.model_dump(exclude_none=True))}"
            for head, model in tables
            if model is not None
        ]
        return "\n".join(blocks)
