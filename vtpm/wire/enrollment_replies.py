"""What the CA answers under ``/v1``: nonce, challenges, certificates, state.

The challenges follow TPM 2.0 Library, Part 1, section 24 (credential protection); see `enrollment` for
the requests.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from vtpm.wire.encoding import Members, b64url, b64url_array, quoted, spliced
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.log import MAX_CHECKPOINT, Proof
from vtpm.wire.message_fields import bytes_element, document, filled_bytes, id_member, time_member
from vtpm.wire.statements import MAX_EKS

MAX_CREDENTIAL_BLOB = 256
MAX_ENCRYPTED_SECRET = 640
MAX_CERTIFICATE = 4096
MAX_CHAIN = 4
ENROLLMENT_STATES = ("challenged", "issued", "refused", "expired")

_NAME_SIZES = (34, 50, 66)
"""Sizes of a TPM Name: two bytes of algorithm and a SHA-256, SHA-384 or SHA-512."""


@dataclass(frozen=True)
class NonceReply:
    """201 of ``POST /v1/nonces``: a nonce, the CA's id, and until when the nonce holds."""

    nonce: str
    aud: str
    expires: str

    def to_json(self) -> dict[str, object]:
        """The message."""
        return {"nonce": self.nonce, "aud": self.aud, "expires": self.expires}

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the message; raises `WireError`."""
        members = document(data)
        reply = cls(
            members.text("nonce", most=256), members.text("aud", most=128), time_member(members, "expires")
        )
        members.end()
        return reply


@frozen
class Challenge:
    """TPM2_MakeCredential for one EK and the Name of the IAK.

    Attributes:
        ek: Name of the EK, hex on the wire.
        credential_blob: TPM2B_ID_OBJECT.
        secret: TPM2B_ENCRYPTED_SECRET.
    """

    ek: bytes
    credential_blob: bytes
    secret: bytes

    def to_json(self) -> dict[str, object]:
        """The members of this object."""
        return {
            "ek": self.ek.hex(),
            "credential_blob": b64url(self.credential_blob),
            "secret": b64url(self.secret),
        }

    @classmethod
    def parse(cls, value: object, path: str) -> Self:
        """Read the object."""
        members = Members(value, path)
        challenge = cls(
            members.hex("ek", most=max(_NAME_SIZES)),
            filled_bytes(members, "credential_blob", MAX_CREDENTIAL_BLOB),
            filled_bytes(members, "secret", MAX_ENCRYPTED_SECRET),
        )
        if len(challenge.ek) not in _NAME_SIZES:
            raise WireError(members.at("ek"), "must be the Name of a key: 34, 50 or 66 bytes")
        members.end()
        return challenge


@frozen
class ChallengeReply:
    """201 of ``POST /v1/enrollments``: one challenge per EK, in the order of the runtime data."""

    id: str
    challenges: tuple[Challenge, ...]
    expires: str

    def to_json(self) -> dict[str, object]:
        """The message."""
        return {
            "id": self.id,
            "challenges": [challenge.to_json() for challenge in self.challenges],
            "expires": self.expires,
        }

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the message; raises `WireError`."""
        members = document(data)
        reply = cls(
            id_member(members, "id"),
            tuple(Challenge.parse(value, path) for value, path in members.array("challenges", 1, MAX_EKS)),
            time_member(members, "expires"),
        )
        members.end()
        return reply


@lru_cache(maxsize=64)
def _chain_text(chain: tuple[bytes, ...]) -> str:
    # A CA has few chains, and they are longer than what it says about a TPM.
    return b64url_array(chain)


@frozen
class CertificateEntry:
    """One issued certificate.

    Attributes:
        template: id of the key's template.
        certificate: DER.
        chain: DER of the CA certificates above it: issuing CA first, root last.
        log: that it stands in the CA's log; None from a CA that has none.
    """

    template: str
    certificate: bytes
    chain: tuple[bytes, ...]
    log: Proof | None = None

    def text(self) -> str:
        """The object as JSON, for `spliced`."""
        log = "" if self.log is None else f'"log":{self.log.text()},'
        return (
            f'{{"certificate":"{b64url(self.certificate)}","chain":{_chain_text(self.chain)},'
            f'{log}"template":{quoted(self.template)}}}'
        )

    @classmethod
    def parse(cls, value: object, path: str) -> Self:
        """Read the object."""
        members = Members(value, path)
        entry = cls(
            members.text("template", most=16),
            filled_bytes(members, "certificate", MAX_CERTIFICATE),
            tuple(
                bytes_element(value, path, MAX_CERTIFICATE)
                for value, path in members.array("chain", 1, MAX_CHAIN)
            ),
            Proof.parse(members.value("log"), members.at("log")) if members.has("log") else None,
        )
        members.end()
        return entry


@frozen
class CertificatesReply:
    """200 of an activation, or of an enrolment of a known TPM.

    Attributes:
        id: the enrolment.
        decision_id: the decision on which the certificates rest.
        ek: one entry per EK, in the order of the runtime data.
        iak: the IAK's.
        idevid: the IDevID's.
        checkpoint: the log's signed note (UTF-8) to which every entry's `log` leads; None from a CA without a log,
            and then no entry has one.
    """

    id: str
    decision_id: str
    ek: tuple[CertificateEntry, ...]
    iak: CertificateEntry
    idevid: CertificateEntry
    checkpoint: bytes | None = None

    @property
    def entries(self) -> tuple[CertificateEntry, ...]:
        """All entries: EKs, IAK, IDevID."""
        return (*self.ek, self.iak, self.idevid)

    def to_bytes(self) -> bytes:
        """The message's canonical bytes; raises `WireError` if an id or a template is no Unicode text."""
        checkpoint = "" if self.checkpoint is None else f'"checkpoint":"{b64url(self.checkpoint)}",'
        return spliced(
            f'{{{checkpoint}"decision_id":{quoted(self.decision_id)},'
            f'"ek":[{",".join([entry.text() for entry in self.ek])}],"iak":{self.iak.text()},'
            f'"id":{quoted(self.id)},"idevid":{self.idevid.text()}}}'
        )

    def to_json(self) -> dict[str, Any]:
        """The message."""
        message: dict[str, Any] = json.loads(self.to_bytes())
        return message

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the message; raises `WireError`. Whether the certificates are any good is for the caller."""
        members = document(data)
        reply = cls(
            id_member(members, "id"),
            id_member(members, "decision_id"),
            tuple(CertificateEntry.parse(value, path) for value, path in members.array("ek", 1, MAX_EKS)),
            CertificateEntry.parse(members.value("iak"), members.at("iak")),
            CertificateEntry.parse(members.value("idevid"), members.at("idevid")),
            filled_bytes(members, "checkpoint", MAX_CHECKPOINT) if members.has("checkpoint") else None,
        )
        members.end()
        if any((entry.log is None) != (reply.checkpoint is None) for entry in reply.entries):
            raise WireError("checkpoint", "must be there if every entry has a log proof, and not if none has")
        return reply


@dataclass(frozen=True)
class EnrollmentState:
    """200 of ``GET /v1/enrollments/{id}``.

    Attributes:
        id: the enrolment.
        state: one of `ENROLLMENT_STATES`.
        decision_id: under which the operator finds the trace.
        expires: until when the challenge may be answered.
    """

    id: str
    state: str
    decision_id: str
    expires: str

    def to_json(self) -> dict[str, object]:
        """The message."""
        return {
            "id": self.id,
            "state": self.state,
            "decision_id": self.decision_id,
            "expires": self.expires,
        }

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the message; raises `WireError`."""
        members = document(data)
        state = cls(
            id_member(members, "id"),
            members.one_of("state", ENROLLMENT_STATES),
            id_member(members, "decision_id"),
            time_member(members, "expires"),
        )
        members.end()
        return state
