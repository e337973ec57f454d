"""The answer that carries a secret: grant first, then the seal around both."""

from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec

from vtpm.kbs.directory import Kbs, Secret
from vtpm.kbs.sessions import Entropy, Session
from vtpm.wire.grant import LEAST_SECRET, GrantClaims, key_id
from vtpm.wire.jwe import GRANT_MEMBER, SealedResource, seal
from vtpm.wire.jwk import EcJwk

_CURVES: dict[str, ec.EllipticCurve] = {"P-521": ec.SECP521R1(), "P-256": ec.SECP256R1()}


def seal_plain(secret: Secret, tee: EcJwk, entropy: Entropy) -> SealedResource:
    """The secret for the bearer of a token, as Trustee's KBS answers: nothing says which boot it is for."""
    return seal(secret.value, tee, ec.generate_private_key(_CURVES[tee.crv]), extra={}, entropy=entropy)


def seal_with_grant(
    kbs: Kbs,
    secret: Secret,
    session: Session,
    tee: EcJwk,
    report_id: bytes,
    policy: str,
    at: datetime,
    entropy: Entropy,
) -> SealedResource:
    """The secret for an attested session, with the grant in the protected header.

    A secret under 32 bytes goes without a grant: the grant's key id would let anybody guess it.

    Args:
        kbs: signs.
        secret: what is released.
        session: the attested session; its end is the grant's `exp`.
        tee: the attested key.
        report_id: REPORT_ID of the verified report, 32 bytes.
        policy: digest of the release policy that allowed it.
        at: now, aware.
        entropy: for the content key and IV.
    """
    if len(secret.value) < LEAST_SECRET:
        return seal_plain(secret, tee, entropy)
    # The ephemeral key is made before the signature, and the signature before the seal: so GCM covers the grant,
    # and the grant the key.
    ephemeral = ec.generate_private_key(_CURVES[tee.crv])
    grant = kbs.sign_grant(
        GrantClaims(
            epk_jkt=EcJwk.from_key(ephemeral.public_key()).thumbprint(),
            tee_jkt=tee.thumbprint(),
            nonce=session.nonce,
            key_id=key_id(secret.value),
            resource=secret.resource,
            origin=secret.origin,
            report_id=report_id,
            policy=policy,
            iat=int(at.timestamp()),
            exp=int(session.expires.timestamp()),
        )
    )
    return seal(secret.value, tee, ephemeral, extra={GRANT_MEMBER: grant}, entropy=entropy)
