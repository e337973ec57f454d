"""A key broker behind a host that may meddle, a processor, and the CA of the client's tests."""

import os
from dataclasses import dataclass, field, replace

import client_certifier as certifier
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from vtpm.snp import Platform
from vtpm.wire.aproxy import AttestationResponse, Decryption, NegotiationResponse
from vtpm.wire.encoding import b64std, b64url
from vtpm.wire.grant import GrantClaims, key_id, sign_grant
from vtpm.wire.jwe import seal
from vtpm.wire.jwk import EcJwk
from vtpm.wire.report import Report

SECRET = b"a genuine persistence key, 32+ bytes"


@dataclass
class Broker:
    """Key broker and host in one: honest as it stands, and each field is a way not to be.

    Attributes:
        challenge: what the host says the challenge is.
        params: the recipe that the host asks for.
        claims: claims of the grant that differ from the honest ones.
        grant: makes another grant out of the honest one; None for none at all.
        deliver: makes another delivery out of the honest one.
        token: the attestation token.
    """

    secret: bytes = SECRET
    challenge: bytes = bytes(range(32))
    params: tuple[str, ...] = ("EcPublicKeyBytes", "Challenge")
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    claims: dict = field(default_factory=dict)
    grant: object = staticmethod(lambda compact: compact)
    deliver: object = staticmethod(lambda delivery: delivery)
    request: object = None
    token: str | None = "e30.e30.e30"

    def attest(self, answer):
        self.request = answer(NegotiationResponse(self.challenge, self.params))
        ephemeral = ec.generate_private_key(ec.SECP521R1())
        epk = EcJwk.from_key(ephemeral.public_key())
        compact = None if self.grant is None else self.grant(sign_grant(self._claims(epk), self.key))
        sealed = seal(
            self.secret,
            self.request.key,
            ephemeral,
            extra={} if compact is None else {"kbs_grant": compact},
            entropy=os.urandom,
        )
        delivery = AttestationResponse(
            success=True,
            secret=sealed.ciphertext,
            decryption=Decryption(
                epk=(epk.x, epk.y),
                wrapped_cek=sealed.encrypted_key,
                aad=sealed.protected.encode("ascii"),
                iv=sealed.iv,
                tag=sealed.tag,
            ),
            token=self.token,
        )
        return self.deliver(delivery)

    def _claims(self, epk):
        honest = GrantClaims(
            epk_jkt=epk.thumbprint(),
            tee_jkt=self.request.key.thumbprint(),
            nonce=b64std(self.challenge),
            key_id=key_id(self.secret) if len(self.secret) >= 32 else b64url(bytes(32)),
            resource="default/vtpm/one",
            origin="kbs-generated",
            report_id=Report.parse(self.request.report).report_id,
            policy="0" * 64,
            iat=1_790_000_000,
            exp=1_790_000_300,
        )
        return replace(honest, **self.claims)


@pytest.fixture
def broker():
    return Broker()


@pytest.fixture(scope="session")
def processor(tmp_path_factory):
    """A VM launched on a simulated chip."""
    return Platform.create(tmp_path_factory.mktemp("chip")).launch([(0x1000, bytes(4096))])


@pytest.fixture(scope="session")
def authority():
    return certifier.Certifier()
