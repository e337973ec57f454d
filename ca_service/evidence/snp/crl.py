"""AMD's revocation lists: issued by a product's ARK, they list ASKs and ASVKs.

Every genuine leaf has serial number 0, so no list can name one; AMD withdraws leaves by raising the TCB. A list never
stops to count: what it lists stays revoked after its nextUpdate. How old the newest list may be is a policy's to say.
Source: RFC 5280, section 5; AMD 57230, certificate revocation list.
"""

from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ca_service.evidence.snp.authorities import Authority
from ca_service.evidence.snp.certificates import UNREADABLE, common_name, pem_blocks, signed_like_amd

MAX_CRL: Final = 1024 * 1024
"""Longest list that is read, in bytes; AMD's have about 900."""

_REMEMBERED: Final = 64
_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)


@dataclass(frozen=True)
class Crl:
    """One revocation list; not believed before `signed_by` says so.

    Attributes:
        der: as received, PEM taken off.
        issuer: name of the ARK that it claims to be from.
        number: CRL number; None if it has none.
        this_update: when it was issued.
        next_update: when the next one is due; None if it does not say.
        revoked: serial numbers that it lists.
        pss: whether it is signed as AMD signs.
    """

    der: bytes = field(repr=False)
    issuer: x509.Name
    number: int | None
    this_update: datetime
    next_update: datetime | None
    revoked: frozenset[int]
    pss: bool

    @property
    def issuer_name(self) -> str:
        """The issuer's CN, such as ``ARK-Milan``."""
        return common_name(self.issuer)

    def signed_by(self, ark: Authority) -> bool:
        """Whether this ARK issued the list: name and signature."""
        return self.pss and self.issuer == ark.certificate.subject and _signed(self.der, ark)


@lru_cache(maxsize=_REMEMBERED)
def _signed(der: bytes, ark: Authority) -> bool:
    crl = x509.load_der_x509_crl(der)
    key = ark.certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    # How many bits of the last octet do not count stands before the signature, unsigned: a signature has whole octets.
    if not der.endswith(b"\0" + crl.signature):
        return False
    try:
        key.verify(crl.signature, crl.tbs_certlist_bytes, _PSS, hashes.SHA384())
    except InvalidSignature:
        return False
    return True


def read_crls(content: bytes) -> tuple[Crl, ...] | None:
    """Read one list in DER, or any number in PEM with text around.

    None if there is none, or one of them is too long, cannot be read, or has a critical extension, on itself or on
    an entry: such a list (partial, indirect, delta) does not mean what a plain list means.
    """
    alone = _read(content)
    if alone is not None:
        return (alone,)
    blocks = pem_blocks(content, "X509 CRL")
    crls = tuple(crl for crl in map(_read, blocks or ()) if crl is not None)
    return crls if blocks and len(crls) == len(blocks) else None


def read_crl(content: bytes) -> Crl | None:
    """Read exactly one list; None as from `read_crls`, or if there are several."""
    crls = read_crls(content)
    return crls[0] if crls is not None and len(crls) == 1 else None


@lru_cache(maxsize=_REMEMBERED)
def _read(der: bytes) -> Crl | None:
    if len(der) > MAX_CRL:
        return None
    try:
        crl = x509.load_der_x509_crl(der)
        entries = list(crl)
        extensions = [*crl.extensions, *(extension for entry in entries for extension in entry.extensions)]
        if any(extension.critical for extension in extensions):
            return None
        numbers = [e.value.crl_number for e in crl.extensions if isinstance(e.value, x509.CRLNumber)]
        return Crl(
            der=der,
            issuer=crl.issuer,
            number=numbers[0] if numbers else None,
            this_update=crl.last_update_utc,
            next_update=crl.next_update_utc,
            revoked=frozenset(entry.serial_number for entry in entries),
            pss=signed_like_amd(crl),
        )
    except UNREADABLE:
        return None
