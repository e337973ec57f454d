"""The evidence profiles that rest on AMD's attestation protocol of the SVSM: its manifest, bound to a CA's nonce.

``amd-svsm-services`` carries the manifest of all services, ``amd-svsm-vtpm:0`` that of the vTPM alone, which is what a
COCONUT-SVSM of today hands to any guest. The report covers the nonce and the manifest, so of the TPM it covers one
EK. All else that the evidence states about the TPM is covered by TPM2_Certify only: the IAK signs a hash over it.
``docs/protocol.md`` specifies the members. Source of manifest and hash: AMD 58019 (Secure VM Service Module for SEV-SNP
Guests), chapter 7.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Self

from vtpm.wire.encoding import Members, b64url, canonical, parse_json
from vtpm.wire.errors import WireError
from vtpm.wire.message_fields import filled_bytes
from vtpm.wire.public_area import parse_public
from vtpm.wire.services import (
    KBS_SERVICE,
    VTPM_SERVICE,
    pack_services,
    parse_services,
    services_report_data,
)
from vtpm.wire.statements import KbsStatement, TpmStatement

SERVICES_PROFILE: Final = "amd-svsm-services"
"""The manifest is AMD's services manifest; it holds the vTPM and may hold `services.KBS_SERVICE`."""

VTPM_PROFILE: Final = "amd-svsm-vtpm:0"
"""The manifest is the vTPM's own in version 0: one bare TPMT_PUBLIC, the EK's."""

AMD_PROFILES: Final = (SERVICES_PROFILE, VTPM_PROFILE)
"""The profiles of this module."""

MAX_EVIDENCE_MANIFEST: Final = 16 * 1024
"""Largest manifest in bytes that an enrolment carries."""

MAX_KBS_SERVICE: Final = 8 * 1024
"""Largest manifest in bytes of the KBS service."""

_NONCE_LABEL = b"svsm-vtpm-ca\x00"
_CERTIFY_LABEL = b"svsm-vtpm-ca certify\x00"
_KBS_DEPTH = 4


def _printable(text: str, path: str) -> bytes:
    """The text's bytes; only printable ASCII has no zero byte, which is what keeps the hashed parts apart."""
    if not (text and text.isascii() and text.isprintable()):
        raise WireError(path, "must be printable ASCII")
    return text.encode("ascii")


def nonce64(aud: str, nonce: str) -> bytes:
    """The 64-byte nonce that the guest hands to the SVSM: it names the CA, so no other CA can use the answer.

    Args:
        aud: the CA's id, as the nonce reply has it.
        nonce: the CA's nonce, as it was given.

    Raises:
        WireError: one of them is empty or not printable ASCII.
    """
    return hashlib.sha512(
        _NONCE_LABEL + _printable(aud, "aud") + b"\x00" + _printable(nonce, "nonce")
    ).digest()


@dataclass(frozen=True)
class AmdBody:
    """What evidence of an AMD profile states, besides the report.

    Attributes:
        aud: id of the CA that this evidence is for.
        nonce: the CA's nonce, as it was given.
        manifest: the SVSM's manifest, byte for byte as it came, 1 to 16,384 bytes; its inside is not read yet.
        tpm: the TPM and its keys, stated by whoever enrols.
    """

    aud: str
    nonce: str
    manifest: bytes
    tpm: TpmStatement

    def to_json(self) -> dict[str, object]:
        """The members of this object."""
        return {
            "aud": self.aud,
            "nonce": self.nonce,
            "manifest": b64url(self.manifest),
            "tpm": self.tpm.to_json(),
        }

    @classmethod
    def parse(cls, members: Members) -> Self:
        """Read these members of the object behind `members`, which may have further ones."""
        return cls(
            aud=members.text("aud", most=128),
            nonce=members.text("nonce", most=256),
            manifest=filled_bytes(members, "manifest", MAX_EVIDENCE_MANIFEST),
            tpm=TpmStatement.parse(members.members("tpm")),
        )

    def report_data(self) -> bytes:
        """The 64 bytes that the SNP report must carry: SHA-512 over `nonce64` and the manifest."""
        return services_report_data(nonce64(self.aud, self.nonce), self.manifest)

    def certify_qualifier(self) -> bytes:
        """The 32 bytes that TPM2_Certify of the IDevID must carry as qualifying data (TPMS_ATTEST.extraData).

        REPORT_DATA ties the proof to nonce and manifest; the statement itself is in no report, so this covers it.
        """
        return hashlib.sha256(_CERTIFY_LABEL + self.report_data() + canonical(self.tpm.to_json())).digest()


@dataclass(frozen=True)
class ServicesManifest:
    """What a CA reads in AMD's services manifest; other services may be there, their contents are not read.

    Attributes:
        ek: the vTPM's manifest, the TPMT_PUBLIC of its EK.
        kbs: the key broker and its grant; None if the manifest has no such service.
    """

    ek: bytes
    kbs: KbsStatement | None = None

    def pack(self) -> bytes:
        """A manifest with these services and no others."""
        services = {VTPM_SERVICE: self.ek}
        if self.kbs is not None:
            services[KBS_SERVICE] = canonical(self.kbs.to_json())
        return pack_services(services)

    @classmethod
    def parse(cls, data: bytes, path: str = "evidence.manifest") -> Self:
        """Read a manifest.

        Raises:
            WireError: no services manifest, no vTPM in it, or a vTPM or KBS service that is malformed: paths
                `path` + ``.vtpm`` and ``.kbs``.
        """
        services = parse_services(data, path)
        if VTPM_SERVICE not in services:
            raise WireError(path, f"must have the vTPM service {VTPM_SERVICE}")
        kbs = services.get(KBS_SERVICE)
        return cls(
            ek=parse_vtpm_manifest(services[VTPM_SERVICE], f"{path}.vtpm"),
            kbs=None if kbs is None else _parse_kbs(kbs, f"{path}.kbs"),
        )


def parse_vtpm_manifest(data: bytes, path: str = "evidence.manifest") -> bytes:
    """The EK in the vTPM's manifest of version 0: the TPMT_PUBLIC that `data` must be, to the last byte.

    Raises:
        WireError: it is none; `path` with the field.
    """
    parse_public(data, path)
    return data


def _parse_kbs(data: bytes, path: str) -> KbsStatement:
    statement = KbsStatement.parse(
        Members(parse_json(data, path, most=MAX_KBS_SERVICE, depth=_KBS_DEPTH), path)
    )
    if canonical(statement.to_json()) != data:
        raise WireError(path, "must be in canonical form (RFC 8785)")
    return statement
