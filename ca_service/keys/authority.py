"""A CA as it lies in its directory: public facts, certificates, and what its passphrase opens.

Layout of the directory::

    ca.toml                      public facts
    transcript.json              what the ceremony did
    certs/root.pem, certs/<role>-<pair>.pem
    private/<role>-<pair>.sealed keys of the issuing CAs
    private/nonce.sealed         key of the nonces' MAC
    private/activation.sealed    key from which activation secrets are derived
    offline/root.sealed          the root's key; belongs on a medium in a safe
    run/                         sockets and locks of the running server
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Protocol, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.judgment import BadRequest, NotFound
from ca_service.keys.configuration import CaFacts, IssuerEntry, ValidityRule
from ca_service.keys.files import read_private, read_public
from ca_service.keys.sealed import Sealer
from ca_service.keys.signer import FileSigner, Signer
from ca_service.profiles import (
    DEFAULT_PAIR,
    SIMULATION_MARK,
    Entropy,
    IssuerInfo,
    IssuerRole,
    Mode,
    Validity,
    new_serial,
)

FACTS_FILE = "ca.toml"
CERTIFICATES = "certs"
PRIVATE = "private"
OFFLINE = "offline"
RUN = "run"
ROOT_KEY_FILE = "root.sealed"
NONCE_KEY_FILE = "nonce.sealed"
ACTIVATION_KEY_FILE = "activation.sealed"
SECRET_SIZE = 32

ROOT_PURPOSE = "root key"
NONCE_PURPOSE = "nonce key"
ACTIVATION_PURPOSE = "activation key"


def issuer_purpose(role: IssuerRole, pair: str) -> str:
    """Purpose under which the key of an issuing CA is sealed."""
    return f"{role} CA key, pair {pair}"


class Certified(Protocol):
    """A CA of this hierarchy with its key, root or issuing: whatever can sign a revocation list."""

    @property
    def certificate(self) -> x509.Certificate:
        """Its certificate."""

    @property
    def signer(self) -> Signer:
        """Its key."""


@dataclass(frozen=True)
class PublicIssuer:
    """An issuing CA without its key.

    Attributes:
        pair: name of the pair of EK and DevID CA that it belongs to.
        role: what it signs.
        certificate: its certificate.
        info: what shows of it in the certificates that it signs.
    """

    pair: str
    role: IssuerRole
    certificate: x509.Certificate
    info: IssuerInfo

    @property
    def skid(self) -> str:
        """Subject key identifier, lower-case hex."""
        return self.info.skid


@dataclass(frozen=True)
class IssuingCa(PublicIssuer):
    """An issuing CA with its key."""

    signer: Signer = field(repr=False)


@dataclass(frozen=True)
class RootCa:
    """The root with its key, as it is needed for its revocation list and for further issuing CAs."""

    certificate: x509.Certificate
    info: IssuerInfo
    signer: Signer = field(repr=False)

    @property
    def skid(self) -> str:
        """Subject key identifier, lower-case hex."""
        return self.info.skid


@dataclass(frozen=True)
class PublicAuthority:
    """A CA without its secrets.

    Attributes:
        directory: where it lies.
        ca_id: its name in the protocol.
        mode: production or simulation.
        organization: whose it is.
        publication_url: base URL of what it publishes.
        serial_prefix: first octet of its serial numbers.
        validity: how long its certificates live.
        root: the root's certificate.
        issuers: the issuing CAs.
    """

    directory: Path
    ca_id: str
    mode: Mode
    organization: str
    publication_url: str
    serial_prefix: int
    validity: ValidityRule
    root: x509.Certificate
    issuers: Sequence[PublicIssuer]

    @property
    def root_info(self) -> IssuerInfo:
        """What shows of the root in the certificates that it signs."""
        return IssuerInfo(self.root, self.publication_url, "root")

    def issuer(self, role: IssuerRole, pair: str = DEFAULT_PAIR) -> PublicIssuer:
        """The issuing CA of a role and pair; raises NotFound."""
        return _find(self.issuers, role, pair)

    def chain(self, issuer: PublicIssuer) -> tuple[bytes, ...]:
        """DER of the certificates above a leaf of `issuer`: the issuing CA first, the root last."""
        return issuer.certificate.public_bytes(Encoding.DER), self.root.public_bytes(Encoding.DER)

    def new_serial(self, entropy: Entropy) -> int:
        """Draw a serial number."""
        return new_serial(self.serial_prefix, entropy)

    def device_validity(self, at: datetime, issuer: PublicIssuer) -> Validity:
        """Validity of a device certificate that `issuer` signs at `at`."""
        return self.validity.device(at, issuer.info.validity)


@dataclass(frozen=True)
class Authority(PublicAuthority):
    """A CA that can work: with the keys of its issuing CAs, but without the root's.

    Attributes:
        nonce_key: 32 bytes, key of the MAC in nonces.
        activation_key: 32 bytes, key from which activation secrets are derived.
    """

    issuers: tuple[IssuingCa, ...]
    nonce_key: bytes = field(repr=False)
    activation_key: bytes = field(repr=False)

    def issuer(self, role: IssuerRole, pair: str = DEFAULT_PAIR) -> IssuingCa:
        """The issuing CA of a role and pair; raises NotFound."""
        return _find(self.issuers, role, pair)

    def issuer_of(self, skid: str) -> IssuingCa:
        """The issuing CA with this subject key id (hex); raises NotFound."""
        for issuer in self.issuers:
            if issuer.skid == skid:
                return issuer
        raise NotFound("this CA has no issuing CA with this key id")


AnyIssuer = TypeVar("AnyIssuer", bound=PublicIssuer)


def load_public(directory: Path) -> PublicAuthority:
    """Read a CA's public side, and check that its parts belong together.

    Raises:
        NotFound: there is no CA in that directory.
        BadRequest: its files are malformed or contradict each other (code ``authority``).
    """
    facts = _read_facts(directory)
    root = _read_certificate(directory, facts.root.certificate, facts.root.sha256)
    issuers = tuple(_public_issuer(directory, facts, entry) for entry in facts.issuer)
    public = PublicAuthority(
        directory=directory,
        ca_id=facts.ca_id,
        mode=facts.mode,
        organization=facts.organization,
        publication_url=facts.publication_url,
        serial_prefix=facts.serial_prefix,
        validity=facts.validity,
        root=root,
        issuers=issuers,
    )
    _check_hierarchy(public)
    return public


def load_authority(directory: Path, passphrase: bytes) -> Authority:
    """Read a CA with the secrets that it works with.

    Raises:
        NotFound: there is no CA in that directory.
        BadRequest: as `load_public`; a secret's file may be accessed by others (``permissions``) or does not
            open (``passphrase``).
    """
    facts, public, sealer = _read_facts(directory), load_public(directory), Sealer(passphrase)
    private = directory / PRIVATE
    issuers = []
    for entry, issuer in zip(facts.issuer, public.issuers, strict=True):
        purpose = issuer_purpose(entry.role, entry.pair)
        secret = sealer.unseal(read_private(private / entry.key), purpose=purpose)
        issuers.append(
            IssuingCa(
                pair=issuer.pair,
                role=issuer.role,
                certificate=issuer.certificate,
                info=issuer.info,
                signer=_signer(secret, issuer.info, entry.key),
            )
        )
    return Authority(
        directory=directory,
        ca_id=public.ca_id,
        mode=public.mode,
        organization=public.organization,
        publication_url=public.publication_url,
        serial_prefix=public.serial_prefix,
        validity=public.validity,
        root=public.root,
        issuers=tuple(issuers),
        nonce_key=_secret(sealer, private / NONCE_KEY_FILE, NONCE_PURPOSE),
        activation_key=_secret(sealer, private / ACTIVATION_KEY_FILE, ACTIVATION_PURPOSE),
    )


def load_root(directory: Path, passphrase: bytes, key_file: Path | None = None) -> RootCa:
    """Read the root with its key, for the few things that need it.

    Args:
        directory: the CA's directory.
        passphrase: of the sealed key.
        key_file: the sealed key, if it is not in its place because it was taken offline.

    Raises:
        NotFound: there is no CA, or the key is not there.
        BadRequest: as `load_authority`.
    """
    public = load_public(directory)
    path = key_file or directory / OFFLINE / ROOT_KEY_FILE
    secret = Sealer(passphrase).unseal(read_private(path), purpose=ROOT_PURPOSE)
    return RootCa(public.root, public.root_info, _signer(secret, public.root_info, path.name))


def _find(issuers: Sequence[AnyIssuer], role: IssuerRole, pair: str) -> AnyIssuer:
    for issuer in issuers:
        if issuer.role == role and issuer.pair == pair:
            return issuer
    raise NotFound(f"this CA has no {role} CA in the pair {pair}")


def _read_facts(directory: Path) -> CaFacts:
    try:
        text = read_public(directory / FACTS_FILE).decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest(FACTS_FILE, "must be UTF-8 text") from None
    return CaFacts.from_toml(text)


def _read_certificate(directory: Path, name: str, digest: str) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(read_public(directory / CERTIFICATES / name))
    except ValueError:
        raise BadRequest(name, "must be a PEM certificate", code="authority") from None
    if sha256(certificate.public_bytes(Encoding.DER)).hexdigest() != digest:
        raise BadRequest(name, f"is not the certificate that {FACTS_FILE} names", code="authority")
    return certificate


def _public_issuer(directory: Path, facts: CaFacts, entry: IssuerEntry) -> PublicIssuer:
    certificate = _read_certificate(directory, entry.certificate, entry.sha256)
    info = IssuerInfo(certificate, facts.publication_url, entry.role)
    return PublicIssuer(entry.pair, entry.role, certificate, info)


def _check_hierarchy(public: PublicAuthority) -> None:
    """The facts are an editable file; the certificates are not, so they have the last word about the mode."""
    for certificate in (public.root, *(issuer.certificate for issuer in public.issuers)):
        try:
            certificate.verify_directly_issued_by(public.root)
        except (ValueError, TypeError, InvalidSignature):
            detail = "names a certificate that this root did not sign"
            raise BadRequest(FACTS_FILE, detail, code="authority") from None
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        marked = any(SIMULATION_MARK in str(name.value) for name in names)
        if marked != (public.mode == "simulation"):
            raise BadRequest(FACTS_FILE, "states another mode than the certificates", code="authority")


def _signer(pkcs8: bytes, info: IssuerInfo, name: str) -> FileSigner:
    signer = FileSigner.from_der(pkcs8)
    if signer.public_key() != info.public_key():
        raise BadRequest(name, "does not hold the key of its certificate", code="authority")
    return signer


def _secret(sealer: Sealer, path: Path, purpose: str) -> bytes:
    secret = sealer.unseal(read_private(path), purpose=purpose)
    if len(secret) != SECRET_SIZE:
        raise BadRequest(path.name, f"must hold {SECRET_SIZE} bytes", code="authority")
    return secret
