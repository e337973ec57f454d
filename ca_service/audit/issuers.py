"""The issuing CAs of a CA, by the root that signed them: whose lists are believed."""

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ca_service.store import Transaction


@dataclass(frozen=True)
class Issuers:
    """Certificates of issuing CAs.

    Attributes:
        root: the root's certificate, from the CA's directory.
        known: certificates of the issuing CAs in that directory, by subject key id (hex).
    """

    root: x509.Certificate
    known: Mapping[str, x509.Certificate]

    def find(self, tx: Transaction, skid: str) -> x509.Certificate | None:
        """The certificate of an issuing CA; that of another node's from the database, if the root has signed it."""
        if skid in self.known:
            return self.known[skid]
        row = tx.issuers.get(skid)
        if row is None:
            return None
        certificate = x509.load_der_x509_certificate(row.certificate)
        try:
            certificate.verify_directly_issued_by(self.root)
            key_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
            return None
        return certificate if key_id.hex() == skid else None
