"""What the SVSM keeps in the volume beside the TPM's state: the keys' publics and their certificates.

Evidence is made from these records and never from what persistent handles hold: a guest owner can replace those.
"""

from dataclasses import dataclass
from typing import Self

from vtpm.wire.encoding import Members, b64url, canonical, parse_json
from vtpm.wire.enrollment import CertificatesReply
from vtpm.wire.runtime_data import KeyStatement
from vtpm.wire.statements import MAX_EKS
from vtpm.wire.templates import Role

_NAMESPACE = 1 << 32
TPM_STATE = _NAMESPACE | 0x100
"""Inode of the permanent state blob. Not the SVSM's NVChip inode: a real SVSM would manufacture over it."""
TPM_KEYS = _NAMESPACE | 0x101
"""Inode of the recorded publics."""
CERTIFICATES = _NAMESPACE | 0x102
"""Inode of the issued certificates, as the CA answered them."""

_MAX_RECORD = 64 * 1024


@dataclass(frozen=True)
class KeyRecord:
    """Templates and TPMT_PUBLICs of the TPM's keys, written in the transaction that wrote the TPM's first state."""

    eks: tuple[KeyStatement, ...]
    iak: KeyStatement
    idevid: KeyStatement

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical(
            {
                "ek": [ek.to_json() for ek in self.eks],
                "iak": self.iak.to_json(),
                "idevid": self.idevid.to_json(),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Inverse of `encode`; raises `WireError`."""
        members = Members(parse_json(data, most=_MAX_RECORD), "keys")
        record = cls(
            tuple(
                KeyStatement.parse(value, Role.EK, path) for value, path in members.array("ek", 1, MAX_EKS)
            ),
            KeyStatement.parse(members.value("iak"), Role.IAK, members.at("iak")),
            KeyStatement.parse(members.value("idevid"), Role.IDEVID, members.at("idevid")),
        )
        members.end()
        return record


def encode_certificates(reply: CertificatesReply) -> bytes:
    """The CA's answer in the form in which it is kept."""
    return canonical(reply.to_json())


def certificate_lengths(reply: CertificatesReply) -> dict[str, int]:
    """Size in bytes of each certificate, for the boot's story."""
    return {
        **{f"ek {entry.template}": len(entry.certificate) for entry in reply.ek},
        "iak": len(reply.iak.certificate),
        "idevid": len(reply.idevid.certificate),
    }


def describe_keys(record: KeyRecord) -> str:
    """Templates of the keys, as one short line."""
    return f"EK {', '.join(ek.template for ek in record.eks)}; IAK {record.iak.template}; IDevID {record.idevid.template}"


__all__ = [
    "CERTIFICATES",
    "TPM_KEYS",
    "TPM_STATE",
    "KeyRecord",
    "b64url",
    "certificate_lengths",
    "describe_keys",
    "encode_certificates",
]
