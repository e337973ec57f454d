"""Collateral: the certificates and revocation lists with which a report is judged, from whoever has them.

A host may send some along, an operator may keep some. None of it is trusted: a leaf and an authority count once a
pinned root stands above them, a list once the pinned root has signed it.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar

from ca_service.evidence.snp.authorities import Authority, read_authority
from ca_service.evidence.snp.certificates import split_pem
from ca_service.evidence.snp.crl import Crl, read_crl, read_crls
from ca_service.evidence.snp.leaf import LEAF_NAMES, SPL_OIDS, Leaf, read_leaf
from vtpm.wire.certtable import CertKind, parse_table
from vtpm.wire.errors import WireError
from vtpm.wire.lazy import cached_property
from vtpm.wire.report import Report

T = TypeVar("T")

MOST_LEAVES: Final = 32
"""How many leaves are tried for one report: a VLEK does not say which chips it is for."""


@dataclass(frozen=True)
class Collateral:
    """Certificates and lists, read and not judged.

    Attributes:
        leaves: VCEK and VLEK certificates.
        authorities: ASK and ASVK certificates; roots are pinned and never taken from here.
        crls: revocation lists.
    """

    leaves: tuple[Leaf, ...] = ()
    authorities: tuple[Authority, ...] = ()
    crls: tuple[Crl, ...] = field(default=(), repr=False)

    @classmethod
    def of_table(cls, table: Mapping[CertKind, bytes]) -> Self:
        """What a host's certificate table brings: leaves and revocation lists, each content in DER or PEM.

        ASK and ARK are never taken from a host. The pinned ones do, and a revoked ASK would pass for as long as no
        list says so. Contents that cannot be read are left out: to send nothing has the same end.
        """
        ders = (der for kind in LEAF_NAMES.values() for der in _single(table.get(kind)))
        crls = (read_crl(content) for kind, content in table.items() if kind is CertKind.CRL)
        return cls(leaves=_present(map(read_leaf, ders)), crls=_present(crls))

    @classmethod
    def of_file(cls, content: bytes) -> "Collateral | None":
        """What a file of the verifier's own user holds; None if it is nothing of the kind, or part of it is not.

        A certificate or a revocation list in DER, any number of both in PEM, or a host's certificate table (see
        `of_table`). A self-issued authority is left out: roots are pinned.
        """
        with contextlib.suppress(WireError):
            return cls.of_table(parse_table(content))
        certificates = _part(content, "CERTIFICATE", split_pem)
        crls = _part(content, "X509 CRL", read_crls)
        if certificates is None or crls is None or not (certificates or crls):
            return None
        return cls._of_certificates(certificates) + cls(crls=tuple(crls))

    @classmethod
    def _of_certificates(cls, ders: Iterable[bytes]) -> Self:
        leaves: list[Leaf] = []
        authorities: list[Authority] = []
        for der in ders:
            authority = read_authority(der)
            leaf = read_leaf(der)
            if authority is not None:
                authorities += [] if authority.self_issued else [authority]
            elif leaf is not None:
                leaves.append(leaf)
        return cls(tuple(leaves), tuple(authorities))

    def __add__(self, other: "Collateral") -> "Collateral":
        return Collateral(
            self.leaves + other.leaves, self.authorities + other.authorities, self.crls + other.crls
        )

    def leaves_for(self, report: Report, kind: CertKind) -> tuple[Leaf, ...]:
        """The leaves that may have signed a report: of this kind, for its REPORTED_TCB, a VCEK for its chip too.

        Those that are valid longest come first, at most `MOST_LEAVES`.
        """
        chip = report.chip_id if kind is CertKind.VCEK else b""
        return self._index.get((kind, report.reported_tcb, chip), ())[:MOST_LEAVES]

    @cached_property
    def _index(self) -> Mapping[tuple[CertKind, bytes, bytes], tuple[Leaf, ...]]:
        index: dict[tuple[CertKind, bytes, bytes], list[Leaf]] = {}
        for leaf in self.leaves:
            kind = leaf.kind
            if kind is None:
                continue
            chip = (leaf.hwid or b"").ljust(64, b"\0") if kind is CertKind.VCEK else b""
            # Which product's layout holds is known only with a report; a leaf rarely fits more than one.
            for tcb in {tcb for tcb in map(leaf.tcb, SPL_OIDS) if tcb is not None}:
                index.setdefault((kind, tcb, chip), []).append(leaf)
        return {
            key: tuple(sorted(found, key=lambda leaf: leaf.not_after, reverse=True))
            for key, found in index.items()
        }


def _single(content: bytes | None) -> tuple[bytes, ...]:
    """The one certificate of a table's entry, in DER; nothing if the entry is absent or not exactly one."""
    found = None if content is None else split_pem(content)
    return tuple(found) if found is not None and len(found) == 1 else ()


def _part(content: bytes, label: str, read: Callable[[bytes], Sequence[T] | None]) -> Sequence[T] | None:
    """What `read` finds; nothing if there is no block with this label either, None if one cannot be read."""
    found = read(content)
    return () if found is None and f"-----BEGIN {label}-----".encode("ascii") not in content else found


def _present(values: Iterable[T | None]) -> tuple[T, ...]:
    return tuple([value for value in values if value is not None])
