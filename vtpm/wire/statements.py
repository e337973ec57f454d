"""What the SVSM states about its TPM, its key broker and its store: the parts of the runtime data.

``docs/protocol.md`` specifies the members; `vtpm.wire.runtime_data` puts the parts together.
"""

import re
from typing import Self

from vtpm.wire.encoding import Members, b64url, check_digest
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.jwk import EcJwk
from vtpm.wire.lazy import cached_property
from vtpm.wire.public_area import MAX_PUBLIC, PublicArea, parse_public
from vtpm.wire.templates import Role, template

MAX_EKS = 4
KBS_CURVES = ("P-256", "P-384")
ORIGINS = ("manufactured", "loaded")
STORE_MODES = ("persistent", "volatile")
STORE_CREATED = ("this-boot", "earlier")
NO_STORE_FORMAT = "none"
"""`StoreStatement.format` of a volatile store."""

MAX_SALT = 255
"""Longest volume id in bytes: CocoonFs gives it one octet of length."""

_MAX_COUNTER_DIGITS = 39
_MAX_COUNTER = 2**128 - 1
_COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
_DECIMAL = re.compile(r"(?:0|[1-9][0-9]*)\Z")
_FORMAT = re.compile(r"[a-z][a-z0-9-]*/[1-9][0-9]*\Z")
_ROOT_SIZES = (32, 48, 64)


def _decimal(members: Members, name: str, most: int = 10) -> str:
    text = members.text(name, most=most)
    if not _DECIMAL.match(text):
        raise WireError(members.at(name), "must be a decimal number without leading zeros")
    return text


def _counter(members: Members) -> int:
    counter = int(_decimal(members, "counter", _MAX_COUNTER_DIGITS))
    if counter > _MAX_COUNTER:
        raise WireError(members.at("counter"), "must be below 2**128")
    return counter


def parse_key_id(members: Members) -> str:
    """The member `key_id`: base64url of 32 bytes."""
    return check_digest(members.text("key_id", most=43), members.at("key_id"))


def parse_compact_jws(members: Members, name: str, most: int = 4096) -> str:
    """The member `name`: a JWS in compact form, of at most `most` characters; its inside is not read."""
    text = members.text(name, most=most)
    if not _COMPACT_JWS.match(text):
        raise WireError(members.at(name), "must be a JWS in compact form")
    return text


@frozen
class KeyStatement:
    """A TPM key as the SVSM states it: the id of its template and its TPMT_PUBLIC."""

    template: str
    public: bytes

    @cached_property
    def area(self) -> PublicArea:
        """`public`, read; raises `WireError` where nobody has read it yet and it is no TPMT_PUBLIC."""
        return parse_public(self.public)

    def to_json(self) -> dict[str, str]:
        """The members of this object."""
        return {"template": self.template, "pub": b64url(self.public)}

    @classmethod
    def parse(cls, value: object, role: Role, path: str) -> Self:
        """Read a key statement; the template is one of the role's, `pub` a well-formed TPMT_PUBLIC.

        Whether the key *is* an instance of the template is left to the CA's checks.
        """
        members = Members(value, path)
        template_id = members.text("template", most=16)
        template(role, template_id, members.at("template"))
        public = members.b64url("pub", most=MAX_PUBLIC)
        parse_public(public, members.at("pub"))
        members.end()
        return cls(template_id, public)


@frozen
class TpmSpec:
    """The TPM's specification: `family` such as "2.0", `level` and `revision` as decimal strings."""

    family: str
    level: str
    revision: str

    def to_json(self) -> dict[str, str]:
        """The members of this object."""
        return {"family": self.family, "level": self.level, "revision": self.revision}

    @classmethod
    def parse(cls, members: Members) -> Self:
        """Read the object behind `members`."""
        spec = cls(members.text("family", most=4), _decimal(members, "level"), _decimal(members, "revision"))
        members.end()
        return spec


@frozen
class TpmStatement:
    """What the SVSM says about its TPM.

    Attributes:
        eks: one to four endorsement keys; the first one names the TPM.
        iak: initial attestation key.
        idevid: initial device identity key.
        manufacturer: TPM_PT_MANUFACTURER, 8 hex digits.
        vendor: TPM_PT_VENDOR_STRING_1 to _4 without their zero bytes.
        firmware: TPM_PT_FIRMWARE_VERSION_1 and _2, 16 hex digits, as TPMS_ATTEST.firmwareVersion has them.
        spec: TPM specification.
        origin: "manufactured" in this boot, or "loaded" from the store.
    """

    eks: tuple[KeyStatement, ...]
    iak: KeyStatement
    idevid: KeyStatement
    manufacturer: str
    vendor: str
    firmware: str
    spec: TpmSpec
    origin: str

    def to_json(self) -> dict[str, object]:
        """The members of this object."""
        return {
            "ek": [ek.to_json() for ek in self.eks],
            "iak": self.iak.to_json(),
            "idevid": self.idevid.to_json(),
            "manufacturer": self.manufacturer,
            "vendor": self.vendor,
            "firmware": self.firmware,
            "spec": self.spec.to_json(),
            "origin": self.origin,
        }

    @classmethod
    def parse(cls, members: Members) -> Self:
        """Read the object behind `members`."""
        statement = cls(
            eks=tuple(
                KeyStatement.parse(element, Role.EK, path)
                for element, path in members.array("ek", 1, MAX_EKS)
            ),
            iak=KeyStatement.parse(members.value("iak"), Role.IAK, members.at("iak")),
            idevid=KeyStatement.parse(members.value("idevid"), Role.IDEVID, members.at("idevid")),
            manufacturer=members.hex("manufacturer", size=4).hex(),
            vendor=members.text("vendor", most=16),
            firmware=members.hex("firmware", size=8).hex(),
            spec=TpmSpec.parse(members.members("spec")),
            origin=members.one_of("origin", ORIGINS),
        )
        members.end()
        return statement


@frozen
class KbsStatement:
    """The KBS key that the SVSM remembers from this boot, and the grant it verified (compact JWS)."""

    jwk: EcJwk
    grant: str

    def to_json(self) -> dict[str, object]:
        """The members of this object."""
        return {"jwk": self.jwk.members(), "grant": self.grant}

    @classmethod
    def parse(cls, members: Members) -> Self:
        """Read the object behind `members`; the grant's inside is read by `grant.Grant.parse`."""
        statement = cls(
            EcJwk.parse(members.value("jwk"), members.at("jwk"), curves=KBS_CURVES),
            parse_compact_jws(members, "grant"),
        )
        members.end()
        return statement


@frozen
class StoreStatement:
    """Where the TPM's state lives.

    Attributes:
        mode: "persistent", or "volatile" if the state dies with this boot.
        format: such as "cocoonfs/1"; "none" if volatile.
        salt: the volume's id, 1 to 255 bytes; empty if volatile.
        created: whether the volume was formatted in this boot ("this-boot") or before ("earlier").
        key_id: id of the secret that the KBS released (`grant.key_id`), whether or not a store used it.
        counter: the volume's update counter, below 2**128; 0 if volatile.
        root: the volume's authentication root, 32, 48 or 64 bytes; empty if volatile.
        receipt: the state-history witness's receipt (compact JWS), if there is a witness.
    """

    mode: str
    format: str
    salt: bytes
    created: str
    key_id: str
    counter: int
    root: bytes
    receipt: str | None = None

    def to_json(self) -> dict[str, object]:
        """The members of this object."""
        members: dict[str, object] = {
            "mode": self.mode,
            "format": self.format,
            "salt": self.salt.hex(),
            "created": self.created,
            "key_id": self.key_id,
            "counter": str(self.counter),
            "root": self.root.hex(),
        }
        if self.receipt is not None:
            members["receipt"] = self.receipt
        return members

    @classmethod
    def parse(cls, members: Members) -> Self:
        """Read the object behind `members`; a volatile store claims nothing of a volume."""
        mode = members.one_of("mode", STORE_MODES)
        store = cls(
            mode=mode,
            format=members.text("format", most=32),
            salt=members.hex("salt", most=MAX_SALT),
            created=members.one_of("created", STORE_CREATED),
            key_id=parse_key_id(members),
            counter=_counter(members),
            root=members.hex("root", most=max(_ROOT_SIZES)),
            receipt=parse_compact_jws(members, "receipt") if members.has("receipt") else None,
        )
        members.end()
        if mode == "volatile":
            store.refuse_claims_of_a_volume(members)
        elif not _FORMAT.match(store.format):
            raise WireError(members.at("format"), "must be a name, a slash and a version number")
        elif not store.salt:
            raise WireError(members.at("salt"), f"must be 1 to {MAX_SALT} bytes, is 0")
        elif len(store.root) not in _ROOT_SIZES:
            raise WireError(members.at("root"), f"must be 32, 48 or 64 bytes, is {len(store.root)}")
        return store

    def refuse_claims_of_a_volume(self, members: Members) -> None:
        """Raise `WireError` for the first member that speaks of a volume."""
        wanted = {"format": NO_STORE_FORMAT, "salt": b"", "created": "this-boot", "counter": 0, "root": b""}
        for name, value in wanted.items():
            if getattr(self, name) != value:
                shown = f'"{value}"' if isinstance(value, str) else '"0"' if value == 0 else "empty"
                raise WireError(members.at(name), f"must be {shown} for a volatile store")
        if self.receipt is not None:
            raise WireError(members.at("receipt"), "must be absent for a volatile store")
