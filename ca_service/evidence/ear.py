"""The checks on an attestation token (EAR), for a policy that asks for one beside the grant.

A token is a second opinion: the verifier of the KBS's organisation says that it found the SVSM trustworthy, by
reference values that the CA need not know. It says nothing about the secret that went out, and whoever relays an
attestation gets a genuine one (the host is such a relay). So it never stands in for the grant; key and nonce tie the
two to one exchange.

Sources: draft-ietf-rats-ear, draft-ietf-rats-ar4si section 2.3.2 (tiers), RFC 8725 (one algorithm, keys from
elsewhere), RFC 7638 (thumbprint).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ca_service.judgment import Check, Finding, failed, passed
from vtpm.wire.ear import AFFIRMING, TRUSTEE_PROFILE, EarToken
from vtpm.wire.jwk import EcJwk

_SKEW_S: Final = 60
"""How far ahead of ours a verifier's clock may be, in seconds."""

_A_TOKEN: Final = "an attestation token"  # noqa: S105 - no password
_NO_TOKEN: Final = "none that can be read"  # noqa: S105 - likewise


@dataclass(frozen=True)
class EarEvidence:
    """A token, what the policy demands of it, and the grant that it must fit.

    Attributes:
        token: parsed, not believed; None if the evidence has none.
        signers: the verifier's keys that the policy pins, P-256; without any, no token is good.
        max_age_s: longest time since the token was issued, in seconds.
        tee_jkt: the grant's thumbprint of the SVSM's key.
        nonce: the grant's challenge.
        at: now, with a time zone.
    """

    token: EarToken | None
    signers: tuple[EcJwk, ...]
    max_age_s: int
    tee_jkt: str
    nonce: str
    at: datetime


@dataclass(frozen=True)
class _Present:
    """There is a token to look at."""

    id: str = "ear.present"

    def judge(self, subject: EarEvidence) -> Finding:
        if subject.token is None:
            return failed(
                self,
                "the policy asks for an attestation token (EAR), and there is none that can be read",
                expected=_A_TOKEN,
                actual=_NO_TOKEN,
            )
        return passed(self, actual=f"{subject.token.developer} {subject.token.build}")


class _TokenCheck(ABC):
    """A check that needs the token; where there is none it says no as well, so that it never rests on another."""

    @property
    @abstractmethod
    def id(self) -> str:
        """As `Check.id`."""

    def judge(self, subject: EarEvidence) -> Finding:
        if subject.token is None:
            return failed(self, "there is no attestation token", expected=_A_TOKEN, actual=_NO_TOKEN)
        return self._judge(subject.token, subject)

    @abstractmethod
    def _judge(self, token: EarToken, subject: EarEvidence) -> Finding: ...


@dataclass(frozen=True)
class _Signature(_TokenCheck):
    """A pinned key signed the token, with ES256.

    The key that the token names itself, a certificate chain or a URL are never heeded: an attacker can write them.
    """

    id: str = "ear.signature"

    def _judge(self, token: EarToken, subject: EarEvidence) -> Finding:
        if token.alg != "ES256":
            return failed(
                self, "the token must be signed with ES256", expected="ES256", actual=ascii(token.alg)
            )
        signer = next((key for key in subject.signers if token.signed_by(key)), None)
        if signer is None:
            return failed(
                self,
                "the token is not signed by the verifier that the CA expects",
                expected=", ".join(key.thumbprint() for key in subject.signers),
                actual=f"says: {token.jwk.thumbprint()}" if token.jwk else "",
            )
        return passed(self, actual=signer.thumbprint())


@dataclass(frozen=True)
class _Profile(_TokenCheck):
    """The token's claims are those that are read here: the same key may sign others (RFC 8725, section 3.12)."""

    id: str = "ear.profile"

    def _judge(self, token: EarToken, subject: EarEvidence) -> Finding:  # noqa: ARG002 - the token says it all
        if token.profile != TRUSTEE_PROFILE:
            return failed(
                self, "the token is of another profile", expected=TRUSTEE_PROFILE, actual=ascii(token.profile)
            )
        return passed(self, actual=token.profile)


@dataclass(frozen=True)
class _Time(_TokenCheck):
    """The token is valid now, and no older than the policy allows."""

    id: str = "ear.time"

    def _judge(self, token: EarToken, subject: EarEvidence) -> Finding:
        now = subject.at.timestamp()
        if token.iat > now + _SKEW_S:
            return failed(
                self,
                "the token is from the future",
                expected=f"at most {now + _SKEW_S:.0f}",
                actual=token.iat,
            )
        if token.nbf is not None and token.nbf > now + _SKEW_S:
            return failed(
                self, "the token is not valid yet", expected=f"at most {now + _SKEW_S:.0f}", actual=token.nbf
            )
        if token.exp <= now:
            return failed(self, "the token has expired", expected=f"over {now:.0f}", actual=token.exp)
        if now - token.iat > subject.max_age_s:
            return failed(
                self,
                "the token is too old",
                expected=f"{subject.max_age_s} s",
                actual=f"{now - token.iat:.0f} s",
            )
        return passed(self, actual=token.iat)


@dataclass(frozen=True)
class _TeeKey(_TokenCheck):
    """The key that the verifier found bound to the evidence is the one that the KBS encrypted the secret to."""

    id: str = "ear.tee-key"

    def _judge(self, token: EarToken, subject: EarEvidence) -> Finding:
        actual = token.tee.thumbprint()
        if actual != subject.tee_jkt:
            return failed(
                self,
                "the token is about another SVSM than the grant",
                expected=subject.tee_jkt,
                actual=actual,
            )
        return passed(self, actual=actual)


@dataclass(frozen=True)
class _Nonce(_TokenCheck):
    """The token is from the grant's own exchange, not from another one of the same key."""

    id: str = "ear.nonce"

    def _judge(self, token: EarToken, subject: EarEvidence) -> Finding:
        if token.nonce != subject.nonce:
            return failed(
                self,
                "the token is from another exchange than the grant",
                expected=subject.nonce,
                actual=token.nonce,
            )
        return passed(self, actual=token.nonce)


@dataclass(frozen=True)
class _Status(_TokenCheck):
    """The verifier affirms every device that it looked at.

    One that is worse may reach into the others' memory, so no submod is passed over.
    """

    id: str = "ear.status"

    def _judge(self, token: EarToken, subject: EarEvidence) -> Finding:  # noqa: ARG002 - the token says it all
        told = ", ".join(f"{name}: {status}" for name, status in token.statuses)
        if not token.statuses or any(status != AFFIRMING for _, status in token.statuses):
            return failed(
                self,
                "the verifier does not affirm that the SVSM is trustworthy",
                expected=AFFIRMING,
                actual=told,
            )
        return passed(self, actual=told)


EAR_CHECKS: tuple[Check[EarEvidence], ...] = (
    _Present(),
    _Signature(),
    _Profile(),
    _Time(),
    _TeeKey(),
    _Nonce(),
    _Status(),
)
"""Run them with `judge_until_failure`: what follows the signature reads what the signature vouches for."""
