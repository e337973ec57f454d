"""The one exchange with the key broker in a boot: attest, check the grant, open the secret.

Design: the SVSM verifies the KBS's signature and remembers the key in RAM; it applies no policy and verifies no
chain. Whether that KBS may be trusted is the CA's to say.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from vtpm.svsm.build import Build
from vtpm.svsm.errors import BootRefused
from vtpm.wire import aproxy, jwe, rcar
from vtpm.wire.encoding import Members, b64std
from vtpm.wire.enrollment import MAX_EAR
from vtpm.wire.errors import WireError
from vtpm.wire.grant import Grant, key_id
from vtpm.wire.jwk import EcJwk
from vtpm.wire.statements import parse_compact_jws

MIN_SECRET = 32
"""Shortest persistence key that a grant may bind, in bytes: the grant's header is public."""


@dataclass(frozen=True)
class KbsSession:
    """What the SVSM remembers of the key broker until the VM ends, in RAM only.

    Attributes:
        secret: the persistence key.
        grant: the KBS's signed statement about it, or None if the KBS made none.
        key_id: the secret's public id.
        token: the attestation token (EAR) that came with it, if one came that an enrolment can carry. The SVSM has no
            use for it and no way to tell what it is worth; the host may have put another one in its place.
    """

    secret: bytes = field(repr=False)
    grant: Grant | None
    key_id: str
    token: str | None = field(default=None, repr=False)


class Demand(Protocol):
    """Where each rule of the exchange says no."""

    def __call__(self, rule: str, sentence: str, *, holds: bool) -> None:
        """Go on only if the rule holds."""


def demand(rule: str, sentence: str, *, holds: bool) -> None:
    """Refuse to boot unless the rule holds; `sentence` says what is wrong otherwise.

    Raises:
        BootRefused: it does not hold.
    """
    if not holds:
        raise BootRefused(sentence, rule=rule)


def negotiate(
    attest: Callable[
        [Callable[[aproxy.NegotiationResponse], aproxy.AttestationRequest]], aproxy.AttestationResponse
    ],
    report: Callable[[bytes], bytes],
    certificates: Callable[[], bytes],
    build: Build,
    demand: Demand = demand,
) -> KbsSession:
    """Run the exchange and check what came back.

    Args:
        attest: runs the host's side of it (`HostChannel.attest`).
        report: the processor's report for 64 bytes of REPORT_DATA, at VMPL 0.
        certificates: the processor's certificate table.
        build: whether to keep to the rules, or to do as today's libaproxy asks.
        demand: how a broken rule ends the boot; only the lab hands another one in, to show what a rule is worth.

    Raises:
        BootRefused: with the rule that the delivery breaks.
        UnavailableError: the host or, behind it, the KBS does not answer.
    """
    key = ec.generate_private_key(ec.SECP521R1())
    tee = EcJwk.from_key(key.public_key())
    challenge = b""

    def answer(negotiation: aproxy.NegotiationResponse) -> aproxy.AttestationRequest:
        nonlocal challenge
        challenge = negotiation.challenge
        if build is Build.APROXY_HEAD:
            data = aproxy.legacy_report_data(negotiation.params, tee, challenge)
        else:
            # From the challenge alone: a recipe named by the host would make us sign what it likes.
            data = rcar.kbs_report_data(b64std(challenge), tee)
        return aproxy.AttestationRequest(report(data), challenge, tee, certificates())

    reply = attest(answer)
    if not reply.success or reply.decryption is None or reply.secret is None:
        raise BootRefused(
            "the KBS released no key, or the host says so",
            rule="svsm.key-released",
            remedy="The KBS's log names the reason: measurement, resource not declared, or KBS not reachable.",
        )
    session = _open(reply.decryption, reply.secret, key, tee, b64std(challenge), build, demand)
    # Today's build drops the token.
    return session if build is Build.APROXY_HEAD else replace(session, token=_kept_token(reply.token))


def _kept_token(token: str | None) -> str | None:
    """The token if it can travel with an enrolment: no CA that does without may refuse because of it."""
    if token is None:
        return None
    try:
        return parse_compact_jws(Members({"ear": token}), "ear", MAX_EAR)
    except WireError:
        return None


def _open(
    sealed: aproxy.Decryption,
    ciphertext: bytes,
    key: ec.EllipticCurvePrivateKey,
    tee: EcJwk,
    nonce: str,
    build: Build,
    demand: Demand,
) -> KbsSession:
    try:
        header = jwe.parse_protected(sealed.aad, "decryption.aad")
    except WireError as error:
        raise BootRefused(f"the protected header cannot be read: {error}", rule="svsm.header") from error
    peer = header.epk
    if sealed.epk != (peer.x, peer.y):
        if build is not Build.APROXY_HEAD:
            demand(
                "svsm.epk",
                "the host delivered another ephemeral key than the one in the signed header",
                holds=False,
            )
        # Only a build that believes the copy beside the header comes here.
        peer = EcJwk(peer.crv, *sealed.epk)
    grant = None
    if header.grant is not None and build is not Build.APROXY_HEAD:
        grant = _check_grant(header.grant, header.epk, tee, nonce, demand)
    try:
        secret = jwe.open_sealed(
            key,
            peer,
            aad=sealed.aad,
            wrapped_cek=sealed.wrapped_cek,
            iv=sealed.iv,
            ciphertext=ciphertext,
            tag=sealed.tag,
        )
    except WireError as error:
        raise BootRefused("the key does not decrypt", rule="svsm.decrypts") from error
    demand("svsm.secret-size", f"the key is shorter than {MIN_SECRET} bytes", holds=len(secret) >= MIN_SECRET)
    identity = key_id(secret)
    if grant is not None:
        demand(
            "svsm.key-id",
            "the grant is about another key than the one that came",
            holds=hmac.compare_digest(identity, grant.claims.key_id),
        )
    return KbsSession(secret, grant, identity)


def _check_grant(compact: str, epk: EcJwk, tee: EcJwk, nonce: str, demand: Demand) -> Grant:
    """The grant must be well signed and about this exchange: our key, this nonce, this ephemeral key."""
    try:
        grant = Grant.parse(compact)
    except WireError as error:
        raise BootRefused(f"the grant cannot be read: {error}", rule="svsm.grant") from error
    facts = (
        ("svsm.grant-signature", grant.signature_holds(), "the grant's signature does not hold"),
        (
            "svsm.grant-epk",
            grant.claims.epk_jkt == epk.thumbprint(),
            "the grant is about another ephemeral key",
        ),
        ("svsm.grant-tee", grant.claims.tee_jkt == tee.thumbprint(), "the grant is for another SVSM"),
        ("svsm.grant-nonce", grant.claims.nonce == nonce, "the grant is from another exchange"),
    )
    for rule, holds, sentence in facts:
        demand(rule, sentence, holds=holds)
    return grant
