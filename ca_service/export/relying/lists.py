"""Revocation lists as a relying party reads them (RFC 5280, sections 5 and 6.3)."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Self

from cryptography import x509

from ca_service.export.relying.files import UNREADABLE
from ca_service.judgment import BadRequest
from ca_service.profiles.scope import scope_of
from ca_service.profiles.signed import is_signed_by

SKEW: Final = timedelta(minutes=5)
"""How far the CA's clock may be ahead: a list or an answer may be that much younger than now."""

_KNOWN = frozenset({x509.AuthorityKeyIdentifier.oid, x509.CRLNumber.oid, x509.IssuingDistributionPoint.oid})


@dataclass(frozen=True)
class RevocationList:
    """One list; it counts for nothing before `signed_by` says so.

    Attributes:
        der: as received.
        crl: as read.
        issuer: DER of the issuer's name.
        key_id: its authority key id.
        scope: the one distribution point whose certificates it is about; None for all of its issuer's.
        this_update: when it was made.
        next_update: when the next one is due.
    """

    der: bytes = field(repr=False)
    crl: x509.CertificateRevocationList = field(repr=False, compare=False)
    issuer: bytes
    key_id: bytes | None
    scope: str | None
    this_update: datetime
    next_update: datetime

    @classmethod
    def read(cls, der: bytes, path: str) -> Self:
        """Read a list in DER.

        Raises:
            BadRequest: it cannot be read, is partial, indirect or a delta, or does not say when the next one is due.
                Such a list does not mean what a list of this CA means, and is none.
        """
        try:
            crl = x509.load_der_x509_crl(der)
            others = [e for e in crl.extensions if e.critical and e.oid not in _KNOWN]
            if others:
                raise ValueError(f"has a critical extension {others[0].oid.dotted_string}")
            key_id = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
            scope, name = scope_of(crl), crl.issuer.public_bytes()
            this_update, next_update = crl.last_update_utc, crl.next_update_utc
        except x509.ExtensionNotFound:
            raise BadRequest(
                path, "is no revocation list of this CA: it has no authorityKeyIdentifier"
            ) from None
        except UNREADABLE as error:
            raise BadRequest(path, f"is no revocation list of this CA: {error}") from None
        if next_update is None:
            raise BadRequest(path, "is a revocation list that does not say when the next one is due")
        return cls(der, crl, name, key_id, scope, this_update, next_update)

    def names_issuer(self, issuer: x509.Certificate, key_id: bytes) -> bool:
        """Whether it says that it is of this CA."""
        return self.issuer == issuer.subject.public_bytes() and self.key_id == key_id

    def signed_by(self, issuer: x509.Certificate) -> bool:
        """Whether this CA has signed it."""
        return is_signed_by(self.der, issuer.public_key())

    def revoked_at(self, serial: int) -> datetime | None:
        """When the certificate was revoked; None if the list does not name it."""
        entry = self.crl.get_revoked_certificate_by_serial_number(serial)
        return None if entry is None else entry.revocation_date_utc

    def stale(self, at: datetime, max_age: timedelta | None = None) -> str | None:
        """Why the list says nothing about that time; None if it does."""
        if at > self.next_update:
            return f"should have been replaced on {self.next_update:%Y-%m-%d %H:%M} UTC"
        if at < self.this_update - SKEW:
            return f"was made on {self.this_update:%Y-%m-%d %H:%M} UTC only"
        if max_age is not None and at - self.this_update > max_age:
            return f"is older than allowed: it was made on {self.this_update:%Y-%m-%d %H:%M} UTC"
        return None
