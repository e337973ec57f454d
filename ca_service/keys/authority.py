"""A CA as values: its public facts and certificates, and the keys that it works with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from ca_service.judgment import NotFound
from ca_service.keys.configuration import PublicationEntry, ValidityRule
from ca_service.keys.signer import Signer
from ca_service.profiles import (
    DEFAULT_PAIR,
    Entropy,
    IssuerInfo,
    IssuerRole,
    Mode,
    Validity,
    new_serial,
)
from vtpm.wire.note import VerifierKey


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
        generation: counts the issuing CAs of its role and pair, from 1.
    """

    pair: str
    role: IssuerRole
    certificate: x509.Certificate
    info: IssuerInfo
    generation: int = field(default=1, kw_only=True)

    @cached_property
    def skid(self) -> str:
        """Subject key identifier, lower-case hex."""
        return self.info.skid

    @cached_property
    def der(self) -> bytes:
        """Its certificate as it was signed."""
        return self.certificate.public_bytes(Encoding.DER)


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
class LogIdentity:
    """The CA's log, as its verifiers know it.

    Attributes:
        origin: first line of its checkpoints and name of its key (C2SP tlog-checkpoint, signed-note): no space
            and no plus sign.
        public: its Ed25519 public key, 32 bytes.
    """

    origin: str
    public: bytes

    @property
    def verifier(self) -> str:
        """The key as verifiers take it (C2SP signed-note, ``name+id+key``)."""
        return str(VerifierKey(self.origin, self.public))


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
        issuers: the issuing CAs of all generations.
        log: its log; None in a directory of an earlier release, which cannot work before it is upgraded.
        state_kept: whether it remembers in ``state/`` what its database must not fall behind.
        publication: in which form it says what is revoked.
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
    log: LogIdentity | None = field(default=None, kw_only=True)
    state_kept: bool = field(default=False, kw_only=True)
    publication: PublicationEntry = field(default=PublicationEntry(), kw_only=True)

    @property
    def root_info(self) -> IssuerInfo:
        """What shows of the root in the certificates that it signs."""
        return IssuerInfo(self.root, self.publication_url, "root")

    def issuer(self, role: IssuerRole, pair: str = DEFAULT_PAIR) -> PublicIssuer:
        """The first issuing CA of a role and pair; raises NotFound.

        Which of several generations signs, the database says: see `issuer_of`.
        """
        return _first(self.issuers, role, pair)

    def issuer_of(self, skid: str) -> PublicIssuer:
        """The issuing CA with this subject key identifier, lower-case hex; raises NotFound."""
        return _with_skid(self.issuers, skid)

    def chain(self, issuer: PublicIssuer) -> tuple[bytes, ...]:
        """DER of the certificates above a leaf of `issuer`: the issuing CA first, the root last."""
        return issuer.der, self._root_der

    @cached_property
    def _root_der(self) -> bytes:
        return self.root.public_bytes(Encoding.DER)

    def new_serial(self, entropy: Entropy) -> int:
        """Draw a serial number."""
        return new_serial(self.serial_prefix, entropy)

    def device_validity(self, at: datetime, issuer: PublicIssuer, most_days: int | None = None) -> Validity:
        """Validity of a device certificate that `issuer` signs at `at`; raises Unavailable if the issuer has ended.

        With `most_days` not longer than that; never longer than the ceremony and the issuer's own end allow.
        """
        return self.validity.device(at, issuer.info.validity, most_days)


@dataclass(frozen=True)
class Authority(PublicAuthority):
    """A CA that can work: with the keys of its issuing CAs, but without the root's.

    Attributes:
        nonce_key: 32 bytes, key from which the keys of the MAC in nonces are made.
        activation_key: 32 bytes, key from which activation secrets are derived.
        log_key: signs the log's checkpoints.
    """

    issuers: tuple[IssuingCa, ...]
    nonce_key: bytes = field(repr=False)
    activation_key: bytes = field(repr=False)
    log_key: Ed25519PrivateKey = field(repr=False)
    log: LogIdentity = field(kw_only=True)

    def issuer(self, role: IssuerRole, pair: str = DEFAULT_PAIR) -> IssuingCa:
        """The first issuing CA of a role and pair; raises NotFound. See `PublicAuthority.issuer`."""
        return _first(self.issuers, role, pair)

    def issuer_of(self, skid: str) -> IssuingCa:
        """The issuing CA with this subject key identifier, lower-case hex; raises NotFound."""
        return _with_skid(self.issuers, skid)


AnyIssuer = TypeVar("AnyIssuer", bound=PublicIssuer)


def _first(issuers: Sequence[AnyIssuer], role: IssuerRole, pair: str) -> AnyIssuer:
    found = [issuer for issuer in issuers if issuer.role == role and issuer.pair == pair]
    if not found:
        raise NotFound(f"this CA has no {role} CA in the pair {pair}")
    return min(found, key=lambda issuer: issuer.generation)


def _with_skid(issuers: Sequence[AnyIssuer], skid: str) -> AnyIssuer:
    for issuer in issuers:
        if issuer.skid == skid:
            return issuer
    raise NotFound(f"this CA's directory has no issuing CA with the key id {skid}")
