"""The answer with all certificates of a TPM, as it is stored and sent."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ca_service.enrollment.desk import Desk
from ca_service.enrollment.ledger import LedgerFacts
from ca_service.store import Transaction
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import CertificateEntry, CertificatesReply


@dataclass(frozen=True)
class Issued:
    """A signed certificate: its issuer's subject key id in hex, and its DER."""

    issuer: str
    der: bytes = field(repr=False)


def reply_bytes(
    desk: Desk,
    tx: Transaction,
    enrollment_id: str,
    decision_id: str,
    facts: LedgerFacts,
    issued: Mapping[str, Issued],
) -> bytes:
    """The answer with all certificates of a TPM.

    Args:
        desk: whose chains go along.
        tx: the transaction that stores the answer.
        enrollment_id: the enrolment.
        decision_id: the decision that admitted.
        facts: whose TPM it is.
        issued: certificates by `KeyClaim.live`.
    """
    authority = desk.authority
    entries: dict[str, list[CertificateEntry]] = {"ek": [], "iak": [], "idevid": []}
    for key in facts.claim.keys:
        certificate = issued[key.live]
        chain = authority.chain(authority.issuer_of(certificate.issuer))
        entries[key.role].append(CertificateEntry(key.template, certificate.der, chain))
    reply = CertificatesReply(
        enrollment_id, decision_id, tuple(entries["ek"]), entries["iak"][0], entries["idevid"][0]
    )
    return canonical(reply.to_json())
