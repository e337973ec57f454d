"""Hosts that attack. Each has the name of its attack and overrides one step of the honest host.

They use nothing that a real host would not have: the messages that pass, keys of their own, and the public formats.
What an attack is worth shows in the secret that the attacker knows: `loot`.
"""

import os
import time
from collections.abc import Mapping
from typing import ClassVar, Final

from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vtpm.host.behaviour import Behaviour, HostConfig
from vtpm.host.broker import BrokerSession, Release
from vtpm.wire.aproxy import AttestationRequest, AttestationResponse, Decryption
from vtpm.wire.encoding import b64std
from vtpm.wire.grant import GrantClaims, key_id, policy_digest, sign_grant
from vtpm.wire.jwe import GRANT_MEMBER, concat_kdf, seal
from vtpm.wire.jwk import EcJwk
from vtpm.wire.report import Report

_SECRET: Final = 32
_SESSION_S: Final = 300
_TAG: Final = 16


class Attack(Behaviour):
    """A host with a persistence key of its own, which it wants the SVSM to use.

    Attributes:
        loot: the secret that the attacker knows; the same for every boot that this object serves.
    """

    def __init__(self, config: HostConfig, *, loot: bytes | None = None) -> None:
        super().__init__(config)
        self.loot = os.urandom(_SECRET) if loot is None else loot


class _OwnBroker:
    """A key broker that verifies nothing and hands out the attacker's secret under the attacker's signature."""

    def __init__(self, signing_key: ec.EllipticCurvePrivateKey, secret: bytes) -> None:
        self._signing_key = signing_key
        self._secret = secret

    def challenge(self) -> bytes:
        return os.urandom(32)

    def release(self, request: AttestationRequest, resource: str) -> Release:
        now = int(time.time())
        ephemeral = ec.generate_private_key(ec.SECP521R1())
        claims = GrantClaims(
            epk_jkt=EcJwk.from_key(ephemeral.public_key()).thumbprint(),
            tee_jkt=request.key.thumbprint(),
            nonce=b64std(request.challenge),
            key_id=key_id(self._secret),
            resource=resource,
            origin="kbs-generated",
            report_id=Report.parse(request.report).report_id,
            policy=policy_digest(b""),
            iat=now,
            exp=now + _SESSION_S,
        )
        grant = sign_grant(claims, self._signing_key)
        sealed = seal(self._secret, request.key, ephemeral, extra={GRANT_MEMBER: grant}, entropy=os.urandom)
        return Release("e30.e30.e30", sealed)

    def close(self) -> None:
        pass


class OwnKbs(Attack):
    """M1: the SVSM talks to the attacker's key broker. Everything is right but whose key signs the grant."""

    name: ClassVar[str] = "m1"
    summary: ClassVar[str] = (
        "answers with a key broker of its own: own signing key, own secret, correct grant"
    )

    def __init__(self, config: HostConfig, *, loot: bytes | None = None) -> None:
        super().__init__(config, loot=loot)
        self._signing_key = ec.generate_private_key(ec.SECP384R1())

    def open_session(self) -> BrokerSession:
        """The attacker's broker instead of the configured one."""
        return _OwnBroker(self._signing_key, self.loot)


class GenuineHeader(Attack):
    """M3: header and grant are the genuine broker's, the rest is the attacker's.

    libaproxy hands the SVSM the ephemeral key twice: within the header that GCM authenticates, and beside it. An
    SVSM that checks the grant against the one and decrypts with the other takes the attacker's secret for the
    granted one.
    """

    name: ClassVar[str] = "m3"
    summary: ClassVar[str] = "genuine header and grant, but its own decryption.epk and its own secret"

    def delivery(self, request: AttestationRequest, release: Release) -> AttestationResponse:
        """Encrypt the attacker's secret under the genuine header's bytes."""
        aad = release.sealed.protected.encode("ascii")
        ephemeral = ec.generate_private_key(ec.SECP521R1())
        content_key, iv = os.urandom(32), os.urandom(12)
        encrypted = AESGCM(content_key).encrypt(iv, self.loot, aad)
        shared = ephemeral.exchange(ec.ECDH(), request.key.public_key())
        epk = EcJwk.from_key(ephemeral.public_key())
        return AttestationResponse(
            success=True,
            secret=encrypted[:-_TAG],
            decryption=Decryption(
                epk=(epk.x, epk.y),
                wrapped_cek=keywrap.aes_key_wrap(concat_kdf(shared), content_key),
                aad=aad,
                iv=iv,
                tag=encrypted[-_TAG:],
            ),
            token=release.token,
        )


BEHAVIOURS: Final[Mapping[str, type[Behaviour]]] = {
    behaviour.name: behaviour for behaviour in (Behaviour, OwnKbs, GenuineHeader)
}
"""Every behaviour by its name."""
