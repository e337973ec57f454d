"""The checks on a KBS grant that need no policy: it is signed, fresh-looking, and about this very evidence.

Which KBS keys, resources and ages are acceptable is the policy's to say. That the grant belongs to the exchange
that carried the secret (`epk_jkt`, `tee_jkt`, `nonce`) only the SVSM could see; a measurement that the policy
trusts with `verifies-grants` vouches for it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ca_service.judgment import Checks, Finding, Timeless, failed, passed
from vtpm.wire.encoding import check_digest
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.grant import Grant
from vtpm.wire.jwk import EcJwk

_SKEW_S: Final = 60
"""How far ahead of ours a KBS's clock may be, in seconds."""


@frozen
class GrantEvidence:
    """A grant and what the rest of the evidence says about the same things.

    Attributes:
        grant: parsed, not believed.
        kbs_jwk: the KBS key that the runtime data name.
        report_id: 32 bytes, REPORT_ID of the authentic report.
        store_key_id: `key_id` of the opened volume, from the runtime data.
        at: now, with a time zone.
    """

    grant: Grant
    kbs_jwk: EcJwk
    report_id: bytes
    store_key_id: str
    at: datetime


@dataclass(frozen=True)
class _Signature(Timeless):
    """The key in the grant's header signed the grant."""

    id: str = "grant.signature"

    def judge(self, subject: GrantEvidence) -> Finding:
        if not subject.grant.signature_holds():
            return failed(
                self,
                "the grant's signature does not hold",
                expected=f"a signature by {subject.grant.jwk.thumbprint()}, the key that the grant names",
                actual="none that verifies",
            )
        return passed(self)


@dataclass(frozen=True)
class _Key(Timeless):
    """The key that verifies the grant is the one that the SVSM names as its KBS: one key, compared."""

    id: str = "grant.key"

    def judge(self, subject: GrantEvidence) -> Finding:
        named, used = subject.kbs_jwk, subject.grant.jwk
        if named != used:
            return failed(
                self,
                "the grant is by another key than the KBS key of the evidence",
                expected=named.thumbprint(),
                actual=used.thumbprint(),
            )
        return passed(self, actual=used.thumbprint())


@dataclass(frozen=True)
class _IssuedAt:
    """The grant was not issued in the future, but for a minute that clocks may differ by."""

    id: str = "grant.issued-at"

    def judge(self, subject: GrantEvidence) -> Finding:
        issued, now = subject.grant.claims.iat, subject.at.timestamp()
        if issued > now + _SKEW_S:
            return failed(
                self, "the grant is from the future", expected=f"at most {now + _SKEW_S:.0f}", actual=issued
            )
        return passed(self, actual=issued)


@dataclass(frozen=True)
class _Expiry(Timeless):
    """The KBS session has an end, after its beginning.

    That it has passed is no refusal: it bounds the KBS's session. Enrolment is bounded by the policy's age.
    """

    id: str = "grant.expiry"

    def judge(self, subject: GrantEvidence) -> Finding:
        claims = subject.grant.claims
        if claims.exp <= claims.iat:
            return failed(
                self, "the grant ends before it begins", expected=f"over {claims.iat}", actual=claims.exp
            )
        return passed(self, actual=claims.exp)


@dataclass(frozen=True)
class _ReportId(Timeless):
    """The KBS released the key to this VM launch and no other."""

    id: str = "grant.report-id"

    def judge(self, subject: GrantEvidence) -> Finding:
        granted = subject.grant.claims.report_id
        if granted != subject.report_id:
            return failed(
                self,
                "the grant is for another VM launch than the report",
                expected=subject.report_id.hex(),
                actual=granted.hex(),
            )
        return passed(self)


@dataclass(frozen=True)
class _KeyId(Timeless):
    """The secret that the KBS released is the one that opened the TPM's store."""

    id: str = "grant.key-id"

    def judge(self, subject: GrantEvidence) -> Finding:
        granted = subject.grant.claims.key_id
        if granted != subject.store_key_id:
            return failed(
                self,
                "the grant is for another secret than the store's",
                expected=subject.store_key_id,
                actual=granted,
            )
        return passed(self, actual=granted)


@dataclass(frozen=True)
class _Thumbprints(Timeless):
    """The grant names the exchange's two ephemeral keys, and neither of them is the other or the KBS's own."""

    id: str = "grant.thumbprints"

    def judge(self, subject: GrantEvidence) -> Finding:
        claims, own = subject.grant.claims, subject.grant.jwk.thumbprint()
        try:
            for text in (claims.epk_jkt, claims.tee_jkt):
                check_digest(text, "")
        except WireError:
            return failed(
                self,
                "the grant does not name the keys of the exchange",
                expected="epk_jkt and tee_jkt are SHA-256 thumbprints",
                actual=f"epk_jkt {claims.epk_jkt!a}, tee_jkt {claims.tee_jkt!a}",
            )
        if len({claims.epk_jkt, claims.tee_jkt, own}) < 3:  # noqa: PLR2004 - three keys
            return failed(
                self,
                "the grant names one key in two roles",
                expected="three different keys",
                actual=f"epk_jkt {claims.epk_jkt}, tee_jkt {claims.tee_jkt}, the KBS's own {own}",
            )
        return passed(self)


GRANT_CHECKS: Checks[GrantEvidence] = Checks(
    (
        _Signature(),
        _Key(),
        _IssuedAt(),
        _Expiry(),
        _ReportId(),
        _KeyId(),
        _Thumbprints(),
    )
)
"""Run them with `judge_all`, on a report that is authentic."""
