"""Loading certificates and checking who issued them, for bytes that anybody may have sent.

All chains here are AMD's: RSA keys with RSASSA-PSS over SHA-384, ARK over ASK or ASVK over the leaf (AMD 57230). The
library's path builders refuse AMD's leaves (no authority key identifier, serial number 0), so each link is checked
by itself. Results are pure functions of the bytes and therefore remembered; dates and revocation never are.
"""

import base64
import re
import warnings
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

# Every genuine VCEK and VLEK has serial number 0; the library announces that it will refuse it one day. The version
# in pyproject.toml is bounded for that reason, so the announcement tells an operator nothing.
warnings.filterwarnings(
    "ignore",
    message="Parsed a serial number which wasn't positive",
    category=CryptographyDeprecationWarning,
)
# Hostile names must not write into anybody's log.
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)

UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""All that the library raises on bytes that it cannot make sense of, at loading or later."""

REMEMBERED: Final = 1024
"""How many certificates and links between them are remembered; each is at most `MAX_CERTIFICATE` long."""

MAX_CERTIFICATE: Final = 16 * 1024
"""Longest certificate that is read, in bytes; AMD's have about 1,700."""

_SALT: Final = 48


def pem_blocks(content: bytes, label: str) -> list[bytes] | None:
    """What is inside the PEM blocks with this label, such as ``CERTIFICATE``; text around them is allowed (RFC 7468).

    None if one that begins is not whole: part of what somebody meant to give is missing.
    """
    begin = f"-----BEGIN {label}-----".encode("ascii")
    blocks = re.findall(begin + rb"([A-Za-z0-9+/=\s]*)" + begin.replace(b"BEGIN", b"END"), content)
    if len(blocks) != content.count(begin):
        return None
    try:
        return [base64.b64decode(b"".join(block.split()), validate=True) for block in blocks]
    except ValueError:
        return None


def split_pem(content: bytes) -> list[bytes] | None:
    """The DER of every certificate in `content`: one in DER, or any number in PEM.

    None if there is none, or a block that is no whole certificate.
    """
    ders = [content] if load(content) is not None else pem_blocks(content, "CERTIFICATE")
    return ders if ders and all(load(der) is not None for der in ders) else None


@lru_cache(maxsize=REMEMBERED)
def load(der: bytes) -> x509.Certificate | None:
    """A DER certificate; None if it is too long or cannot be read."""
    if len(der) > MAX_CERTIFICATE:
        return None
    try:
        return x509.load_der_x509_certificate(der)
    except UNREADABLE:
        return None


def common_name(name: x509.Name) -> str:
    """The one CN of a name; empty if it has none or several."""
    values = [attribute.value for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


def signed_like_amd(signed: x509.Certificate | x509.CertificateRevocationList) -> bool:
    """Whether the signature is of the one kind that AMD makes: RSASSA-PSS, SHA-384, MGF1 with SHA-384, salt 48.

    Raises:
        ValueError and the others of `UNREADABLE`: the algorithm's parameters cannot be read.
    """
    if signed.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS:
        return False
    pss = signed.signature_algorithm_parameters
    return (
        isinstance(signed.signature_hash_algorithm, hashes.SHA384)
        and isinstance(pss, padding.PSS)
        and pss._salt_length == _SALT  # noqa: SLF001 - the library has no public name for it
        and isinstance(pss.mgf._algorithm, hashes.SHA384)  # noqa: SLF001 - likewise
    )


@lru_cache(maxsize=REMEMBERED)
def issued(subject: bytes, issuer: bytes) -> bool:
    """Whether the certificate `issuer` issued the certificate `subject` (both DER): name and signature, no dates."""
    below, above = load(subject), load(issuer)
    if below is None or above is None:
        return False
    try:
        below.verify_directly_issued_by(above)
        return signed_like_amd(below)
    except (*UNREADABLE, InvalidSignature):
        return False
