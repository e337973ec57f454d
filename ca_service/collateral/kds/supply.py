"""What to ask AMD's service for, and which of its answers to keep.

The bundle is the cache, and an answer gets into it only if it is the thing that was asked for and leads to a trusted
root. Whatever goes wrong here, a report is then judged with what is at hand: an outage can refuse and never admit.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from ca_service.collateral.folder import CollateralFolder
from ca_service.collateral.items import Item, Kind, items_of
from ca_service.collateral.kds.client import KdsClient
from ca_service.collateral.kds.flights import Flights
from ca_service.collateral.kds.urls import chain_path, crl_path, vcek_path
from ca_service.collateral.trust import fault, root_of
from ca_service.evidence.snp import Collateral, Leaf, Root, SnpEvidence
from ca_service.evidence.snp.form import FORM
from ca_service.judgment import NotFound, Unavailable, VtpmCaError, judge_until_failure
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import Product


@dataclass(frozen=True)
class Wanted:
    """The VCEK that a report needs.

    Attributes:
        product: the processor generation.
        chip_id: 64 bytes.
        tcb: 8 bytes, REPORTED_TCB.
        path: where the service has it.
    """

    product: Product
    chip_id: bytes
    tcb: bytes
    path: str

    def fits(self, leaf: Leaf) -> bool:
        """Whether a leaf is this VCEK, by what it says."""
        hwid = (leaf.hwid or b"").ljust(len(self.chip_id), b"\0")
        return leaf.kind is CertKind.VCEK and hwid == self.chip_id and leaf.tcb(self.product) == self.tcb


@dataclass(frozen=True)
class Fetched:
    """What became of one thing that `KdsSupply.refresh` asked for.

    Attributes:
        path: where it is, relative to the base.
        added: names of the files that are new in the bundle.
        present: names of those that were there.
        problem: why there is nothing; empty if all is well.
        failed: whether that is a failure. That the service has no such thing is none.
    """

    path: str
    added: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    problem: str = ""
    failed: bool = False

    def to_json(self) -> dict[str, object]:
        """The result as plain values."""
        return {
            "path": self.path,
            "added": list(self.added),
            "present": list(self.present),
            "problem": self.problem,
            "failed": self.failed,
        }


def wanted(evidence: SnpEvidence) -> Wanted | None:
    """The VCEK that is missing for a report; None if none is, or none can be asked for.

    Strangers' bytes are looked at here: only a report in good form may cause a request. What product a report of
    version 2 is from, only a certificate can tell, so without any there is nothing to ask for.
    """
    report, product = evidence.report, evidence.product
    if (
        product is None
        or not judge_until_failure(FORM, evidence).admitted
        or evidence.kind is not CertKind.VCEK
    ):
        return None
    path = vcek_path(product, report.chip_id, report.reported_tcb)
    if path is None:
        return None
    found = Wanted(product, report.chip_id, report.reported_tcb, path)
    return None if _has(evidence, found) else found


def _has(evidence: SnpEvidence, needed: Wanted) -> bool:
    leaf = evidence.leaf
    return (
        leaf is not None
        and needed.fits(leaf)
        and evidence.chain is not None
        and leaf.not_before <= evidence.at <= leaf.not_after
    )


class KdsSupply:
    """Fills a bundle from the service.

    Args:
        folder: the bundle.
        client: the service.
        roots: the roots that are trusted.
    """

    def __init__(self, folder: CollateralFolder, client: KdsClient, roots: tuple[Root, ...]) -> None:
        self._folder = folder
        self._client = client
        self._roots = roots
        self._flights = Flights(client.limits.in_flight)

    def provide(self, evidence: SnpEvidence) -> None:
        """Get the VCEK of a report into the bundle, if it is missing and can be had soon; else leave it at that.

        Must not be called within a transaction of the database: it may wait for as long as `KdsLimits.wait_s` says.
        """
        needed = wanted(evidence)
        if needed is None:
            return
        try:
            self._flights.join(needed.path, lambda: self._keep_vcek(needed), self._client.limits.wait_s)
        except VtpmCaError as error:
            structlog.get_logger(__name__).warning("no VCEK from the KDS", reason=error.detail)

    def _keep_vcek(self, needed: Wanted) -> None:
        content = self._client.get(needed.path)
        found = Collateral.of_file(content) or Collateral()
        known = self._folder.current()
        items = [item for item in items_of(found) if isinstance(item.value, Leaf) and needed.fits(item.value)]
        good = [item for item in items if self._under(item, known, needed.product)]
        if not good or not self._folder.add(good[:1]).written:
            # To ask again at once would bring the same.
            self._client.remember_absent(needed.path)
        if not good:
            raise Unavailable("the key distribution service has sent another thing than a VCEK", code="kds")

    def _under(self, item: Item, known: Collateral, product: Product) -> bool:
        roots = tuple(root for root in self._roots if root.product is product)
        return not fault(item, known, roots) and root_of(item, known, roots) is not None

    def refresh(self, products: Iterable[Product]) -> list[Fetched]:
        """Get the authorities and revocation lists of some products; what fails does not keep the rest back."""
        return [
            self._refreshed(path, product, kind)
            for product in products
            for service, authority in ((CertKind.VCEK, Kind.ASK), (CertKind.VLEK, Kind.ASVK))
            for path, kind in (
                (chain_path(product, service), authority),
                (crl_path(product, service), Kind.CRL),
            )
        ]

    def _refreshed(self, path: str, product: Product, kind: Kind) -> Fetched:
        try:
            items = items_of(Collateral.of_file(self._client.get(path)) or Collateral())
            good = [item for item in items if item.kind is kind and self._under(item, Collateral(), product)]
            if not good or len(good) != len(items):
                return Fetched(path, problem="is not what was asked for", failed=True)
            added = self._folder.add(good)
        except NotFound:
            return Fetched(path, problem="the service has none")
        except Unavailable as error:
            return Fetched(path, problem=error.detail, failed=True)
        return Fetched(path, added.written, added.present)
