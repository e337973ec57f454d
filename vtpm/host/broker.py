"""The host's session with a key broker: libaproxy's messages on one side, Trustee's protocol on the other."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from vtpm.errors import VtpmError
from vtpm.host.http import HttpClient, Reply
from vtpm.wire.aproxy import AttestationRequest
from vtpm.wire.certtable import CertKind, parse_table
from vtpm.wire.encoding import b64std, unb64std
from vtpm.wire.grant import check_resource
from vtpm.wire.jwe import SealedResource
from vtpm.wire.rcar import (
    MAX_BODY,
    Attestation,
    auth_request,
    parse_challenge,
    parse_token,
)

_PREFIX: Final = "/kbs/v0"
_OK: Final = 200
_SHOWN: Final = 300
_PEM: Final = b"-----BEGIN CERTIFICATE-----"


class KbsRefused(VtpmError):
    """The key broker said no."""


@dataclass(frozen=True)
class Release:
    """What a key broker handed out.

    Attributes:
        token: the attestation token.
        sealed: the resource.
    """

    token: str = field(repr=False)
    sealed: SealedResource


class BrokerSession(Protocol):
    """One exchange with something that acts as a key broker; for one connection of an SVSM."""

    def challenge(self) -> bytes:
        """Open the session; the challenge's bytes."""

    def release(self, request: AttestationRequest, resource: str) -> Release:
        """Attest with the SVSM's evidence and fetch a resource."""

    def close(self) -> None:
        """End the session."""


class TrusteeSession:
    """A session with a real key broker over HTTP.

    Args:
        base: the broker's URL.
        certificates: certificates that this host knows for its processor, DER or PEM; they stand in where the SVSM's
            own table has none.
    """

    def __init__(self, base: str, certificates: Mapping[CertKind, bytes]) -> None:
        self._http = HttpClient(base, most=MAX_BODY)
        self._certificates = certificates

    def close(self) -> None:
        """End the session."""
        self._http.close()

    def challenge(self) -> bytes:
        """Open the session.

        Raises:
            KbsRefused: the broker takes no sessions.
            UnavailableError: it cannot be reached.
            WireError: its answer is malformed.
        """
        reply = self._http.call("POST", f"{_PREFIX}/auth", _encode(auth_request()))
        return unb64std(parse_challenge(_accepted(reply)), "challenge.nonce", most=64)

    def release(self, request: AttestationRequest, resource: str) -> Release:
        """Attest and fetch; raises as `challenge`. The nonce is the SVSM's echo, so that its report fits it."""
        table = dict(self._certificates)
        if request.certs is not None:
            table |= parse_table(request.certs, "attestation_request.evidence.Snp.certs_buf")
        chain = tuple((str(kind), _der(cert)) for kind, cert in table.items() if kind is not CertKind.CRL)
        attestation = Attestation(b64std(request.challenge), request.key, request.report, chain)
        token = parse_token(
            _accepted(self._http.call("POST", f"{_PREFIX}/attest", _encode(attestation.to_json())))
        )
        path = f"{_PREFIX}/resource/{check_resource(resource)}"
        return Release(token, SealedResource.parse(_accepted(self._http.call("GET", path))))


def _encode(value: dict[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _accepted(reply: Reply) -> bytes:
    if reply.status != _OK:
        why = "".join(c if c.isprintable() else "?" for c in reply.body[:_SHOWN].decode("ascii", "replace"))
        raise KbsRefused(f"the key broker answered {reply.status}: {why}")
    return reply.body


def _der(certificate: bytes) -> bytes:
    """Certificates in a hypervisor's table are DER or PEM; Trustee takes DER."""
    if _PEM not in certificate:
        return certificate
    try:
        return x509.load_pem_x509_certificate(certificate).public_bytes(Encoding.DER)
    except ValueError:
        # What it is, is for the broker to judge.
        return certificate
