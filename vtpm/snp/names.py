"""AMD's certificate extensions for SEV-SNP keys, and names in AMD's order (57230, VCEK certificate format)."""

from collections.abc import Mapping
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from vtpm.wire.report import Product

_ARC: Final = "1.3.6.1.4.1.3704.1."
STRUCT_VERSION: Final = _ARC + "1"
PRODUCT_NAME: Final = _ARC + "2"
HWID: Final = _ARC + "4"

_EARLY: Final = (
    (0, "3.1"),
    (1, "3.2"),
    (2, "3.4"),
    (3, "3.5"),
    (4, "3.6"),
    (5, "3.7"),
    (6, "3.3"),
    (7, "3.8"),
)
_LATE: Final = (
    (0, "3.9"),
    (1, "3.1"),
    (2, "3.2"),
    (3, "3.3"),
    (4, "3.5"),
    (5, "3.6"),
    (6, "3.7"),
    (7, "3.8"),
)
_SPLS: Final[Mapping[Product, tuple[tuple[int, str], ...]]] = {
    Product.MILAN: _EARLY,
    Product.GENOA: _EARLY,
    Product.TURIN: _LATE,
}

STEPPING_NAME: Final[Mapping[Product, str]] = {
    Product.MILAN: "Milan-B0",
    Product.GENOA: "Genoa",
    Product.TURIN: "Turin",
}
"""productName as AMD's VCEKs of each product carry it."""

HWID_SIZE: Final[Mapping[Product, int]] = {Product.MILAN: 64, Product.GENOA: 64, Product.TURIN: 8}
"""Bytes of a chip id; the report's field is always 64 bytes long, the rest zero."""


def name(common_name: str, *, unit: str, organization: str) -> x509.Name:
    """A distinguished name with AMD's attributes in AMD's order: OU, C, L, ST, O, CN."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Santa Clara"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "CA"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _integer(value: int) -> bytes:
    """DER INTEGER of one byte's value: from 0x80 on it needs a leading zero byte."""
    return bytes([2, 1, value]) if value < 0x80 else bytes([2, 2, 0, value])  # noqa: PLR2004 - DER's sign bit


def vcek_extensions(product: Product, hwid: bytes, tcb: bytes) -> list[x509.UnrecognizedExtension]:
    """The extensions of a VCEK in AMD's order.

    Args:
        product: decides TCB layout and structVersion.
        hwid: the chip id; `HWID_SIZE` bytes, written raw as AMD does, without a DER header of its own.
        tcb: the 8-byte TCB_VERSION that the key is derived for.
    """
    stepping = STEPPING_NAME[product].encode("ascii")
    values = [
        (STRUCT_VERSION, _integer(1 if product is Product.TURIN else 0)),
        (PRODUCT_NAME, bytes([0x16, len(stepping)]) + stepping),
        *((_ARC + oid, _integer(tcb[index])) for index, oid in _SPLS[product]),
        (HWID, hwid),
    ]
    return [x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value) for oid, value in values]
