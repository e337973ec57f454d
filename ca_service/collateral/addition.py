"""Adding to a bundle: everything that was named is good, or nothing is written."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ca_service.collateral.folder import CollateralFolder
from ca_service.collateral.inspection import newest
from ca_service.collateral.items import Item, items_of
from ca_service.collateral.trust import fault, root_of
from ca_service.evidence.snp import Collateral, Crl, Root
from ca_service.judgment import Refused, Unavailable


class Unacceptable(Refused):
    """Something does not belong into the bundle."""

    def __init__(self, source: str, detail: str) -> None:
        super().__init__("collateral.acceptable", f"{source}: {detail}; nothing was added")
        self.code = "collateral"


@dataclass(frozen=True)
class Offer:
    """What somebody wants to add: where it is from, for the error, and the bytes of one file."""

    source: str
    content: bytes


@dataclass(frozen=True)
class Outcome:
    """What became of one item: its name in the bundle, whether it is new, and what should be known about it."""

    source: str
    item: Item
    new: bool
    note: str = ""

    def to_json(self) -> dict[str, object]:
        """The outcome as plain values."""
        return {
            "source": self.source,
            "kind": self.item.kind,
            "file": self.item.name,
            "added": self.new,
            "note": self.note,
        }


def add(folder: CollateralFolder, offers: Sequence[Offer], roots: tuple[Root, ...]) -> list[Outcome]:
    """Put all items of all offers into a bundle, or none.

    Args:
        folder: the bundle.
        offers: DER, PEM, runs of PEM, revocation lists, or hosts' certificate tables. Self-signed roots among them
            are left out: roots are pinned.
        roots: the roots that are trusted.

    Raises:
        Unacceptable: an offer is nothing of the kind, holds nothing but roots, or an item leads to no trusted root
            (a leaf may lead there through an authority in the same call).
        Unavailable: the bundle cannot be read or written.
    """
    read = [(offer.source, _items(offer)) for offer in offers]
    known = sum((collateral for _, collateral in read), _held(folder))
    sources: dict[str, tuple[str, Item]] = {}
    for source, collateral in read:
        for item in items_of(collateral):
            wrong = fault(item, known, roots)
            if wrong:
                raise Unacceptable(source, wrong)
            sources.setdefault(item.name, (source, item))
    written = set(folder.add(item for _, item in sources.values()).written)
    return [
        Outcome(source, item, name in written, _note(item, known, roots))
        for name, (source, item) in sources.items()
    ]


def _held(folder: CollateralFolder) -> Collateral:
    try:
        return folder.current()
    except Unavailable:
        # A damaged bundle is repaired by adding what is damaged again.
        return folder.readable()


def _items(offer: Offer) -> Collateral:
    collateral = Collateral.of_file(offer.content)
    if collateral is None:
        raise Unacceptable(
            offer.source, "is no certificate, revocation list or certificate table that can be read"
        )
    if not items_of(collateral):
        raise Unacceptable(offer.source, "holds nothing to keep (roots are built in)")
    return collateral


def _note(item: Item, known: Collateral, roots: Iterable[Root]) -> str:
    root = root_of(item, known, roots)
    if root is None or not isinstance(item.value, Crl):
        return ""
    last = newest(known.crls, root)
    if last is None or last.this_update <= item.value.this_update:
        return ""
    return "older than the newest list held; what it lists stays revoked"
