"""Which key may have signed a quote: the certified IAK, or an attestation key that the IAK certifies."""

from dataclasses import dataclass, field, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ca_service.profiles.contract_subject import key_kind
from ca_service.profiles.reader_cryptography import read_key
from ca_service.profiles.view import CertificateView
from vtpm.wire.public_area import PublicArea, Scheme, name, pack_public, parse_public, qualified_name
from vtpm.wire.templates import Role, Template, templates

_KINDS: Final[dict[str, Template]] = {
    f"RSA-{one.bits}" if one.kind == "rsa" else f"P-{one.bits}": one for one in templates(Role.IAK)
}
"""Kind of key, as `key_kind` has it, to the IAK template: there is one for each."""

_SIZED: Final = 2
_LEAST_RSA_BITS: Final = 2048


@dataclass(frozen=True)
class AttestationKey:
    """An attestation key beside the IAK, such as keylime's agent makes: the IAK certifies that it is in its TPM.

    Attributes:
        public: TPM2B_PUBLIC or TPMT_PUBLIC of the key.
        attest: TPMS_ATTEST of TPM2_Certify, of the key by the IAK.
        signature: TPMT_SIGNATURE over `attest`, or a bare one.
    """

    public: bytes = field(repr=False)
    attest: bytes = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class SigningKey:
    """A key with what the TPM says of it.

    Attributes:
        public: TPMT_PUBLIC.
        area: the same, read.
        key: to verify signatures with.
    """

    public: bytes
    area: PublicArea
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey

    @property
    def scheme(self) -> Scheme:
        """The key's own scheme; NULL if it has none."""
        return self.area.scheme

    @property
    def name(self) -> bytes:
        """Its Name."""
        return name(self.public)

    @property
    def qualified_name(self) -> bytes:
        """Its Qualified Name if it is a primary key of the endorsement hierarchy."""
        return qualified_name(self.public)


def iak_of(view: CertificateView) -> SigningKey | None:
    """The IAK of a certificate; None if it certifies a key of no kind that an IAK has.

    This CA certifies only IAKs that are instances of the TCG's template for their kind of key, which leaves nothing
    open but the key itself. So the certificate alone gives the whole public area, and the Names.
    """
    template = _KINDS.get(key_kind(view.spki))
    if template is None:
        return None
    try:
        numbers = _numbers(view.spki)
        size = (template.bits + 7) // 8
        unique = tuple(number.to_bytes(size, "big") for number in numbers)
        public = pack_public(replace(parse_public(template.public), unique=unique))
        return _signing_key(public)
    except (ValueError, OverflowError):
        return None


def _numbers(spki: bytes) -> tuple[int, ...]:
    key, _ = read_key(spki)
    if isinstance(key, rsa.RSAPublicKey):
        public = key.public_numbers()
        if public.e != 65537:  # noqa: PLR2004 - the exponent of all templates
            raise ValueError("has another exponent than the template")
        return (public.n,)
    if isinstance(key, ec.EllipticCurvePublicKey):
        point = key.public_numbers()
        return point.x, point.y
    raise ValueError("is of no kind that an IAK has")


def attestation_key(public: bytes) -> SigningKey | None:
    """A key by its TPM2B_PUBLIC or TPMT_PUBLIC; None if it is neither, or can be broken."""
    if len(public) >= _SIZED and int.from_bytes(public[:_SIZED], "big") == len(public) - _SIZED:
        public = public[_SIZED:]
    try:
        key = _signing_key(public)
    except ValueError:
        return None
    return None if key.area.kind == "rsa" and key.area.bits < _LEAST_RSA_BITS else key


def _signing_key(public: bytes) -> SigningKey:
    area = parse_public(public)
    return SigningKey(public, area, area.public_key())
