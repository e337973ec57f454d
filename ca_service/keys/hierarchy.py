"""Making the CA's own certificates: draft, lint, signature. Where their keys live is somebody else's concern."""

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from ca_service.keys.authority import PublicAuthority, PublicIssuer, RootCa
from ca_service.keys.configuration import CeremonyConfig, ValidityRule
from ca_service.keys.issue import sign_certificate
from ca_service.keys.signer import Signer
from ca_service.profiles import (
    Entropy,
    IssuerInfo,
    IssuerRole,
    Mode,
    draft_issuing,
    draft_root,
    lint,
    new_serial,
)


@dataclass(frozen=True)
class Hierarchy:
    """What all certificates of one CA's hierarchy have in common.

    Attributes:
        organization: O in the names.
        mode: production or simulation.
        publication_url: base URL of what the CA publishes.
        validity: how long certificates live.
        serial_prefix: first octet of serial numbers.
        at: when they are made, aware.
        entropy: source of serial numbers.
    """

    organization: str
    mode: Mode
    publication_url: str
    validity: ValidityRule
    serial_prefix: int
    at: datetime
    entropy: Entropy

    @classmethod
    def of_config(
        cls, config: CeremonyConfig, serial_prefix: int, at: datetime, entropy: Entropy
    ) -> "Hierarchy":
        """The hierarchy of a CA that is being made."""
        return cls(
            config.organization,
            config.mode,
            config.publication_url,
            config.validity,
            serial_prefix,
            at,
            entropy,
        )

    @classmethod
    def of_authority(cls, ca: PublicAuthority, at: datetime, entropy: Entropy) -> "Hierarchy":
        """The hierarchy of a CA that exists."""
        return cls(ca.organization, ca.mode, ca.publication_url, ca.validity, ca.serial_prefix, at, entropy)

    def make_root(self, signer: Signer) -> RootCa:
        """Make a self-signed root; raises LintFailed."""
        draft = draft_root(
            organization=self.organization,
            mode=self.mode,
            public_key=signer.public_key(),
            serial=new_serial(self.serial_prefix, self.entropy),
            validity=self.validity.root(self.at),
        )
        der = sign_certificate(draft.tbs, lint(draft, None), signer, None)
        certificate = x509.load_der_x509_certificate(der)
        return RootCa(certificate, IssuerInfo(certificate, self.publication_url, "root"), signer)

    def make_issuing(
        self, role: IssuerRole, pair: str, generation: int, key: Signer, root: RootCa
    ) -> PublicIssuer:
        """Have the root certify an issuing CA; raises LintFailed."""
        draft = draft_issuing(
            role,
            pair=pair,
            generation=generation,
            organization=self.organization,
            mode=self.mode,
            public_key=key.public_key(),
            serial=new_serial(self.serial_prefix, self.entropy),
            validity=self.validity.issuing(self.at, root.info.validity),
            issuer=root.info,
        )
        der = sign_certificate(draft.tbs, lint(draft, root.info), root.signer, root.certificate)
        certificate = x509.load_der_x509_certificate(der)
        info = IssuerInfo(certificate, self.publication_url, role)
        return PublicIssuer(pair, role, certificate, info, generation=generation)
