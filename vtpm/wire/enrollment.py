"""The JSON messages of the CA's ``/v1`` interface, for both sides.

``docs/protocol.md`` specifies calls, members and limits. Bytes are base64url without padding, Names and
digests lower-case hex, times RFC 3339 in UTC. Every parser refuses unknown members; `Problem` and
`Directory` alone may grow. The replies are defined in `enrollment_replies`, problem and directory in
`problem`; this module is the face of all three.
"""

from typing import Self

from vtpm.wire.amd_evidence import AMD_PROFILES, AmdBody
from vtpm.wire.encoding import Members, b64url
from vtpm.wire.enrollment_replies import (
    CertificateEntry,
    CertificatesReply,
    Challenge,
    ChallengeReply,
    EnrollmentState,
    NonceReply,
)
from vtpm.wire.frozen import frozen
from vtpm.wire.message_fields import (
    MAX_BODY,
    bytes_element,
    document,
    filled_bytes,
    parse_time,
    time_text,
)
from vtpm.wire.problem import (
    PROBLEM_MEDIA_TYPE,
    PROBLEM_TYPE,
    Directory,
    DirectoryIssuer,
    Problem,
)
from vtpm.wire.runtime_data import MAX_RUNTIME_DATA, PROFILE
from vtpm.wire.statements import MAX_EKS, parse_compact_jws

__all__ = [
    "EVIDENCE_PROFILES",
    "MAX_BODY",
    "PROBLEM_MEDIA_TYPE",
    "PROBLEM_TYPE",
    "ActivationRequest",
    "AmdBody",
    "CertificateEntry",
    "CertificatesReply",
    "Certify",
    "Challenge",
    "ChallengeReply",
    "Directory",
    "DirectoryIssuer",
    "EnrollmentRequest",
    "EnrollmentState",
    "Evidence",
    "NonceReply",
    "Problem",
    "parse_time",
    "time_text",
]

EVIDENCE_PROFILES = (PROFILE, *AMD_PROFILES)
"""Evidence profiles that an enrolment may carry; which of them get certificates is for the CA to say."""

REPORT_SIZE = 1184
MAX_CERTIFICATE_TABLE = 16 * 1024
MAX_EAR = 16 * 1024
MAX_ATTEST = 1024
MAX_SIGNATURE = 1024
MAX_ACTIVATION_SECRET = 64


@frozen
class Evidence:
    """What an SVSM shows of itself.

    Exactly one of `runtime_data` and `amd` is there, by the profile.

    Attributes:
        profile: evidence profile, one of `EVIDENCE_PROFILES`.
        runtime_data: canonical bytes of profile ``svsm-vtpm-ca:1``, which `runtime_data.RuntimeData.parse` reads; empty
            for the other profiles.
        report: the SNP attestation report, 1,184 bytes.
        certificates: AMD's GUID table of certificates, at most 16 KiB, if the host supplied one.
        ear: an attestation result of the KBS's verifier (compact JWS), if there is one.
        amd: what the AMD profiles state instead of runtime data; None for profile ``svsm-vtpm-ca:1``.
    """

    profile: str
    runtime_data: bytes
    report: bytes
    certificates: bytes | None = None
    ear: str | None = None
    amd: AmdBody | None = None

    def __post_init__(self) -> None:
        """Refuse a body of another profile: its reader would find nothing, or read what no report covers."""
        if (self.profile in AMD_PROFILES) != (self.amd is not None) or (self.amd and self.runtime_data):
            raise ValueError("evidence needs the body of its profile, and no other")

    def to_json(self) -> dict[str, object]:
        """The members of this object."""
        members: dict[str, object] = {
            "profile": self.profile,
            **({"runtime_data": b64url(self.runtime_data)} if self.amd is None else self.amd.to_json()),
            "report": b64url(self.report),
        }
        if self.certificates is not None:
            members["certificates"] = b64url(self.certificates)
        if self.ear is not None:
            members["ear"] = self.ear
        return members

    @classmethod
    def parse(cls, members: Members) -> Self:
        """Read the object behind `members`; a member of another profile is an unknown one."""
        profile = members.one_of("profile", EVIDENCE_PROFILES)
        amd = AmdBody.parse(members) if profile in AMD_PROFILES else None
        evidence = cls(
            profile=profile,
            runtime_data=b"" if amd else filled_bytes(members, "runtime_data", MAX_RUNTIME_DATA),
            report=members.b64url("report", size=REPORT_SIZE),
            certificates=(
                members.b64url("certificates", most=MAX_CERTIFICATE_TABLE)
                if members.has("certificates")
                else None
            ),
            ear=parse_compact_jws(members, "ear", MAX_EAR) if members.has("ear") else None,
            amd=amd,
        )
        members.end()
        return evidence


@frozen
class Certify:
    """TPM2_Certify of the IDevID by the IAK: TPMS_ATTEST and TPMT_SIGNATURE, both without size prefix."""

    attest: bytes
    signature: bytes

    def to_json(self) -> dict[str, object]:
        """The members of this object."""
        return {"attest": b64url(self.attest), "signature": b64url(self.signature)}

    @classmethod
    def parse(cls, members: Members) -> Self:
        """Read the object behind `members`."""
        certify = cls(
            filled_bytes(members, "attest", MAX_ATTEST), filled_bytes(members, "signature", MAX_SIGNATURE)
        )
        members.end()
        return certify


@frozen
class EnrollmentRequest:
    """Body of ``POST /v1/enrollments``; `certify` may be missing for a TPM that the CA knows already."""

    evidence: Evidence
    certify: Certify | None = None

    def to_json(self) -> dict[str, object]:
        """The message."""
        members: dict[str, object] = {"evidence": self.evidence.to_json()}
        if self.certify is not None:
            members["certify"] = self.certify.to_json()
        return members

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the message; raises `WireError`. Runtime data and manifest inside are not read yet."""
        members = document(data)
        request = cls(
            Evidence.parse(members.members("evidence")),
            Certify.parse(members.members("certify")) if members.has("certify") else None,
        )
        members.end()
        return request


@frozen
class ActivationRequest:
    """Body of ``POST /v1/enrollments/{id}/activation``.

    Attributes:
        secrets: what TPM2_ActivateCredential gave for each challenge, in their order.
    """

    secrets: tuple[bytes, ...]

    def __repr__(self) -> str:
        """Without the secrets: they prove that a TPM holds these keys."""
        return f"ActivationRequest({len(self.secrets)} secrets)"

    def to_json(self) -> dict[str, object]:
        """The message."""
        return {"secrets": [b64url(secret) for secret in self.secrets]}

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the message; raises `WireError`."""
        members = document(data)
        secrets = tuple(
            bytes_element(value, path, MAX_ACTIVATION_SECRET)
            for value, path in members.array("secrets", 1, MAX_EKS)
        )
        members.end()
        return cls(secrets)
