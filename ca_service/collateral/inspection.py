"""What lies in a bundle, and in which state it is at a given time: for people and their monitoring.

Nothing here decides about a report; the checks of `ca_service.evidence.snp` come to their own conclusions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ca_service.collateral.folder import Stored
from ca_service.collateral.items import Item, collateral_of, read_item
from ca_service.collateral.trust import authority_of, fault, root_of
from ca_service.evidence.snp import Authority, Collateral, Crl, Leaf, Root
from vtpm.wire.report import Product, tcb_components


class State(StrEnum):
    """What a certificate or a list is worth at a given time; the first that holds."""

    UNTRUSTED = "untrusted"
    """It leads to no trusted root."""
    REVOKED = "revoked"
    """A list of the root names the certificate, or the authority that issued it."""
    NOT_YET = "not yet"
    """Its validity begins later; a list: it was issued later."""
    EXPIRED = "expired"
    """Its validity is over."""
    SUPERSEDED = "superseded"
    """A newer list of the same root is there. What it lists stays revoked."""
    STALE = "stale"
    """A list, the newest one of its root, whose nextUpdate is over. What it lists stays revoked."""
    VALID = "valid"


_GOOD = frozenset({State.VALID, State.SUPERSEDED})


@dataclass(frozen=True)
class Entry:
    """One thing of a bundle, judged.

    Attributes:
        item: what it is.
        root: the trusted root that it leads to; None if there is none.
        state: its state.
    """

    item: Item
    root: Root | None
    state: State

    @property
    def product(self) -> Product | None:
        """Whose processors it is for, by its root."""
        return None if self.root is None else self.root.product

    def to_json(self) -> dict[str, object]:
        """The entry as plain values; members that its kind has not are None."""
        value, product = self.item.value, self.product
        row: dict[str, object] = {
            "kind": self.item.kind,
            "product": product,
            "simulated": self.root is not None and self.root.simulated,
            "subject": None,
            "chip_id": None,
            "csp_id": None,
            "tcb": None,
            "serial": None,
            "not_before": None,
            "not_after": None,
            "issuer": None,
            "number": None,
            "this_update": None,
            "next_update": None,
            "revoked": None,
            "state": self.state,
            "file": self.item.name,
        }
        if isinstance(value, Crl):
            row |= {
                "issuer": value.issuer_name,
                "number": value.number,
                "this_update": _text(value.this_update),
                "next_update": _text(value.next_update),
                "revoked": sorted(f"{serial:x}" for serial in value.revoked),
            }
            return row
        row |= {
            "subject": value.common_name,
            "serial": f"{value.certificate.serial_number:x}",
            "not_before": _text(value.not_before),
            "not_after": _text(value.not_after),
        }
        if isinstance(value, Leaf):
            tcb = None if product is None else value.tcb(product)
            row |= {
                "chip_id": value.hwid.hex() if value.hwid else None,
                "csp_id": value.csp_id,
                "tcb": None if tcb is None or product is None else tcb_components(tcb, product),
            }
        return row


@dataclass(frozen=True)
class Problem:
    """Something that is wrong in a bundle: the file, and the end of the sentence that it begins."""

    file: str
    text: str

    def to_json(self) -> Mapping[str, str]:
        """The problem as plain values."""
        return {"file": self.file, "problem": self.text}


def survey(collateral_items: Iterable[Item], roots: tuple[Root, ...], at: datetime) -> list[Entry]:
    """Every item with its state at a time.

    Args:
        collateral_items: all that is in the bundle.
        roots: the roots that are trusted.
        at: the time to judge at, with a time zone.
    """
    items = list(collateral_items)
    known = collateral_of(items)
    view = _View(known, roots, at)
    return [view.entry(item) for item in items]


def examine(
    stored: Iterable[Stored], strangers: Iterable[str], roots: tuple[Root, ...], at: datetime
) -> list[Problem]:
    """All that is wrong in a bundle at a time: each file is read again, whatever its name says."""
    problems = [Problem(name, "is no file of a bundle; it is not read") for name in strangers]
    items: list[Item] = []
    for file in stored:
        item = None if file.content is None else read_item(file.name, file.content)
        if file.content is None:
            problems.append(Problem(file.name, "cannot be read, or is too long"))
        elif item is None:
            problems.append(Problem(file.name, "does not hold what its name says"))
        else:
            items.append(item)
    known = collateral_of(items)
    for entry in survey(items, roots, at):
        wrong = fault(entry.item, known, roots) or _sentence(entry)
        if wrong:
            problems.append(Problem(entry.item.name, wrong))
    return sorted(problems, key=lambda problem: problem.file)


def gaps(stored: Sequence[Stored], roots: Iterable[Root]) -> list[str]:
    """What a bundle lacks, as sentences: anything at all, or a revocation list for a product that it has leaves of.

    Nothing that is there is wrong for that, so these are no problems of `examine`; but nothing is then revoked.
    """
    if not stored:
        return ["the bundle is empty, so nothing is known to be revoked"]
    read = (read_item(file.name, file.content) for file in stored if file.content is not None)
    known = collateral_of(item for item in read if item is not None)
    return [
        f"there is no revocation list of {root.ark.common_name}, so no certificate for {root.product} is known to be "
        "revoked"
        for root in roots
        if newest(known.crls, root) is None
        and any(authority_of(leaf, known, root) is not None for leaf in known.leaves)
    ]


def _sentence(entry: Entry) -> str:
    value = entry.item.value
    if entry.state in _GOOD:
        return ""
    if isinstance(value, Crl):
        which = f"is the newest revocation list of {value.issuer_name}"
        if entry.state is State.NOT_YET:
            return f"{which}, and was issued later, at {_text(value.this_update)}"
        return f"{which}, and a newer one was due at {_text(value.next_update)}"
    if entry.state is State.REVOKED:
        return f"is a {value.common_name} certificate that is revoked, or whose authority is"
    if entry.state is State.NOT_YET:
        return f"is a {value.common_name} certificate that is not valid before {_text(value.not_before)}"
    return f"is a {value.common_name} certificate that has expired at {_text(value.not_after)}"


@dataclass(frozen=True)
class _View:
    known: Collateral
    roots: tuple[Root, ...]
    at: datetime

    def entry(self, item: Item) -> Entry:
        root = root_of(item, self.known, self.roots)
        return Entry(item, root, State.UNTRUSTED if root is None else self._state(item, root))

    def _state(self, item: Item, root: Root) -> State:
        value = item.value
        if isinstance(value, Crl):
            return self._crl_state(value, root)
        if self._revoked(value, root):
            return State.REVOKED
        if self.at < value.not_before:
            return State.NOT_YET
        return State.EXPIRED if self.at > value.not_after else State.VALID

    def _revoked(self, value: Leaf | Authority, root: Root) -> bool:
        authority = authority_of(value, self.known, root) if isinstance(value, Leaf) else value
        lists = (crl.revoked for crl in self.known.crls if crl.signed_by(root.ark))
        return authority is not None and authority.serial in frozenset[int]().union(*lists)

    def _crl_state(self, crl: Crl, root: Root) -> State:
        if self.at < crl.this_update:
            return State.NOT_YET
        others = (other for other in self.known.crls if other.signed_by(root.ark))
        if any(crl.this_update < other.this_update <= self.at for other in others):
            return State.SUPERSEDED
        if crl.next_update is not None and crl.next_update < self.at:
            return State.STALE
        return State.VALID


def newest(crls: Iterable[Crl], root: Root) -> Crl | None:
    """The newest list of a root; None if there is none."""
    own = [crl for crl in crls if crl.signed_by(root.ark)]
    return max(own, key=lambda crl: crl.this_update, default=None)


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.strftime("%Y-%m-%dT%H:%M:%SZ")
