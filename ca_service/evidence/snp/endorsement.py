"""The checks on the certificate of a report's key: AMD certified it, for a processor of a known kind, and still does.

Source: AMD 57230 (VCEK and VLEK certificates, certificate chain, revocation list); RFC 5280, section 6.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from ca_service.evidence.snp.evidence import SnpEvidence
from ca_service.evidence.snp.leaf import HWID_SIZE, STRUCT_VERSION, Leaf
from ca_service.judgment import Check, Finding, Timeless, failed, passed
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import CPUID_SINCE, Product

_A_CHAIN = "a chain to a trusted root"
_NO_CHAIN = "none"


@dataclass(frozen=True)
class _LeafPresent(Timeless):
    """A certificate for the report's key is at hand and can be read."""

    id: str = "snp.leaf-present"

    def judge(self, subject: SnpEvidence) -> Finding:
        if subject.leaf is None:
            return failed(
                self,
                f"there is no readable {subject.kind or 'leaf'} certificate for the report",
                expected=f"a {subject.kind or 'leaf'} certificate, sent along or kept by the CA",
                actual="none that can be read",
            )
        return passed(self, actual=subject.leaf.common_name)


@dataclass(frozen=True)
class _Chain(Timeless):
    """The ASK (for a VLEK the ASVK) of a trusted root issued the certificate."""

    id: str = "snp.chain"

    def judge(self, subject: SnpEvidence) -> Finding:
        if subject.leaf is not None and subject.leaf.kind not in {None, subject.kind}:
            return failed(
                self,
                "the certificate is not for the kind of key that the report names",
                expected=subject.kind or "",
                actual=subject.leaf.kind or "",
            )
        if subject.chain is None:
            return failed(
                self,
                "the certificate of the report's key does not lead to a trusted root",
                expected=", ".join(sorted({root.ark.common_name for root in subject.roots})) or "no root",
                actual="" if subject.leaf is None else subject.leaf.issuer.rfc4514_string(),
            )
        authority, root = subject.chain
        return passed(self, actual=f"{authority.common_name}, {root.ark.common_name}")


@dataclass(frozen=True)
class _Validity:
    """Every certificate of the chain is valid at the time of verification."""

    id: str = "snp.validity"

    def judge(self, subject: SnpEvidence) -> Finding:
        if subject.leaf is None or subject.chain is None:
            return failed(
                self, "there is no chain whose dates could hold", expected=_A_CHAIN, actual=_NO_CHAIN
            )
        authority, root = subject.chain
        for certificate in (subject.leaf, authority, root.ark):
            if not certificate.not_before <= subject.at <= certificate.not_after:
                return failed(
                    self,
                    f"the {certificate.common_name} certificate is not valid at this time",
                    expected=f"{certificate.not_before.isoformat()} to {certificate.not_after.isoformat()}",
                    actual=subject.at.isoformat(),
                )
        return passed(self, actual=subject.at.isoformat())


@dataclass(frozen=True)
class _Revocation(Timeless):
    """No list of the root names a certificate of the chain, nor one that was offered for it.

    A list counts however old it is. An operator's list in the root's name must be the root's: one that cannot be
    verified might be the one that matters. What a host sends in that name and the root did not sign is nothing.
    """

    id: str = "snp.revocation"

    def judge(self, subject: SnpEvidence) -> Finding:
        if subject.chain is None:
            return failed(
                self, "there is no chain that could be looked up", expected=_A_CHAIN, actual=_NO_CHAIN
            )
        authority, root = subject.chain
        for crl in subject.collateral.crls:
            if crl.issuer == root.ark.certificate.subject and crl not in subject.crls:
                return failed(
                    self,
                    "a revocation list in the root's name is not signed by it",
                    actual=f"{crl.issuer_name}, number {crl.number}",
                )
        revoked = frozenset().union(*(crl.revoked for crl in subject.crls))
        offered = (a for a in subject.offered.authorities if a.issuer == root.ark.certificate.subject)
        for certificate in (authority, root.ark, *offered):
            if certificate.serial in revoked:
                return failed(
                    self,
                    "a certificate of the chain is revoked",
                    actual=f"{certificate.common_name}, serial {certificate.serial:x}",
                )
        newest = subject.crl_issued_at
        return passed(self, actual=f"newest list of {newest.isoformat()}" if newest else "no list")


@dataclass(frozen=True)
class CrlAge:
    """A list of the root is at hand that was issued at most `most` before the time of verification."""

    most: timedelta
    id: str = "snp.crl-age"

    def judge(self, subject: SnpEvidence) -> Finding:
        """Look at the newest list; none at all is too old."""
        newest = subject.crl_issued_at
        wanted = f"issued at most {self.most} before {subject.at.isoformat()}"
        if newest is None:
            return failed(self, "there is no revocation list of the root", expected=wanted, actual="none")
        if subject.at - newest > self.most:
            return failed(
                self, "the newest revocation list is too old", expected=wanted, actual=newest.isoformat()
            )
        return passed(self, expected=wanted, actual=newest.isoformat())


@dataclass(frozen=True)
class _Product(Timeless):
    """The processor's generation is known and that of the root; it decides TCB layout and size of the chip id."""

    id: str = "snp.product"

    def judge(self, subject: SnpEvidence) -> Finding:
        product = subject.product
        if product is None:
            return failed(
                self,
                "the processor is of no known product",
                expected=", ".join(Product),
                actual=self._stated(subject),
            )
        for of, other in (
            ("its root", None if subject.root is None else subject.root.product),
            ("what is asked for", subject.expected_product),
        ):
            if other not in {None, product}:
                return failed(
                    self, f"the processor's product is not that of {of}", expected=other, actual=product
                )
        return passed(self, actual=product)

    def _stated(self, subject: SnpEvidence) -> str:
        if subject.report.version >= CPUID_SINCE:
            family, model, stepping = subject.report.cpuid
            return f"CPUID {family:02x}h/{model:02x}h/{stepping:x}"
        return f"productName {subject.leaf.product_name if subject.leaf else None}"


@dataclass(frozen=True)
class _LeafProfile(Timeless):
    """The certificate has the form that AMD gives to leaves of this kind and product."""

    id: str = "snp.leaf-profile"

    def judge(self, subject: SnpEvidence) -> Finding:
        leaf, product, kind = subject.leaf, subject.product, subject.kind
        if leaf is None or product is None or kind is None:
            return failed(
                self,
                "there is no certificate of a known product",
                expected="a certificate, of a product and kind that are known",
                actual=f"{'no certificate' if leaf is None else leaf.common_name}, product {product}, kind {kind}",
            )
        wrong = [name for name, met in _demands(leaf, product, kind).items() if not met]
        if wrong:
            return failed(
                self,
                f"the certificate has not the form of AMD's {kind} certificates",
                actual=", ".join(wrong),
            )
        return passed(self)


def _demands(leaf: Leaf, product: Product, kind: CertKind) -> Mapping[str, bool]:
    """What a leaf must be, by name. productName is not among them: version 2 reports need it for the product."""
    if kind is CertKind.VCEK:
        hwid = leaf.hwid
        owner = {
            "hwID": hwid is not None and len(hwid) == HWID_SIZE[product],
            "no CSP_ID": not leaf.has_csp_id,
        }
    else:
        owner = {"no hwID": leaf.hwid is None, "CSP_ID": leaf.csp_id is not None}
    return {
        "subject common name": leaf.kind is kind,
        "key on P-384": leaf.public_key is not None,
        "no critical extension": not leaf.critical,
        "structVersion": leaf.struct_version == STRUCT_VERSION[product],
        "TCB": leaf.tcb(product) is not None,
    } | owner


ENDORSEMENT: tuple[Check[SnpEvidence], ...] = (
    _LeafPresent(),
    _Chain(),
    _Validity(),
    _Revocation(),
    _Product(),
    _LeafProfile(),
)
"""In their order."""
