"""All checks of a certificate, in their order."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from ca_service.export.relying.checks import CHAIN, CONTENT
from ca_service.export.relying.rule import ProvenanceRule
from ca_service.export.relying.subject import Candidate, Kind, list_place, responder_place
from ca_service.export.relying.trust import Trust
from ca_service.judgment import BadRequest, Trace, judge_all, judge_until_failure

CHECKS: Final = tuple(check.id for check in (*CHAIN, *CONTENT))
"""Ids of all checks, in the order in which they look."""


def judge_certificate(
    der: bytes,
    kind: Kind,
    trust: Trust,
    at: datetime,
    rule: ProvenanceRule | None = None,
    *,
    ephemeral: bool = False,
    ocsp: bytes | None = None,
    max_list_age: timedelta | None = None,
) -> Trace:
    """Judge whether a certificate counts.

    The chain is judged first, and nothing else if it fails: what a certificate says is worth nothing before. Then all
    other checks look, so that one sees everything that is wrong.

    Args:
        der: one certificate in DER, from anybody.
        kind: what it is shown as.
        trust: root, issuing CAs and revocation lists. The root's list is always needed.
        at: the time, aware. What is revoked is refused for earlier times too.
        rule: which provenance is accepted; None for any.
        ephemeral: whether certificates of the Ephemeral CA count.
        ocsp: DER of an OCSP response about the certificate, in the place of its issuer's list.
        max_list_age: how old the issuer's list may be at most; None if its nextUpdate alone says so.

    Returns:
        What was found; the certificate counts if it is `admitted`. Ids as in `CHECKS`.

    Raises:
        BadRequest: `at` is naive.
    """
    if at.tzinfo is None:
        raise BadRequest("at", "must be aware")
    candidate = Candidate(der, kind, trust, at, rule, ephemeral, ocsp, max_list_age)
    chain = judge_until_failure(CHAIN, candidate)
    return chain + judge_all(CONTENT, candidate) if chain.admitted else chain


@dataclass(frozen=True)
class Lookup:
    """Where the revocation of a certificate is to be looked up; each place is a URL, None if it names none.

    Attributes:
        serial: serial number of the certificate.
        issuer: its issuing CA.
        leaf_list: where its issuer's list lies.
        root_list: where the root's list lies, which is about the issuing CA.
        responder: where its issuer's OCSP responder answers.
    """

    serial: int
    issuer: x509.Certificate
    leaf_list: str | None
    root_list: str | None
    responder: str | None


def lookup(der: bytes, kind: Kind, trust: Trust) -> Lookup | None:
    """Where to ask about a certificate; None if its chain does not hold, so that nobody is sent anywhere by a stranger.

    Args:
        der: one certificate in DER, from anybody.
        kind: what it is shown as.
        trust: root and issuing CAs; no list is looked at.
    """
    candidate = Candidate(der, kind, trust, datetime.min.replace(tzinfo=UTC))
    if not judge_until_failure(CHAIN, candidate).admitted:
        return None
    view, issuer, issuer_view = candidate.view, candidate.issuer, candidate.issuer_view
    if view is None or issuer is None or issuer_view is None:
        return None
    return Lookup(view.serial, issuer, list_place(view), list_place(issuer_view), responder_place(view))
