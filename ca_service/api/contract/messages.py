"""The messages of the interface with an example each: what a reader is listened to with, and what integrators see.

Forms only: reports, certificates and blobs are made-up bytes, most of them much shorter than real ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from ca_service.api.contract.schemas import Schema, Schemas, as_bytes
from ca_service.evidence.profiles import ISSUED_PROFILES
from vtpm.wire.amd_evidence import AMD_PROFILES
from vtpm.wire.encoding import b64url
from vtpm.wire.enrollment import (
    PROBLEM_TYPE,
    REPORT_SIZE,
    ActivationRequest,
    AmdBody,
    CertificateEntry,
    CertificatesReply,
    Certify,
    Challenge,
    ChallengeReply,
    Directory,
    DirectoryIssuer,
    EnrollmentRequest,
    EnrollmentState,
    Evidence,
    NonceReply,
    Problem,
)
from vtpm.wire.log import Proof
from vtpm.wire.note import VerifierKey
from vtpm.wire.runtime_data import PROFILE
from vtpm.wire.statements import KeyStatement, TpmSpec, TpmStatement
from vtpm.wire.templates import DEFAULT_TEMPLATES, Role, template


class _Writes(Protocol):
    def to_json(self) -> dict[str, object]: ...


@dataclass(frozen=True)
class Message:
    """A JSON message as the interface has it.

    Attributes:
        read: the reader that the service, or its client, parses it with.
        examples: messages that together have every member; the first one is shown.
    """

    read: Callable[[bytes], object] = field(repr=False)
    examples: tuple[dict[str, object], ...] = field(repr=False)

    def schema(self, schemas: Schemas) -> Schema:
        """Its JSON Schema."""
        return schemas.of(as_bytes(self.read), self.examples)


def _message(read: Callable[[bytes], object], *examples: _Writes) -> Message:
    return Message(read, tuple(example.to_json() for example in examples))


_ID: Final = "Yl0cG1jZXJ0aWZ5"
_DECISION: Final = "ZGVjaXNpb24tMQ"
_AUD: Final = "ca.example"
_TIME: Final = "2026-01-31T12:05:00Z"
_NONCE: Final = b64url(bytes(range(48)))


def _key(role: Role) -> KeyStatement:
    return KeyStatement(DEFAULT_TEMPLATES[role], template(role, DEFAULT_TEMPLATES[role]).public)


_TPM: Final = TpmStatement(
    eks=(_key(Role.EK),),
    iak=_key(Role.IAK),
    idevid=_key(Role.IDEVID),
    manufacturer="49424d00",
    vendor="SW TPM",
    firmware="2023020400000000",
    spec=TpmSpec("2.0", "0", "164"),
    origin="manufactured",
)
_CERTIFY: Final = Certify(b"TPMS_ATTEST", b"TPMT_SIGNATURE")
_TABLE: Final = b"table of certificates"
_EAR: Final = "e30.e30.c2ln"


def _amd(profile: str) -> EnrollmentRequest:
    body = AmdBody(_AUD, _NONCE, b"manifest", _TPM)
    evidence = Evidence(profile, b"", bytes(REPORT_SIZE), _TABLE, _EAR, body)
    return EnrollmentRequest(evidence, _CERTIFY)


def _entry(template_id: str, position: int | None) -> CertificateEntry:
    proof = None if position is None else Proof(b"leaf", position, (bytes(32),))
    return CertificateEntry(template_id, b"certificate", (b"issuing CA", b"root"), proof)


def _certificates(*, logged: bool) -> CertificatesReply:
    ek, iak, idevid = (
        _entry(DEFAULT_TEMPLATES[role], position if logged else None) for position, role in enumerate(Role)
    )
    note = f"{_AUD}/log\n3\n{'A' * 43}=\n\n— signature\n".encode()
    return CertificatesReply(_ID, _DECISION, (ek,), iak, idevid, note if logged else None)


NONCE: Final = _message(NonceReply.parse, NonceReply(_NONCE, _AUD, _TIME))
ENROLLMENT: Final = _message(
    EnrollmentRequest.parse,
    EnrollmentRequest(Evidence(PROFILE, b"runtime data", bytes(REPORT_SIZE), _TABLE, _EAR), _CERTIFY),
    *(_amd(profile) for profile in AMD_PROFILES),
    EnrollmentRequest(Evidence(PROFILE, b"runtime data", bytes(REPORT_SIZE))),
)
CHALLENGES: Final = _message(
    ChallengeReply.parse,
    ChallengeReply(
        _ID, (Challenge(b"\x00\x0b" + bytes(32), b"TPM2B_ID_OBJECT", b"TPM2B_ENCRYPTED_SECRET"),), _TIME
    ),
)
ACTIVATION: Final = _message(ActivationRequest.parse, ActivationRequest((bytes(range(32)),)))
CERTIFICATES: Final = _message(
    CertificatesReply.parse, _certificates(logged=True), _certificates(logged=False)
)
STATE: Final = _message(EnrollmentState.parse, EnrollmentState(_ID, "challenged", _DECISION, _TIME))
DIRECTORY: Final = _message(
    Directory.parse,
    Directory(
        ca_id=_AUD,
        mode="production",
        profiles=ISSUED_PROFILES,
        issuers=(
            DirectoryIssuer("root", "", "00" * 32, f"http://{_AUD}/ca/{'00' * 20}.cer"),
            DirectoryIssuer("ek", "default", "11" * 32, f"http://{_AUD}/ca/{'11' * 20}.cer", "active"),
        ),
        urls={"nonces": "/v1/nonces", "enrollments": "/v1/enrollments"},
        limits={"max_body_bytes": 65536},
        log=VerifierKey(f"{_AUD}/log", bytes(32)),
    ),
)
PROBLEM: Final = _message(
    Problem.parse,
    Problem(
        type=PROBLEM_TYPE + "refused",
        title="The request is refused",
        status=403,
        detail="the measurement is not on the allow-list",
        code="refused",
        rule="launch.listed",
        decision_id=_DECISION,
    ),
    Problem(
        type=PROBLEM_TYPE + "malformed",
        title="The request is malformed",
        status=400,
        detail="evidence.report: is missing",
        code="malformed",
        pointer="evidence.report",
        instance="urn:vtpm-ca:request:1",
    ),
)
