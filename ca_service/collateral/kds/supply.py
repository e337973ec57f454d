"""What to ask AMD's service for, and which of its answers to keep.

The bundle is the cache, and an answer gets into it only if it is the thing that was asked for, leads to a trusted root,
and, a VCEK, if it has signed a report that is here. Whatever goes wrong, a report is then judged with what is at hand:
an outage can refuse and never admit.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from ca_service.collateral.folder import CollateralFolder
from ca_service.collateral.items import Item, Kind, items_of
from ca_service.collateral.kds.client import KdsClient
from ca_service.collateral.kds.flights import Flights
from ca_service.collateral.kds.urls import chain_path, crl_path, vcek_path
from ca_service.collateral.trust import fault, root_of
from ca_service.evidence.snp import Collateral, Leaf, Root, SnpEvidence
from ca_service.evidence.snp.evidence import verifies
from ca_service.evidence.snp.form import FORM
from ca_service.judgment import NotFound, Unavailable, VtpmCaError, judge_until_failure
from ca_service.logger import logger
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import Product

_PATIENCE_S: Final = 60.0
_PATIENCE_FAILURES: Final = 5


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
        return self.is_of_chip(leaf) and leaf.tcb(self.product) == self.tcb

    def is_of_chip(self, leaf: Leaf) -> bool:
        """Whether a leaf is a VCEK of this chip, for whichever TCB."""
        hwid = (leaf.hwid or b"").ljust(len(self.chip_id), b"\0")
        return leaf.kind is CertKind.VCEK and hwid == self.chip_id


@dataclass(frozen=True)
class Fetched:
    """What became of one thing that `KdsSupply.refresh` asked for.

    Attributes:
        path: where it is, relative to the base.
        product: whose processors it is for.
        added: names of the files that are new in the bundle.
        present: names of those that were there.
        problem: why there is nothing; empty if all is well.
        failed: whether that is a failure. That the service has no such thing is none.
    """

    path: str
    product: Product
    added: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    problem: str = ""
    failed: bool = False

    def to_json(self) -> dict[str, object]:
        """The result as plain values."""
        return {
            "path": self.path,
            "product": self.product,
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
    # What a VM sends along may be useless, on purpose: then the bundle alone may still be enough.
    enough = _has(evidence, found) or _has(replace(evidence, offered=Collateral()), found)
    return None if enough else found


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
        told: is told, for each report that lacked a VCEK, whether it came.
    """

    def __init__(
        self,
        folder: CollateralFolder,
        client: KdsClient,
        roots: tuple[Root, ...],
        *,
        told: Callable[[bool], None] = lambda _came: None,
    ) -> None:
        self._told = told
        self._folder = folder
        self._client = client
        self._roots = roots
        self._flights = Flights[tuple[Item, ...]](client.limits.in_flight, client.limits.waiting)
        self._guard = threading.Lock()

    def provide(self, evidence: SnpEvidence) -> None:
        """Get the VCEK of a report into the bundle, if it is missing and can be had soon; else leave it at that.

        Must not be called within a transaction of the database: it may wait for as long as `KdsLimits.wait_s` says,
        and about twice as long again if another process holds the bundle.
        """
        needed = wanted(evidence)
        if needed is None:
            return

        def fetch_and_keep() -> tuple[Item, ...]:
            candidates = self._candidates(needed)
            # Here and not only below: whoever asked first may be gone when the answer comes.
            self._keep(candidates, needed, evidence)
            return candidates

        try:
            self._demand_room(needed)
            candidates = self._flights.join(needed.path, fetch_and_keep, self._client.limits.wait_s)
            # Many may have come for one answer, and those with forged reports must not spoil it for the others.
            if not self._keep(candidates, needed, evidence):
                raise Unavailable("the report is not signed by the chip that it names", code="kds")
        except VtpmCaError as error:
            logger(__name__).warning("no VCEK from the KDS", reason=error.detail)
            self._told(False)
        else:
            self._told(True)

    def _candidates(self, needed: Wanted) -> tuple[Item, ...]:
        found = Collateral.of_file(self._client.get(needed.path)) or Collateral()
        known = self._folder.current()
        items = [item for item in items_of(found) if isinstance(item.value, Leaf) and needed.fits(item.value)]
        good = tuple(item for item in items if self._under(item, known, needed.product))
        if not good:
            # To ask again at once would bring the same.
            self._client.remember_absent(needed.path)
            raise Unavailable("the key distribution service has sent another thing than a VCEK", code="kds")
        return good

    def _keep(self, candidates: Iterable[Item], needed: Wanted, evidence: SnpEvidence) -> bool:
        """Put the VCEK that has signed this report into the bundle; whether there is one.

        Else strangers could fill the bundle: chip ids are no secret, and a report that claims to be from one is
        quickly made up. That it was is not remembered, for a genuine report may come next.
        """
        signer = next((item for item in candidates if self._signs(item, evidence)), None)
        if signer is None:
            return False
        known = evidence.collateral.leaves_for(evidence.report, CertKind.VCEK)
        if any(leaf.der == signer.der for leaf in known):
            # It was there and did not do, for it has expired; to ask again at once would bring the same.
            self._client.remember_absent(needed.path)
            return True
        # One by one, or several could take the last room. A writer that hangs must not have them queue for long.
        if not self._guard.acquire(timeout=self._client.limits.wait_s):
            raise Unavailable("the bundle does not get free in time", code="kds")
        try:
            held = self._folder.current()
            if all(leaf.der != signer.der for leaf in held.leaves_for(evidence.report, CertKind.VCEK)):
                self._demand_room(needed)
                self._folder.add([signer])
        finally:
            self._guard.release()
        return True

    @staticmethod
    def _signs(item: Item, evidence: SnpEvidence) -> bool:
        return isinstance(item.value, Leaf) and verifies(item.value, evidence.report)

    def _demand_room(self, needed: Wanted) -> None:
        limits = self._client.limits
        vceks = [leaf for leaf in self._folder.current().leaves if leaf.kind is CertKind.VCEK]
        if len(vceks) >= limits.kept_most:
            raise Unavailable(f"the bundle has {len(vceks)} VCEKs already; add others by hand", code="kds")
        own = sum(needed.is_of_chip(leaf) for leaf in vceks)
        if own >= limits.kept_per_chip:
            raise Unavailable(
                f"the bundle has {own} VCEKs of this chip already; add others by hand", code="kds"
            )

    def _under(self, item: Item, known: Collateral, product: Product) -> bool:
        roots = tuple(root for root in self._roots if root.product is product)
        return not fault(item, known, roots) and root_of(item, known, roots) is not None

    def refresh(self, products: Iterable[Product], wait: Callable[[float], object]) -> list[Fetched]:
        """Get the authorities and revocation lists of some products; what fails does not keep the rest back.

        Args:
            products: which.
            wait: sits out so many seconds, at most `_PATIENCE_S` before each thing, because the service wants a
                pause after a failure. After `_PATIENCE_FAILURES` in a row that is given up, and the rest fails.
        """
        results: list[Fetched] = []
        for product in products:
            for service, authority in ((CertKind.VCEK, Kind.ASK), (CertKind.VLEK, Kind.ASVK)):
                for path, kind in (
                    (chain_path(product, service), authority),
                    (crl_path(product, service), Kind.CRL),
                ):
                    pause = self._client.pause_left()
                    last = results[-_PATIENCE_FAILURES:]
                    if pause and not (
                        len(last) == _PATIENCE_FAILURES and all(result.failed for result in last)
                    ):
                        wait(min(pause, _PATIENCE_S))
                    results.append(self._refreshed(path, product, kind))
        return results

    def _refreshed(self, path: str, product: Product, kind: Kind) -> Fetched:
        try:
            items = items_of(Collateral.of_file(self._client.get(path)) or Collateral())
            good = [item for item in items if item.kind is kind and self._under(item, Collateral(), product)]
            if not good or len(good) != len(items):
                return Fetched(path, product, problem="is not what was asked for", failed=True)
            added = self._folder.add(good)
        except NotFound:
            return Fetched(path, product, problem="the service has none")
        except Unavailable as error:
            return Fetched(path, product, problem=error.detail, failed=True)
        return Fetched(path, product, added.written, added.present)
