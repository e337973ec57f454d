"""AMD's certificate extensions for SEV-SNP keys, and names in AMD's order (57230, VCEK certificate format)."""

from collections.abc import Mapping
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from vtpm.snp.der import ia5_string, integer
from vtpm.wire.report import Product

_ARC: Final = "1.3.6.1.4.1.3704.1."
STRUCT_VERSION: Final = _ARC + "1"
PRODUCT_NAME: Final = _ARC + "2"
HWID: Final = _ARC + "4"
CSP_ID: Final = _ARC + "5"

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
"""productName as AMD's VCEKs of each product carry it; VLEKs carry the product alone."""

HWID_SIZE: Final[Mapping[Product, int]] = {Product.MILAN: 64, Product.GENOA: 64, Product.TURIN: 8}
"""Bytes of a chip id; the report's field is always 64 bytes long, the rest zero."""


FIRST_SERIAL: Final[Mapping[Product, int]] = {
    Product.MILAN: 0x10000,
    Product.GENOA: 0x20000,
    Product.TURIN: 0x30000,
}
"""Serial number of each product's ARK; ASK and ASVK follow at these distances, as AMD numbers them."""

ASK_DISTANCE: Final = 0x001
ASVK_DISTANCE: Final = 0x101


def simulated_name(common_name: str) -> x509.Name:
    """A distinguished name with AMD's attributes in AMD's order (OU, C, L, ST, O, CN) that says it is simulated."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "SIMULATED"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Santa Clara"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "CA"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "vtpm-ca simulated platform"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def common_name_of(certificate: x509.Certificate) -> str:
    """The common name of a certificate's subject.

    Raises:
        ValueError: it has none, or several.
    """
    (attribute,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attribute.value)


def vcek_extensions(product: Product, hwid: bytes, tcb: bytes) -> dict[str, bytes]:
    """The extensions of a VCEK, values by dotted OID, in AMD's order.

    Args:
        product: decides TCB layout and structVersion.
        hwid: the chip id; `HWID_SIZE` bytes, written raw as AMD does, without a DER header of its own.
        tcb: the 8-byte TCB_VERSION that the key is derived for.
    """
    return _common(product, STEPPING_NAME[product], tcb) | {HWID: hwid}


def vlek_extensions(product: Product, csp_id: str, tcb: bytes) -> dict[str, bytes]:
    """The extensions of a VLEK, values by dotted OID, in AMD's order: no chip, but a provider.

    Args:
        product: decides TCB layout and structVersion.
        csp_id: the cloud provider's name for the key, ASCII, such as ``CN=cc-eu-west-1.amazonaws.com``.
        tcb: the 8-byte TCB_VERSION that the key is derived for.
    """
    return _common(product, product.value, tcb) | {CSP_ID: ia5_string(csp_id)}


def _common(product: Product, product_name: str, tcb: bytes) -> dict[str, bytes]:
    return {
        STRUCT_VERSION: integer(1 if product is Product.TURIN else 0),
        PRODUCT_NAME: ia5_string(product_name),
        **{_ARC + oid: integer(tcb[index]) for index, oid in _SPLS[product]},
    }
