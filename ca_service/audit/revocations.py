"""Has a revocation been taken back? The published CRLs are signed and say what was revoked."""

from itertools import islice

from cryptography import x509

from ca_service.audit.findings import Findings
from ca_service.profiles import serial_hex
from ca_service.store import Transaction

BATCH = 500


def audit_revocations(tx: Transaction, findings: Findings) -> None:
    """Hold states of certificates, revocations, and the last CRL of each issuer against each other."""
    for serial in tx.log.unrevoked(BATCH):
        detail = "the certificate counts as revoked, and its revocation is gone"
        findings.add("revocation.missing", serial, detail)
    for serial in tx.log.revived(BATCH):
        detail = "the certificate is revoked, and counts as issued"
        findings.add("revocation.ignored", serial, detail)
    for issuer in tx.log.crl_issuers():
        row = tx.crls.latest(issuer)
        if row is not None:
            _audit_crl(tx, issuer, row.der, findings)


def _audit_crl(tx: Transaction, issuer: str, der: bytes, findings: Findings) -> None:
    try:
        listed = iter(x509.load_der_x509_crl(der))
        while batch := [serial_hex(entry.serial_number) for entry in islice(listed, BATCH)]:
            known = tx.log.revoked_among(issuer, batch)
            for serial in batch:
                if serial not in known:
                    detail = "the serial stands on the last CRL, and its revocation is gone"
                    findings.add("revocation.missing", serial, detail)
    except (ValueError, OverflowError):
        findings.add("crl.unreadable", issuer, "the last CRL of this issuer cannot be read")
