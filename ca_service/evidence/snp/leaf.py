"""Reading a VCEK certificate: only what a verifier needs, and strictly.

Source: AMD 57230, VCEK certificate format. The library's path builders refuse AMD's leaves (no authority key
identifier, serial number 0), so chain building is by `verify_directly_issued_by` and the fields are read here.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from vtpm.wire.certtable import CertKind
from vtpm.wire.report import Product

# Every genuine VCEK has serial number 0; the library announces that it will refuse it one day. The version in
# pyproject.toml is bounded for that reason, so the announcement tells an operator nothing.
warnings.filterwarnings(
    "ignore",
    message="Parsed a serial number which wasn't positive",
    category=CryptographyDeprecationWarning,
)

UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""All that the library raises on a certificate that it cannot make sense of, at loading or later."""

_PEM: Final = re.compile(rb"\s*-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]*-----END CERTIFICATE-----\s*\Z")
_ARC: Final = "1.3.6.1.4.1.3704.1."
_STRUCT_VERSION: Final = _ARC + "1"
_PRODUCT_NAME: Final = _ARC + "2"
_HWID: Final = _ARC + "4"
_CSP_ID: Final = _ARC + "5"
_INTEGER: Final = 0x02
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


def load_leaf(table: Mapping[CertKind, bytes]) -> x509.Certificate | None:
    """The certificate of the report's key out of a host's certificate table, in DER or PEM.

    The VCEK goes before the VLEK. None when neither is there, or it is no single certificate: what that means
    is the verifier's to say.
    """
    content = table.get(CertKind.VCEK) or table.get(CertKind.VLEK)
    if content is None:
        return None
    try:
        if _PEM.match(content):
            return x509.load_pem_x509_certificate(content)
        return x509.load_der_x509_certificate(content)
    except UNREADABLE:
        return None


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


@dataclass(frozen=True)
class Leaf:
    """What a leaf certificate says; nothing of it is believed before its chain holds.

    Attributes:
        certificate: as received.
        common_name: the subject's only CN; empty if it has none or several.
        public_key: None unless it is on P-384.
        pss: whether it is signed as AMD signs: RSASSA-PSS with SHA-384.
        not_before, not_after: validity, both included.
        extensions: raw value by dotted OID, of those that the library does not know; AMD's are among them.
        critical: OIDs of critical extensions.
    """

    certificate: x509.Certificate
    common_name: str
    public_key: ec.EllipticCurvePublicKey | None
    pss: bool
    not_before: datetime
    not_after: datetime
    extensions: Mapping[str, bytes]
    critical: tuple[str, ...]

    @classmethod
    def read(cls, certificate: x509.Certificate) -> Self | None:
        """Read a certificate; None if the library cannot, for example because an extension stands twice."""
        try:
            return cls._read(certificate)
        except UNREADABLE:
            return None

    @classmethod
    def _read(cls, certificate: x509.Certificate) -> Self:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        common_name = names[0].value if len(names) == 1 else ""
        key = certificate.public_key()
        on_p384 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
        return cls(
            certificate=certificate,
            common_name=common_name if isinstance(common_name, str) else "",
            public_key=key if isinstance(key, ec.EllipticCurvePublicKey) and on_p384 else None,
            pss=_signed_like_amd(certificate),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            extensions={
                e.oid.dotted_string: e.value.value
                for e in certificate.extensions
                if isinstance(e.value, x509.UnrecognizedExtension)
            },
            critical=tuple(e.oid.dotted_string for e in certificate.extensions if e.critical),
        )

    @property
    def product_name(self) -> str | None:
        """productName, for example ``Milan-B0``; None if it is missing or malformed."""
        return _ia5string(self.extensions.get(_PRODUCT_NAME, b""))

    @property
    def struct_version(self) -> int | None:
        """structVersion; None if it is missing or malformed."""
        return _integer(self.extensions.get(_STRUCT_VERSION, b""))

    @property
    def hwid(self) -> bytes | None:
        """The chip's id, raw; None if the certificate has none."""
        return self.extensions.get(_HWID)

    @property
    def has_csp_id(self) -> bool:
        """Whether it names a cloud provider, as only a VLEK does."""
        return _CSP_ID in self.extensions

    def tcb(self, product: Product) -> bytes | None:
        """The 8-byte TCB_VERSION that is certified; None if a part of it is missing or malformed."""
        parts = [_integer(self.extensions.get(oid, b"")) for oid in SPL_OIDS[product]]
        known = [part for part in parts if part is not None]
        return bytes(known) if len(known) == len(parts) else None


def _signed_like_amd(certificate: x509.Certificate) -> bool:
    return certificate.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS and isinstance(
        certificate.signature_hash_algorithm, hashes.SHA384
    )
