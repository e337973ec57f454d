"""What the SVSM keeps in the volume beside the TPM's state: the keys' publics and their certificates.

Evidence is made from these records and never from what persistent handles hold: a guest owner can replace those.
"""

from vtpm.tpm import TpmKeys
from vtpm.wire.encoding import Members, canonical, parse_json
from vtpm.wire.enrollment import CertificatesReply
from vtpm.wire.runtime_data import KeyStatement
from vtpm.wire.statements import MAX_EKS
from vtpm.wire.templates import Role

_MAX_RECORD = 64 * 1024


def encode_keys(keys: TpmKeys) -> bytes:
    """Templates and TPMT_PUBLICs of the TPM's keys, as canonical JSON."""
    return canonical(
        {
            "ek": [ek.to_json() for ek in keys.eks],
            "iak": keys.iak.to_json(),
            "idevid": keys.idevid.to_json(),
        }
    )


def parse_keys(data: bytes) -> TpmKeys:
    """Inverse of `encode_keys`; raises `WireError`."""
    members = Members(parse_json(data, "keys", most=_MAX_RECORD), "keys")
    keys = TpmKeys(
        tuple(KeyStatement.parse(value, Role.EK, path) for value, path in members.array("ek", 1, MAX_EKS)),
        KeyStatement.parse(members.value("iak"), Role.IAK, members.at("iak")),
        KeyStatement.parse(members.value("idevid"), Role.IDEVID, members.at("idevid")),
    )
    members.end()
    return keys


def encode_certificates(reply: CertificatesReply) -> bytes:
    """The certificates of the CA's answer, without the ids of that answer: equal bytes, equal certificates."""
    answer = reply.to_json()
    return canonical({role: answer[role] for role in ("ek", "iak", "idevid")})


def certificate_sizes(reply: CertificatesReply) -> dict[str, int]:
    """Size in bytes of each certificate, for the boot's story."""
    return {
        **{f"ek-{entry.template}": len(entry.certificate) for entry in reply.ek},
        "iak": len(reply.iak.certificate),
        "idevid": len(reply.idevid.certificate),
    }


def describe_keys(keys: TpmKeys) -> str:
    """Templates of the keys, as one short line."""
    eks = "+".join(ek.template for ek in keys.eks)
    return f"EK {eks}, IAK {keys.iak.template}, IDevID {keys.idevid.template}"
