"""The transcript that a report binds: evidence profile ``svsm-vtpm-ca:1`` and the session profile.

The SVSM puts everything that a verdict rests on into one JSON object and lets the SNP report sign its
hash. The form is the structured runtime-data rule of Trustee (SHA-384 of the RFC 8785 bytes, padded
with zeros), which no SHA-512 construction of an earlier SVSM can produce. ``docs/protocol.md``
specifies the members.
"""

import hashlib
from dataclasses import dataclass
from typing import Self

from vtpm.wire.encoding import Members, canonical, is_canonical, parse_json
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.jwk import EcJwk
from vtpm.wire.statements import (
    MAX_SALT,
    KbsStatement,
    KeyStatement,
    StoreStatement,
    TpmSpec,
    TpmStatement,
    parse_key_id,
)

__all__ = [
    "MAX_RUNTIME_DATA",
    "PROFILE",
    "SESSION_PROFILE",
    "KbsStatement",
    "KeyStatement",
    "RuntimeData",
    "SessionData",
    "StoreStatement",
    "TpmSpec",
    "TpmStatement",
    "certify_qualifier",
    "report_data",
]

PROFILE = "svsm-vtpm-ca:1"
SESSION_PROFILE = "svsm-vtpm-session:1"
MAX_RUNTIME_DATA = 16 * 1024
"""Largest runtime data, in bytes of their canonical form."""

_CERTIFY_LABEL = b"svsm-vtpm-ca:1 certify\x00"


def _members(value: object, path: str, profile: str) -> Members:
    members = Members(value, path)
    members.one_of("profile", (profile,))
    return members


def _value(data: bytes, path: str) -> object:
    return parse_json(data, path, most=MAX_RUNTIME_DATA, depth=8)


def _check_canonical(data: bytes, value: object, path: str) -> None:
    """Every member has one text form only, so the form of the document is all that is left to look at."""
    if not is_canonical(data, value):
        raise WireError(path, "must be in canonical form (RFC 8785)")


def _session(members: Members) -> EcJwk:
    session = members.members("session")
    jwk = EcJwk.parse(session.value("jwk"), session.at("jwk"), curves=("P-256",))
    session.end()
    return jwk


@frozen
class RuntimeData:
    """Evidence profile ``svsm-vtpm-ca:1``.

    Attributes:
        aud: id of the CA that this evidence is for.
        nonce: the CA's nonce, as it was given.
        session: key of this boot, P-256.
        tpm: the TPM and its keys.
        kbs: the key broker and its grant.
        store: where the TPM's state lives.
    """

    aud: str
    nonce: str
    session: EcJwk
    tpm: TpmStatement
    kbs: KbsStatement
    store: StoreStatement

    def to_json(self) -> dict[str, object]:
        """The members of this object."""
        return {
            "profile": PROFILE,
            "aud": self.aud,
            "nonce": self.nonce,
            "session": {"jwk": self.session.members()},
            "tpm": self.tpm.to_json(),
            "kbs": self.kbs.to_json(),
            "store": self.store.to_json(),
        }

    def canonical(self) -> bytes:
        """The canonical bytes (RFC 8785): what travels, and what is hashed."""
        return canonical(self.to_json())

    @classmethod
    def parse(cls, data: bytes, path: str = "evidence.runtime_data") -> Self:
        """Read canonical runtime data.

        Raises:
            WireError: too large, a member missing, unknown, twice or malformed, or not in canonical
                form. The path names the member: ``evidence.runtime_data.tpm.ek[0].pub``.
        """
        value = _value(data, path)
        members = _members(value, path, PROFILE)
        parsed = cls(
            aud=members.text("aud", most=128),
            nonce=members.text("nonce", most=256),
            session=_session(members),
            tpm=TpmStatement.parse(members.members("tpm")),
            kbs=KbsStatement.parse(members.members("kbs")),
            store=StoreStatement.parse(members.members("store")),
        )
        members.end()
        _check_canonical(data, value, path)
        return parsed


@dataclass(frozen=True)
class SessionData:
    """The session profile ``svsm-vtpm-session:1``: proves a boot session before the volume is opened.

    Attributes:
        aud: id of the party that this evidence is for.
        nonce: that party's nonce, as it was given.
        session: key of this boot, P-256.
        kbs: the key broker and its grant.
        salt: the volume's id.
        key_id: id of the secret that the KBS released.
    """

    aud: str
    nonce: str
    session: EcJwk
    kbs: KbsStatement
    salt: bytes
    key_id: str

    def to_json(self) -> dict[str, object]:
        """The members of this object."""
        return {
            "profile": SESSION_PROFILE,
            "aud": self.aud,
            "nonce": self.nonce,
            "session": {"jwk": self.session.members()},
            "kbs": self.kbs.to_json(),
            "salt": self.salt.hex(),
            "key_id": self.key_id,
        }

    def canonical(self) -> bytes:
        """The canonical bytes (RFC 8785): what travels, and what is hashed."""
        return canonical(self.to_json())

    @classmethod
    def parse(cls, data: bytes, path: str = "evidence.runtime_data") -> Self:
        """Read canonical session data; raises `WireError` as `RuntimeData.parse` does."""
        value = _value(data, path)
        members = _members(value, path, SESSION_PROFILE)
        parsed = cls(
            aud=members.text("aud", most=128),
            nonce=members.text("nonce", most=256),
            session=_session(members),
            kbs=KbsStatement.parse(members.members("kbs")),
            salt=members.hex("salt", most=MAX_SALT),
            key_id=parse_key_id(members),
        )
        members.end()
        if not parsed.salt:
            raise WireError(members.at("salt"), f"must be 1 to {MAX_SALT} bytes, is 0")
        _check_canonical(data, value, path)
        return parsed


def report_data(canonical: bytes) -> bytes:
    """The 64 bytes that the SNP report must carry: SHA-384 of the canonical bytes, then 16 zero bytes."""
    return hashlib.sha384(canonical).digest() + bytes(16)


def certify_qualifier(canonical: bytes) -> bytes:
    """The 32 bytes that TPM2_Certify of the IDevID must carry as qualifying data (TPMS_ATTEST.extraData)."""
    return hashlib.sha256(_CERTIFY_LABEL + canonical).digest()
