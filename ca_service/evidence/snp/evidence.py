"""The subject of all SNP checks: a report, what may vouch for its key, and what may be trusted when."""

from dataclasses import field, replace
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ca_service.evidence.snp.authorities import Authority
from ca_service.evidence.snp.certificates import REMEMBERED, issued
from ca_service.evidence.snp.collateral import MOST_LEAVES, Collateral
from ca_service.evidence.snp.crl import Crl
from ca_service.evidence.snp.leaf import Leaf
from ca_service.evidence.snp.roots import Root
from vtpm.wire.certtable import CertKind
from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property
from vtpm.wire.report import CPUID_SINCE, Product, Report

SIGNING_KEYS: Final = {0: CertKind.VCEK, 1: CertKind.VLEK}
"""SIGNING_KEY of a report that some key signed; 7 says that none did, the rest is reserved."""

P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)

_PRE_PRODUCTION: Final = "A0"


@frozen
class SnpEvidence:
    """A report and what came with it, none of it believed yet.

    Attributes:
        report: the report, raw bytes included.
        roots: the roots that this verifier trusts.
        at: the time to verify at, with a time zone.
        offered: what the requester sent along; hostile.
        collateral: what the verifier's own operator keeps.
        expected_product: the only product that is wanted; None for any.
    """

    report: Report
    roots: tuple[Root, ...]
    at: datetime
    offered: Collateral = field(default=Collateral(), repr=False)
    collateral: Collateral = field(default=Collateral(), repr=False)
    expected_product: Product | None = None

    @cached_property
    def kind(self) -> CertKind | None:
        """The kind of key that the report says it is signed with; None if it is none."""
        return SIGNING_KEYS.get(self.report.signing_key)

    @cached_property
    def leaf(self) -> Leaf | None:
        """The certificate of the report's key; None if there is none to try.

        Of several, the first one that fits the report in everything; else the first one, so that the checks can
        say what is wrong with it. What a requester sends goes before what an operator keeps.
        """
        candidates = self._candidates
        # To verify a signature is dear: a single candidate is verified once, by the check.
        if len(candidates) > 1:
            return next(filter(self._fits, candidates), candidates[0])
        return candidates[0] if candidates else None

    def at_time(self, at: datetime) -> "SnpEvidence":
        """The same evidence at another time; where it is `settled`, what was looked up comes along."""
        if not self.settled:
            return replace(self, at=at)
        later = object.__new__(SnpEvidence)
        later.__dict__.update(self.__dict__, at=at)
        return later

    @property
    def settled(self) -> bool:
        """Whether the leaf is the same at any time, because there is nothing to choose from."""
        return len(self._candidates) <= 1

    @cached_property
    def _candidates(self) -> tuple[Leaf, ...]:
        if self.kind is None:
            return ()
        of_kind = tuple(leaf for leaf in self.offered.leaves if leaf.kind is self.kind)
        offered = self.offered.leaves_for(self.report, self.kind) or of_kind or self.offered.leaves
        return (*offered[:MOST_LEAVES], *self.collateral.leaves_for(self.report, self.kind))

    @property
    def relevant(self) -> Collateral:
        """The part of `collateral` that a judgement of this report may look at: without other chips' certificates."""
        leaves = () if self.kind is None else self.collateral.leaves_for(self.report, self.kind)
        return replace(self.collateral, leaves=leaves)

    def _fits(self, leaf: Leaf) -> bool:
        return (
            self._chain_of(leaf) is not None
            and leaf.not_before <= self.at <= leaf.not_after
            and verifies(leaf, self.report)
        )

    @cached_property
    def chain(self) -> tuple[Authority, Root] | None:
        """The authority that issued the leaf, and the trusted root above it; None if there are none."""
        return None if self.leaf is None else self._chain_of(self.leaf)

    def _chain_of(self, leaf: Leaf) -> tuple[Authority, Root] | None:
        for root in self.roots:
            for authority in (*root.authorities, *self.collateral.authorities, *self.offered.authorities):
                if (
                    authority.issues is self.kind
                    and issued(root.ark.der, root.ark.der)
                    # First the authority: what a stranger's key makes of a signature may take long.
                    and issued(authority.der, root.ark.der)
                    and issued(leaf.der, authority.der)
                ):
                    return authority, root
        return None

    @property
    def root(self) -> Root | None:
        """The trusted root that the leaf leads to; None if it leads to none."""
        return None if self.chain is None else self.chain[1]

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
    def crls(self) -> tuple[Crl, ...]:
        """The revocation lists that the leaf's root issued, wherever they came from."""
        root = self.root
        if root is None:
            return ()
        given = root.crls + self.collateral.crls + self.offered.crls
        return tuple(dict.fromkeys(crl for crl in given if crl.signed_by(root.ark)))

    @property
    def crl_issued_at(self) -> datetime | None:
        """When the newest of `crls` was issued; None if there is none."""
        return max((crl.this_update for crl in self.crls), default=None)


def verifies(leaf: Leaf, report: Report) -> bool:
    """Whether the report's signature holds under the leaf's key: over the raw bytes, r and s in range.

    All 72 bytes of r and s count, so nothing hides in their padding. ECDSA stays malleable, (r, n-s) holds too:
    the bytes of a report identify nothing.
    """
    r, s = report.signature_r, report.signature_s
    if leaf.public_key is None or not (1 <= r < P384_ORDER and 1 <= s < P384_ORDER):
        return False
    return signature_holds(
        Signed(leaf.key_id(), encode_dss_signature(r, s), report.signed_bytes, leaf.public_key)
    )


@frozen
class Signed:
    """Bytes, an ECDSA-Sig-Value over them, and the key that shall have made it: as DER, and loaded."""

    key_der: bytes
    signature: bytes
    data: bytes
    key: ec.EllipticCurvePublicKey = field(compare=False)


@lru_cache(maxsize=REMEMBERED)
def signature_holds(signed: Signed) -> bool:
    """Whether an ECDSA signature with SHA-384 holds; remembered, because an enrolment is judged twice."""
    try:
        signed.key.verify(signed.signature, signed.data, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True
