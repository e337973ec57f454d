"""One thing of a bundle: a certificate or a revocation list, under a name that says what it is and what is in it."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ca_service.evidence.snp import Authority, Collateral, Crl, Leaf, read_authority, read_crl, read_leaf
from ca_service.evidence.snp.certificates import MAX_CERTIFICATE
from ca_service.evidence.snp.crl import MAX_CRL
from vtpm.wire.certtable import CertKind
from vtpm.wire.lazy import cached_property

_NAME: Final = re.compile(r"(vcek|vlek|ask|asvk|crl)-([0-9a-f]{64})\.der\Z")


class Kind(StrEnum):
    """What a file of the bundle holds; its name begins with it."""

    CRL = "crl"
    ASK = "ask"
    ASVK = "asvk"
    VCEK = "vcek"
    VLEK = "vlek"

    @property
    def most(self) -> int:
        """Longest content in bytes."""
        return MAX_CRL if self is Kind.CRL else MAX_CERTIFICATE


_LEAVES: Final[Mapping[CertKind | None, Kind]] = {CertKind.VCEK: Kind.VCEK, CertKind.VLEK: Kind.VLEK}
_AUTHORITIES: Final[Mapping[CertKind | None, Kind]] = {CertKind.VCEK: Kind.ASK, CertKind.VLEK: Kind.ASVK}


@dataclass(frozen=True)
class Item:
    """A certificate or a list, read and not judged.

    Attributes:
        kind: what it is; None for a certificate with a name that none of AMD's kinds has.
        value: the same, read.
    """

    kind: Kind | None
    value: Leaf | Authority | Crl

    @property
    def der(self) -> bytes:
        """The exact bytes."""
        return self.value.der

    @cached_property
    def sha256(self) -> str:
        """Digest of the bytes, hex."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def name(self) -> str:
        """File name in a bundle."""
        return f"{self.kind}-{self.sha256}.der"


def items_of(collateral: Collateral) -> tuple[Item, ...]:
    """The things that a collateral is made of: lists, then authorities, then leaves, each once."""
    found = [
        *(Item(Kind.CRL, crl) for crl in collateral.crls),
        *(Item(_AUTHORITIES.get(authority.issues), authority) for authority in collateral.authorities),
        *(Item(_LEAVES.get(leaf.kind), leaf) for leaf in collateral.leaves),
    ]
    return tuple({item.der: item for item in found}.values())


def collateral_of(items: Iterable[Item]) -> Collateral:
    """Inverse of `items_of`."""
    values = [item.value for item in items]
    return Collateral(
        leaves=tuple(value for value in values if isinstance(value, Leaf)),
        authorities=tuple(value for value in values if isinstance(value, Authority)),
        crls=tuple(value for value in values if isinstance(value, Crl)),
    )


def kind_of_name(name: str) -> Kind | None:
    """The kind that a file name states; None if it is no name of a bundle's file."""
    match = _NAME.match(name)
    return Kind(match[1]) if match else None


def read_item(name: str, content: bytes) -> Item | None:
    """The item in a file; None unless the content is exactly what the name says, in kind and digest."""
    kind = kind_of_name(name)
    value: Leaf | Authority | Crl | None
    if kind is None:
        return None
    if kind is Kind.CRL:
        value = read_crl(content)
    elif kind in _LEAVES.values():
        value = read_leaf(content)
    else:
        value = read_authority(content)
    if value is None:
        return None
    (item,) = items_of(collateral_of([Item(kind, value)]))
    # A list in PEM can be read as well, and then another digest than the file.
    return item if item.name == name else None
