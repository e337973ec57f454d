"""Has a revocation been taken back? The published CRLs are signed and say what was revoked.

Lists are kept for good, and none drops what an earlier one names. So every stored list is believed as far as its
signature goes, and the last one, the revocations and the states of certificates are held against all of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice

from cryptography import x509

from ca_service.audit.findings import Findings
from ca_service.audit.issuers import Issuers
from ca_service.audit.salvage import tolerated
from ca_service.profiles import serial_hex
from ca_service.profiles.scope import scope_of
from ca_service.store import CrlRow, ListKey, Transaction

BATCH = 500


def audit_revocations(
    tx: Transaction, issuers: Issuers, kept: Mapping[ListKey, bytes], restores: int, findings: Findings
) -> None:
    """Hold states of certificates, revocations, and all CRLs of each issuer against each other.

    Args:
        tx: a read transaction.
        issuers: whose lists are believed.
        kept: the newest CRLs (DER) of issuers by shard, from outside the database.
        restores: how often the database was restored; each may have left one gap in the numbers of each list.
        findings: where what is wrong goes.
    """
    for serial in tx.log.unrevoked(BATCH):
        detail = "the certificate counts as revoked, and its revocation is gone"
        findings.add("revocation.missing", serial, detail)
    for serial in tx.log.revived(BATCH):
        _ignored(serial, findings)
    for serial in tx.log.misplaced(BATCH):
        detail = "the revocation belongs to another list than the one that the certificate names"
        findings.add("revocation.misplaced", serial, detail)
    of_kept = {skid for skid, _ in kept}
    for issuer in sorted({*tx.log.crl_issuers(), *tx.log.revoking_issuers(), *of_kept}):
        with tolerated(
            findings, "crl.unreadable", issuer, "a list or revocation of this issuer cannot be read"
        ):
            certificate = issuers.find(tx, issuer)
            if certificate is None:
                detail = "lists or revocations name an issuing CA that this root has not signed"
                findings.add("crl.foreign", issuer, detail)
            ours = {shard: der for (skid, shard), der in kept.items() if skid == issuer}
            _Issuer(tx, issuer, certificate, findings).audit(ours, restores)


def _ignored(serial: str, findings: Findings) -> None:
    findings.add("revocation.ignored", serial, "the certificate is revoked, and counts as good")


class _Issuer:
    """Looks through everything that one issuer has revoked."""

    def __init__(
        self, tx: Transaction, skid: str, certificate: x509.Certificate | None, findings: Findings
    ) -> None:
        self._tx = tx
        self._skid = skid
        self._certificate = certificate
        self._findings = findings

    def audit(self, kept: Mapping[int, bytes], restores: int) -> None:
        numbers, recorded = self._tx.log.crl_numbers(self._skid), self._tx.log.revoked_by(self._skid)
        for shard in sorted({*numbers, *kept, *recorded.values()}):
            with tolerated(self._findings, "crl.unreadable", self._place(shard), "a list cannot be read"):
                ever, last, at = self._walk(shard, numbers.get(shard, []), restores)
                if shard in kept and self._certificate is not None:
                    ever |= _serials(_load(kept[shard], self._certificate))
                self._compare(ever, last, at, {serial for serial in recorded if recorded[serial] == shard})

    def _place(self, shard: int) -> str:
        return f"{self._skid}/{shard}" if shard else self._skid

    def _compare(self, ever: set[str], last: set[str], at: datetime | None, recorded: set[str]) -> None:
        for serial in sorted(ever - recorded):
            where = "the last CRL" if serial in last else "a CRL"
            detail = f"the serial stands on {where}, and its revocation is gone"
            self._findings.add("revocation.missing", serial, detail)
        for serial in sorted(recorded - last):
            if not self._expired(serial, at):
                self._findings.add("revocation.unpublished", serial, "the revocation is not on the last CRL")
        # What has a revocation is asked of the database above.
        for batch in _batches(sorted(ever - recorded)):
            for serial in sorted(self._tx.log.good_among(self._skid, batch)):
                _ignored(serial, self._findings)

    def _walk(
        self, shard: int, numbers: Iterable[int], restores: int
    ) -> tuple[set[str], set[str], datetime | None]:
        """All serials on the lists of one shard that this issuer has signed, those on the last one, and its time."""
        ever, last, at, previous, gaps = set[str](), set[str](), None, 0, 0
        place = self._place(shard)
        for number in numbers:
            gaps += number != previous + 1
            previous = number
            last = set()
            with tolerated(self._findings, "crl.unreadable", f"{place}/{number}", "the list cannot be read"):
                row = self._tx.crls.get(self._skid, number, shard)
                if row is None or self._certificate is None:
                    continue
                try:
                    crl = self._checked(row, self._certificate)
                except _NotOursError as error:
                    self._findings.add("crl.forged", f"{place}/{number}", str(error))
                    continue
                last, at = _serials(crl), row.this_update
                for serial in sorted(ever - last):
                    if not self._expired(serial, row.this_update):
                        detail = f"list {number} of issuer {place} does not name what an earlier one does"
                        self._findings.add("crl.dropped", serial, detail)
                ever |= last
        if gaps > restores:
            detail = f"the numbers of its lists have {gaps} gaps, and restores explain {restores}"
            self._findings.add("crl.missing", place, detail)
        return ever, last, at

    def _checked(self, row: CrlRow, issuer: x509.Certificate) -> x509.CertificateRevocationList:
        crl = _load(row.der, issuer)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        if (number, crl.last_update_utc, crl.next_update_utc) != (
            row.number,
            row.this_update,
            row.next_update,
        ):
            raise _NotOursError("the list has another number or other times than its row")
        if not self._in_place(scope_of(crl), row.shard):
            raise _NotOursError("the list is published in another place than its row says")
        return crl

    def _in_place(self, scope: str | None, shard: int) -> bool:
        """The list of all certificates does not say where it is published."""
        return shard == 0 if scope is None else scope.endswith(f"/crl/{self._skid}/{shard}.crl")

    def _expired(self, serial: str, at: datetime | None) -> bool:
        """Whether a certificate had expired at that time: a list need not name it any more (RFC 5280, section 3.3)."""
        found = self._tx.log.certificates([serial]).get(serial)
        if found is None or at is None:
            return False
        return x509.load_der_x509_certificate(found.der).not_valid_after_utc < at


class _NotOursError(ValueError):
    """A list is not what its place in the database says."""


def _load(der: bytes, issuer: x509.Certificate) -> x509.CertificateRevocationList:
    crl = x509.load_der_x509_crl(der)
    key = issuer.public_key()
    if crl.issuer != issuer.subject or not crl.is_signature_valid(key):  # type: ignore[arg-type] # an issuer's key is one that signs
        raise _NotOursError("the list is not signed by this issuer")
    return crl


def _serials(crl: x509.CertificateRevocationList) -> set[str]:
    return {serial_hex(entry.serial_number) for entry in crl}


def _batches(serials: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(serials)
    while batch := list(islice(rest, BATCH)):
        yield batch
