"""What a host does with the messages that pass it. The honest one is the base; each attack overrides one step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from vtpm.host.broker import BrokerSession, Release, TrusteeSession
from vtpm.host.relay import forward
from vtpm.wire.aproxy import (
    AttestationRequest,
    AttestationResponse,
    Decryption,
    NegotiationResponse,
    RelayRequest,
    RelayResponse,
)
from vtpm.wire.certtable import CertKind
from vtpm.wire.jwe import parse_protected


@dataclass(frozen=True)
class HostConfig:
    """What a host is connected to.

    Attributes:
        kbs: base URL of the key broker.
        ca: base URL of the CA.
        resource: `repository/type/tag` that is fetched for the SVSM.
        certificates: what the host knows of its processor's certificates.
    """

    kbs: str
    ca: str
    resource: str
    certificates: Mapping[CertKind, bytes] = field(default_factory=dict)


class Behaviour:
    """An honest host: it passes on what it gets, and makes of it what the receiver can read.

    One object serves all connections of a host, from several threads; what belongs to one exchange is in its
    `BrokerSession`.
    """

    name: ClassVar[str] = "honest"
    summary: ClassVar[str] = "passes everything on"

    def __init__(self, config: HostConfig) -> None:
        self.config = config

    def open_session(self) -> BrokerSession:
        """Choose the key broker for an exchange."""
        return TrusteeSession(self.config.kbs, self.config.certificates)

    def negotiation(self, challenge: bytes) -> NegotiationResponse:
        """What the SVSM gets for the broker's challenge."""
        return NegotiationResponse(challenge)

    def resource(self, request: AttestationRequest) -> str:  # noqa: ARG002 - an attack may look at it
        """Choose the resource."""
        return self.config.resource

    def delivery(self, request: AttestationRequest, release: Release) -> AttestationResponse:  # noqa: ARG002 - likewise
        """What the SVSM gets for the broker's answer."""
        sealed = release.sealed
        aad = sealed.protected.encode("ascii")
        epk = parse_protected(aad).epk
        return AttestationResponse(
            success=True,
            secret=sealed.ciphertext,
            decryption=Decryption((epk.x, epk.y), sealed.encrypted_key, aad, sealed.iv, sealed.tag),
            token=release.token,
        )

    def relay(self, request: RelayRequest) -> RelayResponse:
        """Carry one request to the CA."""
        return forward(self.config.ca, request)
