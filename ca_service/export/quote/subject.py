"""What the checks look at: a quote, whose it is said to be, and what the relying party wants to see."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

from ca_service.export.quote.expected import ExpectedPcrs
from ca_service.export.quote.keys import AttestationKey, SigningKey, attestation_key, iak_of
from ca_service.export.quote.pcrs import PcrValues, read_pcrs
from ca_service.export.relying import LARGEST_CERTIFICATE
from ca_service.export.relying.files import UNREADABLE
from ca_service.judgment import BadRequest
from ca_service.profiles import oids
from ca_service.profiles.reader_cryptography import read
from ca_service.profiles.view import (
    PROVENANCE,
    SAN,
    CertificateView,
    NameView,
    PermanentIdentifierView,
    ProvenanceView,
)
from ca_service.residency.attest import Attest
from ca_service.residency.quote import Quoted
from ca_service.residency.signature import KeySignature


@dataclass(frozen=True)
class Quote:
    """What a TPM gives: all of it may come from anybody.

    Attributes:
        attest: TPMS_ATTEST of TPM2_Quote (`tpm2_quote -m`).
        signature: TPMT_SIGNATURE over it (`tpm2_quote -s`), or a bare one (`tpm2_quote -f plain`): the octets of an RSA
            signature, a DER ECDSA-Sig-Value.
        pcrs: the values that were quoted, or a file with them as tpm2-tools write it (`tpm2_quote -o`,
            `tpm2_pcrread -o`). The quote itself holds their digest only.
    """

    attest: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    pcrs: PcrValues | bytes = field(repr=False)


@dataclass(frozen=True)
class QuoteSubject:
    """A quote beside the certificates of the TPM that is said to have made it.

    Attributes:
        quote: what came.
        nonce: what the relying party has sent.
        iak: what the IAK certificate says; None if it cannot be read.
        ak: the attestation key that has signed in the IAK's place, and the IAK's word for it; None if there is none.
        ek: DER of the TPM's EK certificate; None if it was not given.
        ek_view: what it says; None if it cannot be read.
        idevid_view: what the IDevID certificate says; None if it cannot be read or was not given.
        expected: which PCR values are good; None for any.
    """

    quote: Quote
    nonce: bytes
    iak: CertificateView | None
    ak: AttestationKey | None
    ek: bytes | None
    ek_view: CertificateView | None
    idevid_view: CertificateView | None
    expected: ExpectedPcrs | None

    @cached_property
    def quoted(self) -> Quoted:
        """The structure, read."""
        return Quoted.read(self.quote.attest)

    @cached_property
    def iak_key(self) -> SigningKey | None:
        """The certified IAK."""
        return None if self.iak is None else iak_of(self.iak)

    @cached_property
    def ak_key(self) -> SigningKey | None:
        """The attestation key."""
        return None if self.ak is None else attestation_key(self.ak.public)

    @property
    def key(self) -> SigningKey | None:
        """The key that must have signed the quote."""
        return self.iak_key if self.ak is None else self.ak_key

    @cached_property
    def signature(self) -> KeySignature | None:
        """The quote's signature, read."""
        return None if self.key is None else KeySignature.read(self.quote.signature, self.key.scheme)

    @cached_property
    def certified(self) -> Attest | None:
        """What the IAK says of the attestation key, read."""
        return None if self.ak is None else Attest.read(self.ak.attest)

    @cached_property
    def certified_by(self) -> KeySignature | None:
        """The signature over that, read."""
        if self.ak is None or self.iak_key is None:
            return None
        return KeySignature.read(self.ak.signature, self.iak_key.scheme)

    @property
    def signer(self) -> bytes | None:
        """The Qualified Name that the signing key must have."""
        if self.ak is None:
            return None if self.iak_key is None else self.iak_key.qualified_name
        info = None if self.certified is None else self.certified.info
        return None if info is None else info.qualified_name

    @cached_property
    def pcrs(self) -> PcrValues | None:
        """The values; None if they cannot be read."""
        if isinstance(self.quote.pcrs, PcrValues):
            return self.quote.pcrs
        info = self.quoted.info
        try:
            return read_pcrs(self.quote.pcrs, () if info is None else info.selections)
        except BadRequest:
            return None

    @cached_property
    def tpm_version(self) -> str | None:
        """The firmware version that a certificate states, ``id:`` and 8 hex digits; None if none does."""
        views = [view for view in (self.ek_view, self.iak) if view is not None]
        return next((version for view in views if (version := _tpm_version(view)) is not None), None)

    @cached_property
    def ek_digest(self) -> str | None:
        """SHA-256 of the EK certificate in hex, as the other certificates state it."""
        return None if self.ek is None else hashlib.sha256(self.ek).hexdigest()


def read_view(der: bytes) -> CertificateView | None:
    """What a certificate says, which is worth nothing before it has been judged; None if it cannot be read."""
    if len(der) > LARGEST_CERTIFICATE:
        return None
    try:
        return read(der).of_today()
    except UNREADABLE:
        return None


def provenance_of(view: CertificateView | None) -> ProvenanceView | None:
    """What a certificate says that vouched for the TPM; None if it says nothing."""
    extension = None if view is None else view.extension(PROVENANCE)
    value = None if extension is None else extension.value
    return value if isinstance(value, ProvenanceView) else None


def named_ek(view: CertificateView | None) -> str | None:
    """The EK certificate that an IAK or IDevID certificate names by its SHA-256, in hex; None if it names none."""
    found = [
        name.identifier_value
        for name in _names(view)
        if isinstance(name, PermanentIdentifierView)
        and name.assigner == oids.EK_PERMANENT_ID_SHA256.dotted_string
    ]
    return found[0] if len(found) == 1 else None


def _tpm_version(view: CertificateView) -> str | None:
    texts = [
        text
        for name in _names(view)
        if isinstance(name, NameView)
        for rdn in name.rdns
        for kind, text in rdn
        if kind == oids.TPM_VERSION.dotted_string
    ]
    return texts[0] if len(texts) == 1 else None


def _names(view: CertificateView | None) -> tuple[object, ...]:
    extension = None if view is None else view.extension(SAN)
    return extension.value if extension is not None and isinstance(extension.value, tuple) else ()
