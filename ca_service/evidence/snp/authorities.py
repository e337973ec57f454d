"""AMD's intermediate authorities: ASK (issues VCEKs) and ASVK (issues VLEKs), each signed by a product's ARK."""

from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509

from ca_service.evidence.snp.certificates import REMEMBERED, UNREADABLE, common_name, load, signed_like_amd
from vtpm.wire.certtable import CertKind

_VCEK_ISSUER: Final = "SEV-"
_VLEK_ISSUER: Final = "SEV-VLEK-"


@dataclass(frozen=True)
class Authority:
    """A certificate that may issue others: an ASK, an ASVK, or an ARK.

    Attributes:
        der: as received.
        certificate: the same, loaded.
        common_name: the subject's only CN, such as ``SEV-Milan``, ``SEV-VLEK-Milan`` or ``ARK-Milan``.
        issuer: the issuer's name.
        issues: the kind of leaf that it may issue, by its name; None for an ARK and for strangers.
        not_before, not_after: validity, both included.
    """

    der: bytes = field(repr=False)
    certificate: x509.Certificate
    common_name: str
    issuer: x509.Name
    issues: CertKind | None
    not_before: datetime
    not_after: datetime

    @property
    def serial(self) -> int:
        """Serial number, what an ARK's CRL lists."""
        return self.certificate.serial_number

    @property
    def self_issued(self) -> bool:
        """Whether subject and issuer are the same name, as in a root."""
        return self.certificate.subject == self.issuer


def _issues(name: str) -> CertKind | None:
    if name.startswith(_VLEK_ISSUER):
        return CertKind.VLEK
    return CertKind.VCEK if name.startswith(_VCEK_ISSUER) else None


@lru_cache(maxsize=REMEMBERED)
def read_authority(der: bytes) -> Authority | None:
    """Read an authority's certificate in DER.

    None if it cannot be read, or is no certificate of an authority: basicConstraints with CA, keyUsage with
    keyCertSign if there is a keyUsage (RFC 5280, section 6.1.4), no critical extension besides these two, signed as
    AMD signs.
    """
    certificate = load(der)
    if certificate is None:
        return None
    try:
        extensions = certificate.extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        usages = [e.value for e in extensions if isinstance(e.value, x509.KeyUsage)]
        known = (x509.BasicConstraints, x509.KeyUsage)
        critical = [e for e in extensions if e.critical and not isinstance(e.value, known)]
        may_sign = basic.ca and all(usage.key_cert_sign for usage in usages)
        if not may_sign or critical or not signed_like_amd(certificate):
            return None
        name = common_name(certificate.subject)
        return Authority(
            der=der,
            certificate=certificate,
            common_name=name,
            issuer=certificate.issuer,
            issues=_issues(name),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
        )
    except (*UNREADABLE, x509.ExtensionNotFound):
        return None
