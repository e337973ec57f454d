"""What an enrolment has brought, for people, for programs, and as files."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from vtpm.client import check_certificates
from vtpm.errors import VtpmError
from vtpm.tpm import TpmKeys
from vtpm.wire.enrollment import CertificateEntry, CertificatesReply, time_text

LEAVES: Final = ("ek", "iak", "idevid")
"""The certificates, by the role of their key."""

MAX_LIFE: Final = timedelta(days=7)
"""Longest life of an ephemeral certificate (``docs/protocol.md``, section 6.3)."""

CHAIN: Final = "chain.pem"

FILES: Final = (*(f"{role}.pem" for role in LEAVES), CHAIN)
"""Names of the files that `Outcome.files` makes."""


@dataclass(frozen=True)
class Outcome:
    """Certificates that are this TPM's.

    Attributes:
        ca: URL of the CA that was asked.
        profile: the evidence profile.
        reply: the CA's answer.
        not_after: when the first of the certificates ends, UTC.
    """

    ca: str
    profile: str
    reply: CertificatesReply
    not_after: datetime

    @classmethod
    def judge(cls, ca: str, profile: str, reply: CertificatesReply, keys: TpmKeys) -> "Outcome":
        """Take the CA's answer if its certificates are about these keys, belong together, and end in days.

        Raises:
            VtpmError: they do not; see `vtpm.client.check_certificates`, and for the last rule
                ``certificates.ephemeral``.
        """
        check_certificates(reply, eks=keys.eks, iak=keys.iak, idevid=keys.idevid)
        try:
            loaded = [x509.load_der_x509_certificate(entry.certificate) for entry in reply.entries]
            ends = min(certificate.not_valid_after_utc for certificate in loaded)
            life = max(each.not_valid_after_utc - each.not_valid_before_utc for each in loaded)
            for issuer in _chain(reply):
                x509.load_der_x509_certificate(issuer)
        except ValueError as error:
            raise VtpmError("a certificate cannot be read", rule="certificates.key") from error
        if life > MAX_LIFE:
            raise VtpmError(
                "the CA's certificates are lasting ones, and this evidence earns ephemeral ones at most",
                rule="certificates.ephemeral",
                remedy="Ask the CA's operator: whoever signs such certificates vouches for more than was shown.",
            )
        return cls(ca, profile, reply, ends)

    @property
    def entries(self) -> Mapping[str, CertificateEntry]:
        """The certificates in the order of `LEAVES`; a profile of AMD's protocol has one EK."""
        return dict(zip(LEAVES, (self.reply.ek[0], self.reply.iak, self.reply.idevid), strict=True))

    def files(self) -> dict[str, bytes]:
        """PEM files by name: one for each certificate, and `CHAIN` with the CA's, issuing CA first."""
        files = {f"{role}.pem": _pem(entry.certificate) for role, entry in self.entries.items()}
        return files | {CHAIN: b"".join(map(_pem, _chain(self.reply)))}

    def to_json(self) -> dict[str, object]:
        """What was enrolled, without the certificates themselves: they are told apart by SHA-256 of the DER."""
        return {
            "ca": self.ca,
            "profile": self.profile,
            "enrollment": self.reply.id,
            "decision": self.reply.decision_id,
            "not_after": time_text(self.not_after),
            "certificates": {
                role: {"template": entry.template, "sha256": hashlib.sha256(entry.certificate).hexdigest()}
                for role, entry in self.entries.items()
            },
        }


def _chain(reply: CertificatesReply) -> tuple[bytes, ...]:
    """Each certificate of the CA once, in the order of the answer."""
    return tuple(dict.fromkeys(issuer for entry in reply.entries for issuer in entry.chain))


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
