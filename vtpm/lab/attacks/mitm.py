"""M: the host stands between the SVSM and the key broker."""

import json
import os

from cryptography.hazmat.primitives.asymmetric import ec

from vtpm.host import Behaviour, HostConfig, Release
from vtpm.host.malicious import GenuineHeader, OwnKbs
from vtpm.lab.attacks.model import Attack
from vtpm.lab.attacks.possession import attackers_tpm, opened
from vtpm.lab.attacks.scene import Scene
from vtpm.wire.aproxy import AttestationRequest, AttestationResponse
from vtpm.wire.encoding import b64url, canonical, unb64url
from vtpm.wire.grant import key_id
from vtpm.wire.jwe import GRANT_MEMBER, parse_protected, seal
from vtpm.wire.jwk import EcJwk

KBS_RULES = (
    "kbs.listed",
    "kbs.status",
    "kbs.valid",
    "kbs.resource",
    "kbs.origin",
    "kbs.release-policy",
)
"""What the allow-list says of key brokers; a key that is not on it breaks each of these."""


class OwnSecret(Behaviour):
    """The genuine key broker attests the SVSM; its token travels with a grant and the attacker's secret.

    Args:
        config: as for every host.
        loot: the attacker's secret.
        grant: a grant of the attacker's choice; by default the genuine one of this exchange.
    """

    def __init__(self, config: HostConfig, loot: bytes, grant: str | None = None) -> None:
        super().__init__(config)
        self.loot = loot
        self._grant = grant

    def delivery(self, request: AttestationRequest, release: Release) -> AttestationResponse:
        """Seal the attacker's secret under an ephemeral key of its own, with the grant in the header."""
        grant = self._grant or parse_protected(release.sealed.protected.encode("ascii")).grant
        sealed = seal(
            self.loot,
            request.key,
            ec.generate_private_key(ec.SECP521R1()),
            extra={} if grant is None else {GRANT_MEMBER: grant},
            entropy=os.urandom,
        )
        return super().delivery(request, Release(release.token, sealed))


class AlteredGrant(Behaviour):
    """M4: the genuine grant, altered to fit the attacker's ephemeral key and secret; only nobody signed that."""

    def __init__(self, config: HostConfig, loot: bytes) -> None:
        super().__init__(config)
        self.loot = loot

    def delivery(self, request: AttestationRequest, release: Release) -> AttestationResponse:
        """Put the attacker's key and secret into the claims, and leave the signature as it is."""
        genuine = parse_protected(release.sealed.protected.encode("ascii")).grant
        if genuine is None:
            return super().delivery(request, release)
        header, claims, signature = genuine.split(".")
        ephemeral = ec.generate_private_key(ec.SECP521R1())
        altered = json.loads(unb64url(claims, "claims")) | {
            "epk_jkt": EcJwk.from_key(ephemeral.public_key()).thumbprint(),
            "key_id": key_id(self.loot),
        }
        grant = ".".join((header, b64url(canonical(altered)), signature))
        sealed = seal(self.loot, request.key, ephemeral, extra={GRANT_MEMBER: grant}, entropy=os.urandom)
        return super().delivery(request, Release(release.token, sealed))


def _with_loot(scene: Scene, host: Behaviour, loot: bytes) -> str:
    """Boot a victim on this host; then open its volume with the secret that the attacker knows."""
    disk = scene.disk()
    scene.boot(disk, host)
    with opened(disk.path, loot) as (tpm, keys):
        return attackers_tpm(scene.ca, tpm, keys)


def _m1(scene: Scene) -> str:
    host = OwnKbs(scene.host_config())
    return _with_loot(scene, host, host.loot)


def _m2(scene: Scene) -> str:
    host = OwnSecret(scene.host_config(), os.urandom(32))
    return _with_loot(scene, host, host.loot)


def _m3(scene: Scene) -> str:
    host = GenuineHeader(scene.host_config())
    return _with_loot(scene, host, host.loot)


def _m4(scene: Scene) -> str:
    host = AlteredGrant(scene.host_config(), os.urandom(32))
    return _with_loot(scene, host, host.loot)


ATTACKS = (
    Attack(
        "m1",
        "host",
        "answers the SVSM with a key broker of its own: own signing key, own secret, a correct grant",
        KBS_RULES,
        _m1,
    ),
    Attack(
        "m2",
        "host",
        "relays the attestation to the genuine key broker, and delivers its token and grant with a secret of its own",
        ("svsm.grant-epk", "svsm.key-id", "grant.key-id"),
        _m2,
    ),
    Attack(
        "m3",
        "host",
        "delivers the genuine header and grant, with its own ephemeral key beside them and its own secret",
        ("svsm.epk", "svsm.key-id", "grant.key-id"),
        _m3,
    ),
    Attack(
        "m4",
        "host",
        "alters the genuine grant so that it fits an ephemeral key and a secret of its own",
        ("svsm.grant-signature", "grant.signature"),
        _m4,
    ),
)
