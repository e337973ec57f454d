"""What goes into a certificate, and the draft that comes out before anybody signs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca_service.judgment import BadRequest, Unavailable
from ca_service.profiles.parts import Parts
from vtpm.wire.frozen import frozen
from vtpm.wire.runtime_data import TpmSpec
from vtpm.wire.templates import Role

DEVICE_LIFETIME = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""The notAfter that means "no well-defined end" (RFC 5280, section 4.1.2.5; IEEE 802.1AR)."""

EPHEMERAL_LIMIT = timedelta(days=7)
"""The longest life of a certificate of the Ephemeral CA."""

OCSP_LIMIT = timedelta(days=14)
"""The longest life of an OCSP responder's certificate, whose revocation nobody looks up."""

SERIAL_SIZE = 17
"""Octets of every certificate serial number: one instance prefix, 16 random."""

_LARGEST_PREFIX = 127

Entropy = Callable[[int], bytes]
"""Gives that many unpredictable bytes, as `os.urandom` does."""

Mode = Literal["production", "simulation"]
IssuerRole = Literal["ek", "devid", "ephemeral"]
CaRole = Literal["root", "ek", "devid", "ephemeral"]


def new_serial(instance: int, entropy: Entropy) -> int:
    """Draw a serial number: the 8-bit prefix of this CA instance, then 128 random bits.

    Args:
        instance: 1 to 127; never 0, so that all serials have the same length, and never with the top bit set,
            which would make the DER integer negative.
        entropy: source of 16 bytes.

    Raises:
        ValueError: `instance` is out of range.
    """
    if not 1 <= instance <= _LARGEST_PREFIX:
        raise ValueError(f"a serial prefix is 1 to {_LARGEST_PREFIX}")
    return int.from_bytes(bytes([instance]) + entropy(SERIAL_SIZE - 1), "big")


def serial_hex(serial: int) -> str:
    """A serial number as this CA writes it everywhere: lower-case hex of its octets, 34 digits."""
    return serial.to_bytes(SERIAL_SIZE, "big").hex()


@frozen
class Validity:
    """From when to when a certificate holds, both ends included, whole seconds, UTC."""

    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        for moment in (self.not_before, self.not_after):
            if moment.tzinfo is None or moment.microsecond:
                raise ValueError("validity takes aware times of whole seconds")

    @classmethod
    def device_lifetime(cls, at: datetime, within: datetime = DEVICE_LIFETIME) -> Self:
        """From `at` on, without a well-defined end, or until `within`, the issuer's own end."""
        return cls(at.astimezone(UTC).replace(microsecond=0), within)

    @classmethod
    def bounded(cls, at: datetime, days: int, within: datetime = DEVICE_LIFETIME) -> Self:
        """From `at` on for `days`, but never beyond `within`, the issuer's own end.

        The comparison is made on the distance, because a sum may lie beyond the year 9999.

        Raises:
            Unavailable: the issuer has ended (code ``issuer-expired``).
        """
        start = at.astimezone(UTC).replace(microsecond=0)
        if within <= start:
            raise Unavailable(
                "the CA that would sign has expired",
                code="issuer-expired",
                remedy="Prepare and activate its successor: `vtpm-ca ca prepare`, `vtpm-ca ca activate`.",
            )
        if within - start <= timedelta(days=days):
            return cls(start, within)
        return cls(start, start + timedelta(days=days))

    @classmethod
    def ephemeral(cls, at: datetime, days: int, within: datetime) -> Self:
        """Validity of an ephemeral certificate: as `bounded`, for 1 to 7 days.

        Raises:
            ValueError: `days` is more than `EPHEMERAL_LIMIT`, or none.
            Unavailable: as `bounded`.
        """
        if not 1 <= days <= EPHEMERAL_LIMIT.days:
            raise ValueError(f"an ephemeral certificate holds for 1 to {EPHEMERAL_LIMIT.days} days")
        return cls.bounded(at, days, within)

    def lies_within(self, outer: "Validity") -> bool:
        """Whether this neither starts before nor ends after `outer`."""
        return outer.not_before <= self.not_before <= self.not_after <= outer.not_after


@dataclass(frozen=True)
class IssuerInfo:
    """The issuer of a certificate, as far as it shows in what it issues.

    Attributes:
        certificate: the issuer's own certificate.
        publication_url: base URL of the CA without trailing slash; it goes into certificates for good.
        role: which kind of CA the issuer is; decides what may be drafted under it.
        shards: in how many revocation lists what it issues is divided, a power of two.
        ocsp: whether what it issues names the CA's OCSP service.
    """

    certificate: x509.Certificate
    publication_url: str
    role: CaRole
    shards: int = 1
    ocsp: bool = False

    @cached_property
    def key_id(self) -> bytes:
        """The issuer's subject key identifier, 20 octets."""
        return self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest

    @cached_property
    def skid(self) -> str:
        """`key_id` in lower-case hex."""
        return self.key_id.hex()

    @cached_property
    def name(self) -> bytes:
        """DER of the issuer's name."""
        return self.certificate.subject.public_bytes()

    @cached_property
    def constraints(self) -> x509.BasicConstraints:
        """The issuer's own basicConstraints."""
        return self.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value

    @cached_property
    def may_certify(self) -> bool:
        """Whether the issuer's keyUsage has keyCertSign."""
        return self.certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign

    @cached_property
    def certificate_url(self) -> str:
        """Where the issuer's certificate is published (authorityInfoAccess)."""
        return f"{self.publication_url}/ca/{self.skid}.cer"

    @property
    def ocsp_url(self) -> str | None:
        """Where one asks about what the issuer issues (authorityInfoAccess); one place for all issuers of a CA."""
        return f"{self.publication_url}/ocsp" if self.ocsp else None

    def shard_of(self, serial: int) -> int:
        """Which of the issuer's revocation lists a certificate that it issues now is about to name."""
        return serial % self.shards

    def list_url(self, shard: int) -> str:
        """Where one of the issuer's revocation lists is published."""
        return f"{self.publication_url}/crl/{self.skid}/{shard}.crl"

    def crl_url(self, serial: int) -> str:
        """What a certificate with this serial number names in its cRLDistributionPoints."""
        return self.list_url(self.shard_of(serial))

    @cached_property
    def validity(self) -> Validity:
        """The issuer's own validity."""
        return Validity(self.certificate.not_valid_before_utc, self.certificate.not_valid_after_utc)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The issuer's key; every CA here is ECDSA."""
        return self._public_key

    @cached_property
    def _public_key(self) -> ec.EllipticCurvePublicKey:
        key = self.certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise BadRequest("issuer", "must have an elliptic-curve key")
        return key


@frozen
class Provenance:
    """What vouched for a TPM key; published in the certificate so that one can revoke by cause.

    Attributes:
        kbs_thumbprint: RFC 7638 SHA-256 thumbprint of the KBS key that signed the grant, base64url; None if the
            evidence holds no grant.
        resource: the KBS resource that holds the persistence key; None without a grant.
        measurement: launch measurement of the SVSM, 48 bytes.
        policy_digest: SHA-256 of the policy version that admitted, 64 hex digits.
        decision_id: under which the CA finds its reasons.
        profile: evidence profile, for example ``svsm-vtpm-ca:1``.
        ephemeral: whether the evidence deserves an ephemeral certificate only. The extension does not say it: the
            issuer does.
    """

    kbs_thumbprint: str | None
    resource: str | None
    measurement: bytes
    policy_digest: str
    decision_id: str
    profile: str
    ephemeral: bool = False

    def __hash__(self) -> int:
        """By what tells decisions apart; equality is about all of it."""
        return hash(self.decision_id)

    def __post_init__(self) -> None:
        """Refuse half a grant."""
        if (self.kbs_thumbprint is None) != (self.resource is None):
            raise ValueError("a grant has both a key and a resource")


@frozen
class EkContent:
    """What an EK certificate shall say; arguments as for `draft_ek`."""

    public: bytes
    manufacturer: str
    vendor: str
    firmware: str
    spec: TpmSpec
    serial: int
    validity: Validity
    provenance: Provenance


@frozen
class DevidContent:
    """What an IAK or IDevID certificate shall say; arguments as for `draft_devid`."""

    role: Role
    public: bytes
    ek_name: bytes
    manufacturer: str
    ek_serial: int
    ek_aki: bytes
    ek_digest: str | None
    serial: int
    validity: Validity
    provenance: Provenance


@dataclass(frozen=True)
class WebauthnContent(DevidContent):
    """What an IAK certificate in WebAuthn's form shall say; arguments as for `draft_iak_webauthn`."""

    vendor: str
    firmware: str


@dataclass(frozen=True)
class CaContent:
    """What a CA certificate shall say; arguments as for `draft_root` and `draft_issuing`."""

    role: CaRole
    pair: str
    mode: Mode
    organization: str
    public_key: ec.EllipticCurvePublicKey
    serial: int
    validity: Validity
    generation: int = 1


@dataclass(frozen=True)
class OcspContent:
    """What the certificate of an OCSP responder shall say; arguments as for `draft_ocsp`."""

    public_key: ec.EllipticCurvePublicKey
    serial: int
    validity: Validity


Content = EkContent | DevidContent | CaContent | OcspContent
IakProfile = Literal["iak", "iak-webauthn"]
Profile = Literal["ek", "iak", "iak-webauthn", "idevid", "ocsp", "root-ca", "issuing-ca"]


@frozen
class Draft:
    """A certificate before its signature.

    Attributes:
        profile: which profile it follows.
        tbs: DER of the TBSCertificate: every byte that will be signed, but for the slot.
        slot: offset in `tbs` of 64 ASCII zeros in the place of the EK certificate's digest, if that is not
            known yet.
        serial: the serial number in `tbs`.
        content: what the certificate shall say, for the lint to compare with.
        parts: the parts that `tbs` was made of, if they are known; the lint believes nothing of it.
    """

    profile: Profile
    tbs: bytes
    slot: int | None
    serial: int
    content: Content = field(repr=False)
    parts: Parts | None = field(default=None, repr=False, compare=False)
