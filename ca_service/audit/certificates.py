"""Do the columns of a certificate say what the certificate says, and does its state fit?

The log has the certificate's digest, issuer, profile and key. What the CA works with besides (until when it is valid,
what was to be signed, whether it is the live one) is compared with the certificate itself.
"""

import hashlib

from cryptography import x509

from ca_service.audit.findings import Findings
from ca_service.audit.salvage import read_each
from ca_service.profiles import serial_hex
from ca_service.store import CertificateRow, Transaction

BATCH = 500
_SLOT = 64
"""Length of the digest of an EK certificate, which is known only after the bytes to be signed were recorded."""


def audit_certificates(tx: Transaction, findings: Findings) -> None:
    """Compare each stored certificate with its row, and the states of all with each other."""
    after = ""
    while serials := tx.log.stored_certificates(after, BATCH):
        after = serials[-1]
        found, unreadable = read_each(tx.log.certificate_rows, serials)
        for serial in unreadable:
            findings.add("certificate.mismatch", serial, "the row cannot be read")
        for serial, row in found.items():
            try:
                other = _differing(row)
            except (ValueError, TypeError, x509.ExtensionNotFound):
                findings.add("certificate.mismatch", serial, "the stored certificate cannot be read")
                continue
            if other:
                detail = f"the row says another {other} than the certificate in it"
                findings.add("certificate.mismatch", serial, detail)
        for serial in tx.log.misplaced_certificates(serials):
            detail = "the certificate counts as another TPM's than the one in the evidence that it rests on"
            findings.add("certificate.misplaced", serial, detail)
    for serial in tx.log.unfit(BATCH):
        detail = "its state does not fit: the issued and intended certificates are the live ones, and no others are"
        findings.add("certificate.state", serial, detail)
    for serial in tx.log.unreplaced(BATCH):
        detail = "the certificate counts as superseded, and none came in its place"
        findings.add("certificate.state", serial, detail)


def _differing(row: CertificateRow) -> str:
    certificate = x509.load_der_x509_certificate(row.der or b"")
    identifier = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    facts = {
        "serial": row.serial == serial_hex(certificate.serial_number),
        "issuer": bytes.fromhex(row.issuer) == identifier.key_identifier,
        "revocation list": _list_of(certificate) == row.shard,
        "end": row.not_after == certificate.not_valid_after_utc,
        "tbs": _as_intended(row, _open(certificate.tbs_certificate_bytes, row.slot)),
    }
    return ", ".join(name for name, same in facts.items() if not same)


def _as_intended(row: CertificateRow, signed: bytes) -> bool:
    """Whether that was signed which was to be; `signed` is without what may stand in the slot.

    Releases up to 0.6 kept what was to be signed, later ones its digest. What is there must fit, and one must be there.
    """
    digest = None if row.tbs_digest is None else hashlib.sha256(signed).hexdigest()
    if row.tbs:
        return _open(row.tbs, row.slot) == signed and digest == row.tbs_digest
    return digest is not None and digest == row.tbs_digest


def _list_of(certificate: x509.Certificate) -> int:
    """Number of the revocation list that a certificate names; 0 if it names none."""
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return 0
    names = points[0].full_name or [x509.UniformResourceIdentifier("")]
    return int(str(names[0].value).rpartition("/")[2].removesuffix(".crl"))


def _open(tbs: bytes, slot: int | None) -> bytes:
    """The bytes to be signed, without what may stand in the slot."""
    return tbs if slot is None else tbs[:slot] + b"0" * _SLOT + tbs[slot + _SLOT :]
