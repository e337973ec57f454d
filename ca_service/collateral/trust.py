"""What may go into a bundle: only what leads to a root that this CA trusts.

A bundle is believed no more for that, for the checks of each report build the chain again. The rule keeps mistakes
out while somebody looks: a file of another vendor, a forged list, a leaf whose authority nobody has.
"""

from collections.abc import Iterable

from ca_service.collateral.items import Item
from ca_service.evidence.snp import Authority, Collateral, Crl, Leaf, Root, amd_roots, simulated_roots
from ca_service.evidence.snp.certificates import issued
from vtpm.wire.certtable import CertKind


def trusted_roots(*, simulated: bool) -> tuple[Root, ...]:
    """The roots of a CA: AMD's, and for a simulation CA those of the simulated processors too.

    Raises:
        VtpmCaError: a pinned file is missing or was exchanged.
    """
    return amd_roots() + (simulated_roots() if simulated else ())


def root_of(item: Item, known: Collateral, roots: Iterable[Root]) -> Root | None:
    """The trusted root that an item leads to, by names and signatures; None if there is none.

    Args:
        item: a certificate or list; dates and revocation are not looked at.
        known: where authorities besides the pinned ones may come from.
        roots: the roots that are trusted.
    """
    for root in roots:
        value = item.value
        if isinstance(value, Crl):
            found = value.signed_by(root.ark)
        elif isinstance(value, Authority):
            found = value.issues is not None and issued(value.der, root.ark.der)
        else:
            found = authority_of(value, known, root) is not None
        if found:
            return root
    return None


def authority_of(leaf: Leaf, known: Collateral, root: Root) -> Authority | None:
    """The authority under `root` that issued a leaf; None if it is neither pinned nor known."""
    return next(
        (
            authority
            for authority in (*root.authorities, *known.authorities)
            if authority.issues is not None
            and authority.issues is leaf.kind
            and issued(leaf.der, authority.der)
            and issued(authority.der, root.ark.der)
        ),
        None,
    )


def fault(item: Item, known: Collateral, roots: tuple[Root, ...]) -> str:
    """What speaks against an item, as the end of a sentence; empty if it may go into the bundle."""
    if item.kind is None:
        return "is no VCEK, VLEK, ASK or ASVK certificate, nor a revocation list"
    root = root_of(item, known, roots)
    value = item.value
    if root is None:
        if isinstance(value, Crl):
            return f"is a revocation list of {value.issuer_name or 'a nameless issuer'} that no trusted ARK has signed"
        if isinstance(value, Authority):
            return f"is the certificate of {value.common_name}, which no trusted ARK has issued"
        return (
            f"is a {value.common_name} certificate of {value.certificate.issuer.rfc4514_string()}, "
            "which leads to no trusted root"
        )
    if isinstance(value, Leaf):
        return _leaf_fault(value, root)
    return ""


def _leaf_fault(leaf: Leaf, root: Root) -> str:
    """A leaf that no report can ever be matched with would only be in the way."""
    if leaf.public_key is None:
        return f"is a {leaf.common_name} certificate without a key on P-384"
    if root.product is None or leaf.tcb(root.product) is None:
        return f"is a {leaf.common_name} certificate without a readable TCB"
    if leaf.kind is CertKind.VCEK and not leaf.hwid:
        return f"is a {leaf.common_name} certificate that names no chip"
    return ""
