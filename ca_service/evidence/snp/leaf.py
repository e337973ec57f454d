"""Reading a VCEK or VLEK certificate: only what a verifier needs, and strictly.

Source: AMD 57230, VCEK and VLEK certificate format.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca_service.evidence.snp.certificates import REMEMBERED, UNREADABLE, common_name, load
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import Product

_ARC: Final = "1.3.6.1.4.1.3704.1."
_STRUCT_VERSION: Final = _ARC + "1"
_PRODUCT_NAME: Final = _ARC + "2"
_HWID: Final = _ARC + "4"
_CSP_ID: Final = _ARC + "5"
_INTEGER: Final = 0x02
_OCTET_STRING: Final = 0x04
_IA5STRING: Final = 0x16
_SIGN_BIT: Final = 0x80

SPL_OIDS: Final[Mapping[Product, tuple[str, ...]]] = {
    Product.MILAN: tuple(_ARC + f"3.{n}" for n in (1, 2, 4, 5, 6, 7, 3, 8)),
    Product.GENOA: tuple(_ARC + f"3.{n}" for n in (1, 2, 4, 5, 6, 7, 3, 8)),
    Product.TURIN: tuple(_ARC + f"3.{n}" for n in (9, 1, 2, 3, 5, 6, 7, 8)),
}
"""Which extension certifies byte 0 to 7 of a TCB_VERSION."""

STRUCT_VERSION: Final[Mapping[Product, int]] = {Product.MILAN: 0, Product.GENOA: 0, Product.TURIN: 1}
HWID_SIZE: Final[Mapping[Product, int]] = {Product.MILAN: 64, Product.GENOA: 64, Product.TURIN: 8}
"""Bytes of a chip id."""

LEAF_NAMES: Final[Mapping[str, CertKind]] = {"SEV-VCEK": CertKind.VCEK, "SEV-VLEK": CertKind.VLEK}
"""Subject common name of each kind of leaf."""


def _integer(value: bytes) -> int | None:
    """A DER INTEGER from 0 to 255 in its one encoding; None for anything else."""
    if len(value) == 3 and value[:2] == bytes([_INTEGER, 1]) and value[2] < _SIGN_BIT:  # noqa: PLR2004 - DER
        return value[2]
    if len(value) == 4 and value[:3] == bytes([_INTEGER, 2, 0]) and value[3] >= _SIGN_BIT:  # noqa: PLR2004
        return value[3]
    return None


def _ia5string(value: bytes) -> str | None:
    """A short DER IA5String of printable characters; None for anything else."""
    text = value[2:]
    if value[:1] != bytes([_IA5STRING]) or value[1:2] != bytes([len(text)]) or len(text) >= _SIGN_BIT:
        return None
    return text.decode("ascii") if text.isascii() and text.decode("ascii").isprintable() else None


def _chip_id(value: bytes) -> bytes:
    """A hwID without the OCTET STRING that some writers put around it; AMD's own are raw.

    The length decides and not the first byte: a raw id may begin with 04 as well.
    """
    for size in set(HWID_SIZE.values()):
        if len(value) == size + 2 and value[:2] == bytes([_OCTET_STRING, size]):
            return value[2:]
    return value


@dataclass(frozen=True)
class Leaf:
    """What a leaf certificate says; nothing of it is believed before its chain holds.

    Attributes:
        der: as received.
        certificate: the same, loaded.
        common_name: the subject's only CN; empty if it has none or several.
        issuer: the issuer's name.
        public_key: None unless it is on P-384.
        not_before, not_after: validity, both included.
        extensions: raw value by dotted OID, of those that the library does not know; AMD's are among them.
        critical: OIDs of critical extensions.
    """

    der: bytes = field(repr=False)
    certificate: x509.Certificate
    common_name: str
    issuer: x509.Name
    public_key: ec.EllipticCurvePublicKey | None
    not_before: datetime
    not_after: datetime
    extensions: Mapping[str, bytes]
    critical: tuple[str, ...]

    @cached_property
    def kind(self) -> CertKind | None:
        """VCEK or VLEK, by its name; None if it is neither."""
        return LEAF_NAMES.get(self.common_name)

    @cached_property
    def product_name(self) -> str | None:
        """productName, for example ``Milan-B0``; None if it is missing or malformed."""
        return _ia5string(self.extensions.get(_PRODUCT_NAME, b""))

    @cached_property
    def struct_version(self) -> int | None:
        """structVersion; None if it is missing or malformed."""
        return _integer(self.extensions.get(_STRUCT_VERSION, b""))

    @cached_property
    def hwid(self) -> bytes | None:
        """The chip's id; None if the certificate has none, as a VLEK's."""
        value = self.extensions.get(_HWID)
        return None if value is None else _chip_id(value)

    @property
    def has_csp_id(self) -> bool:
        """Whether it names a cloud provider in any form, as only a VLEK does."""
        return _CSP_ID in self.extensions

    @cached_property
    def csp_id(self) -> str | None:
        """The cloud provider, for example ``CN=cc-eu-west-1.amazonaws.com``; None if missing or malformed."""
        return _ia5string(self.extensions.get(_CSP_ID, b"")) or None

    def tcb(self, product: Product) -> bytes | None:
        """The 8-byte TCB_VERSION that is certified; None if a part of it is missing or malformed."""
        return self._tcbs[product]

    @cached_property
    def _tcbs(self) -> Mapping[Product, bytes | None]:
        tcbs: dict[Product, bytes | None] = {}
        for product, oids in SPL_OIDS.items():
            parts = [_integer(self.extensions.get(oid, b"")) for oid in oids]
            known = [part for part in parts if part is not None]
            tcbs[product] = bytes(known) if len(known) == len(parts) else None
        return tcbs

    def key_id(self) -> bytes:
        """What stays the same when AMD certifies the key anew: the SubjectPublicKeyInfo; empty off P-384."""
        return self._key_id

    @cached_property
    def _key_id(self) -> bytes:
        if self.public_key is None:
            return b""
        return self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@lru_cache(maxsize=REMEMBERED)
def read_leaf(der: bytes) -> Leaf | None:
    """Read a leaf certificate in DER; None if it cannot be, for example because an extension stands twice."""
    certificate = load(der)
    if certificate is None:
        return None
    try:
        key = certificate.public_key()
        on_p384 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
        return Leaf(
            der=der,
            certificate=certificate,
            common_name=common_name(certificate.subject),
            issuer=certificate.issuer,
            public_key=key if isinstance(key, ec.EllipticCurvePublicKey) and on_p384 else None,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            extensions={
                e.oid.dotted_string: e.value.value
                for e in certificate.extensions
                if isinstance(e.value, x509.UnrecognizedExtension)
            },
            critical=tuple(e.oid.dotted_string for e in certificate.extensions if e.critical),
        )
    except UNREADABLE:
        return None
