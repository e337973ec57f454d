"""The answer with all certificates of a TPM, as it is stored and sent."""

from collections.abc import Mapping, Sequence
from dataclasses import field

from ca_service.audit import CERTIFICATE, Leaf, Proof, Receipt
from ca_service.enrollment.desk import Desk
from ca_service.enrollment.ledger import LedgerFacts
from ca_service.judgment import NotFound, Unavailable
from ca_service.store import Transaction
from vtpm.wire.enrollment import CertificateEntry, CertificatesReply
from vtpm.wire.frozen import frozen


@frozen
class Issued:
    """A signed certificate: its serial number and its issuer's subject key id in hex, and its DER."""

    serial: str
    issuer: str
    der: bytes = field(repr=False)


@frozen
class Logged:
    """The log's checkpoint as it was signed, and for each serial number the proof that leads to it."""

    checkpoint: bytes = field(repr=False)
    proofs: Mapping[str, Proof] = field(repr=False)


def log_certificates(desk: Desk, tx: Transaction, leaves: Sequence[Leaf], kept: Sequence[Issued]) -> Logged:
    """Log new certificates, and prove them and those that are kept to the same checkpoint.

    Args:
        desk: whose log.
        tx: the transaction that stores the new certificates.
        leaves: of the new certificates.
        kept: certificates that were logged before.

    Raises:
        Unavailable: the log cannot be written, or lacks one of those that are kept, so nothing may be (code ``log``).
    """
    receipt = desk.log.append(tx, leaves, desk.now())
    proofs = {leaf.subject: proof for leaf, proof in zip(leaves, receipt.proofs, strict=True)}
    if kept:
        older = _older(desk, tx, kept)
        proofs |= {certificate.serial: proof for certificate, proof in zip(kept, older.proofs, strict=True)}
    return Logged(receipt.checkpoint, proofs)


def _older(desk: Desk, tx: Transaction, kept: Sequence[Issued]) -> Receipt:
    try:
        return desk.log.proofs(tx, [(CERTIFICATE, certificate.serial) for certificate in kept])
    except NotFound:
        # It is the CA's fault, and not a name that the client has got wrong.
        raise Unavailable(
            "the log is not complete: a certificate that was issued is not in it",
            code="log",
            remedy="Start the CA again: it logs what is missing. Run `vtpm-ca audit verify`.",
        ) from None


def reply_bytes(
    desk: Desk,
    enrollment_id: str,
    decision_id: str,
    facts: LedgerFacts,
    issued: Mapping[str, Issued],
    logged: Logged,
) -> bytes:
    """The answer with all certificates of a TPM.

    Args:
        desk: whose chains go along.
        enrollment_id: the enrolment.
        decision_id: the decision that admitted.
        facts: whose TPM it is.
        issued: certificates by `KeyClaim.live`.
        logged: that they stand in the log.

    Raises:
        Unavailable: this process lacks an issuing CA that another node issued with (code ``issuer``).
    """
    entries: dict[str, list[CertificateEntry]] = {"ek": [], "iak": [], "idevid": []}
    for key in facts.claim.keys:
        certificate = issued[key.live]
        authority = desk.source.holding(certificate.issuer)
        chain = authority.chain(authority.issuer_of(certificate.issuer))
        proof = logged.proofs[certificate.serial]
        entries[key.role].append(CertificateEntry(key.template, certificate.der, chain, proof))
    reply = CertificatesReply(
        id=enrollment_id,
        decision_id=decision_id,
        ek=tuple(entries["ek"]),
        iak=entries["iak"][0],
        idevid=entries["idevid"][0],
        checkpoint=logged.checkpoint,
    )
    return reply.to_bytes()
