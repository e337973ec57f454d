"""What the checks look at: a certificate, who it is for, and what it is judged by."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.export.relying.files import UNREADABLE
from ca_service.export.relying.rule import ProvenanceRule
from ca_service.export.relying.trust import Trust
from ca_service.judgment import BadRequest
from ca_service.profiles.contract import profile_of
from ca_service.profiles.contract_subject import ContractSubject
from ca_service.profiles.reader_cryptography import read
from ca_service.profiles.signed import is_signed_by
from ca_service.profiles.view import (
    AIA,
    AKI,
    CDP,
    SKI,
    AccessView,
    AuthorityKeyView,
    CertificateView,
    DistributionView,
)

_OCSP = "1.3.6.1.5.5.7.48.1"

Kind = Literal["ek", "iak", "idevid"]
"""What a certificate is shown as."""

LARGEST_CERTIFICATE: Final = 2048
"""Octets; the NV index of a TPM holds no more, and this CA issues nothing larger."""


@dataclass(frozen=True)
class Candidate:
    """A certificate of somebody; what it says is worth nothing until the checks of the chain have passed.

    Attributes:
        der: as received.
        kind: what it is shown as.
        trust: what the relying party trusts.
        at: the time, aware.
        rule: which provenance is accepted; None for any.
        ephemeral: whether certificates of the Ephemeral CA count.
        ocsp: DER of an OCSP response about it; None if its issuer's list shall say.
        max_list_age: how old its issuer's revocation list may be; None if nextUpdate says it. The root's list, which
            is made by hand, is bound by its nextUpdate alone.
    """

    der: bytes = field(repr=False)
    kind: Kind
    trust: Trust
    at: datetime
    rule: ProvenanceRule | None = None
    ephemeral: bool = False
    ocsp: bytes | None = field(default=None, repr=False)
    max_list_age: timedelta | None = None

    @cached_property
    def certificate(self) -> x509.Certificate | None:
        """As read, if it is one certificate in DER and nothing else."""
        if not 0 < len(self.der) <= LARGEST_CERTIFICATE:
            return None
        try:
            certificate = x509.load_der_x509_certificate(self.der)
            certificate.extensions  # noqa: B018 - parsed when it is asked for
            return certificate if certificate.public_bytes(Encoding.DER) == self.der else None
        except UNREADABLE:
            return None

    @cached_property
    def issuer(self) -> x509.Certificate | None:
        """The issuing CA that it names, by name and key id, and whose signature it bears; None if there is none."""
        return next((ca for ca in self.named_issuers if _signed_by(self.der, ca)), None)

    @cached_property
    def named_issuers(self) -> tuple[x509.Certificate, ...]:
        """The issuing CAs that it names, by name and key id."""
        certificate = self.certificate
        if certificate is None:
            return ()
        try:
            extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
            named, wanted = certificate.issuer.public_bytes(), extension.value.key_identifier
        except (*UNREADABLE, x509.ExtensionNotFound):
            return ()
        return tuple(ca for ca in self.trust.issuers if wanted and _names_of(ca) == (named, wanted))

    @cached_property
    def view(self) -> CertificateView | None:
        """What it says; None if a known extension has another form than this CA's."""
        return _view(self.der)

    @cached_property
    def issuer_view(self) -> CertificateView | None:
        """What its issuer's certificate says."""
        return None if self.issuer is None else _view(self.issuer.public_bytes(Encoding.DER))

    @cached_property
    def consumers(self) -> ContractSubject | None:
        """What rules about its profile look at; None if it is of no device profile, or of another kind."""
        return None if self.view is None else _consumers(self.view, self.kind, len(self.der))


def _view(der: bytes) -> CertificateView | None:
    try:
        return read(der).of_today()
    except UNREADABLE:
        return None


def _consumers(view: CertificateView, kind: Kind, size: int) -> ContractSubject | None:
    try:
        profile = profile_of(view)
    except BadRequest:
        return None
    return ContractSubject(profile, view, size) if profile.removesuffix("-webauthn") == kind else None


def _names_of(ca: x509.Certificate) -> tuple[bytes, bytes | None] | None:
    """Name and key id; None for a certificate of others that cannot be read, and so has issued nothing that counts."""
    view = _view(ca.public_bytes(Encoding.DER))
    return None if view is None else (view.subject.der, key_id(view))


def _signed_by(der: bytes, ca: x509.Certificate) -> bool:
    try:
        return is_signed_by(der, ca.public_key())
    except UNREADABLE:
        return False


def key_id(view: CertificateView) -> bytes | None:
    """Its own key id."""
    extension = view.extension(SKI)
    return extension.value if extension is not None and isinstance(extension.value, bytes) else None


def authority_key_id(view: CertificateView) -> bytes | None:
    """The key id of its issuer."""
    extension = view.extension(AKI)
    value = None if extension is None else extension.value
    return value.key_id if isinstance(value, AuthorityKeyView) and not value.names_issuer else None


def list_place(view: CertificateView) -> str | None:
    """Where the one list lies that can revoke it; None if it names none, or more than one."""
    extension = view.extension(CDP)
    value = None if extension is None else extension.value
    if not isinstance(value, DistributionView) or not value.plain or len(value.urls) != 1:
        return None
    return value.urls[0]


def responder_place(view: CertificateView) -> str | None:
    """Where its issuer's OCSP responder answers; None if it names none, or more than one."""
    extension = view.extension(AIA)
    value = None if extension is None else extension.value
    urls = [url for method, url in value.entries if method == _OCSP] if isinstance(value, AccessView) else []
    return urls[0] if len(urls) == 1 else None
