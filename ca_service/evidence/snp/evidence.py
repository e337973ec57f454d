"""The subject of all SNP checks: a report, the certificate offered for its key, and what may be trusted when."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ca_service.evidence.snp.leaf import UNREADABLE, Leaf
from ca_service.evidence.snp.roots import Root
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import Product, Report

CPUID_SINCE: Final = 3
"""Report version from which the processor states its own CPUID."""

_PRE_PRODUCTION: Final = "A0"


@dataclass(frozen=True)
class SnpEvidence:
    """A report and its certificate, neither of them believed yet.

    Attributes:
        report: the report, raw bytes included.
        vek: the leaf certificate as sent; None if it was absent or no certificate.
        kind: as what the host sent it; None if it sent none.
        roots: the signing services that this verifier trusts.
        at: the time to verify at, with a time zone.
    """

    report: Report
    vek: x509.Certificate | None
    kind: CertKind | None
    roots: tuple[Root, ...]
    at: datetime

    @cached_property
    def leaf(self) -> Leaf | None:
        """The leaf's fields; None if there is no leaf that can be read."""
        return Leaf.read(self.vek) if self.vek is not None else None

    @cached_property
    def product(self) -> Product | None:
        """The processor generation, None if it is none that we know.

        Since version 3 the report itself says it. productName is not consulted then: it is known to be wrong
        in some genuine certificates, and the chain decides anyway. A version 2 report leaves only the leaf.
        """
        if self.report.version >= CPUID_SINCE:
            family, model, _ = self.report.cpuid
            return Product.from_cpuid(family, model)
        name, _, stepping = ((self.leaf.product_name if self.leaf else None) or "").partition("-")
        if stepping == _PRE_PRODUCTION:
            return None
        return next((product for product in Product if product.value == name), None)

    @cached_property
    def root(self) -> Root | None:
        """The trusted signing service of this product that issued the leaf; None if none did."""
        if self.vek is None:
            return None
        candidates = (root for root in self.roots if root.product is self.product)
        return next((root for root in candidates if _issued(self.vek, root)), None)


def _issued(vek: x509.Certificate, root: Root) -> bool:
    """Whether the signatures hold from the leaf over the ASK to the self-signed ARK."""
    try:
        vek.verify_directly_issued_by(root.ask)
        root.ask.verify_directly_issued_by(root.ark)
        root.ark.verify_directly_issued_by(root.ark)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True
