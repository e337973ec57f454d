"""All checks of a quote and of the certificates that it rests on, in their order."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from ca_service.export.quote.ak_checks import AK_CHECKS
from ca_service.export.quote.check import QuoteCheck
from ca_service.export.quote.checks import FIRMWARE, QUOTE_CHECKS, SAME_EK, SAME_IDEVID
from ca_service.export.quote.expected import ExpectedPcrs
from ca_service.export.quote.keys import AttestationKey
from ca_service.export.quote.pcrs import PcrValues
from ca_service.export.quote.subject import Quote, QuoteSubject, provenance_of, read_view
from ca_service.export.relying import Kind, ProvenanceRule, Trust, judge_certificate
from ca_service.judgment import BadRequest, Finding, Trace, judge_all
from ca_service.profiles.view import CertificateView, ProvenanceView
from ca_service.residency.quote import QuoteInfo

CHECKS: Final = tuple(check.id for check in (*AK_CHECKS, *QUOTE_CHECKS, FIRMWARE, SAME_EK, SAME_IDEVID))
"""Ids of all checks of quotes; those of certificates are in `ca_service.export.relying`."""

_LONGEST_NONCE: Final = 64
_BRIEF: Final = 3  # the version of the provenance that leaves the resource to the EK certificate
_TITLES: Final[dict[Kind, str]] = {"iak": "IAK", "ek": "EK", "idevid": "IDevID"}


@dataclass(frozen=True)
class JudgedCertificate:
    """A certificate that was given.

    Attributes:
        kind: what it was given as.
        der: as given.
        view: what it says; None if it cannot be read. It means something only if the trace admits it.
        trace: what `ca_service.export.relying.judge_certificate` found.
    """

    kind: Kind
    der: bytes = field(repr=False)
    view: CertificateView | None
    trace: Trace

    @property
    def provenance(self) -> ProvenanceView | None:
        """What vouched for the TPM, if the certificate counts."""
        return provenance_of(self.view) if self.trace.admitted else None


@dataclass(frozen=True)
class QuoteVerdict:
    """What was found about a quote.

    Attributes:
        certificates: those that were given, the IAK's first.
        quote: findings about the quote itself; ids as in `CHECKS`.
        stated: what the quote states, whoever made it; None if it cannot be read.
        pcrs: the quoted values; None unless everything is as it should be.
    """

    certificates: tuple[JudgedCertificate, ...]
    quote: Trace
    stated: QuoteInfo | None
    pcrs: PcrValues | None

    @property
    def trace(self) -> Trace:
        """All findings, those about certificates first; the reasons of these say which one they are about."""
        about = [_about(one.kind, finding) for one in self.certificates for finding in one.trace.findings]
        return Trace(tuple(about)) + self.quote

    @property
    def admitted(self) -> bool:
        """Whether this is a quote of a TPM that the CA has certified, made for the nonce, and as it was expected."""
        return bool(self.certificates) and self.trace.admitted

    @property
    def refusal(self) -> Finding | None:
        """The first finding that says no, if any does."""
        return self.trace.refusal

    def certificate(self, kind: Kind) -> JudgedCertificate | None:
        """The certificate that was given as this."""
        return next((one for one in self.certificates if one.kind == kind), None)

    @property
    def provenance(self) -> ProvenanceView | None:
        """What vouched for the TPM: as the EK certificate says it if there is one, which says most, else the IAK's."""
        if not self.admitted:
            return None
        found = [one.provenance for kind in ("ek", "iak") if (one := self.certificate(kind)) is not None]
        return found[0] if found else None


def _about(kind: Kind, finding: Finding) -> Finding:
    if not finding.reason:
        return finding
    return finding._replace(reason=f"{_TITLES[kind]} certificate: {finding.reason}")


def verify_quote(
    quote: Quote,
    *,
    nonce: bytes,
    iak: bytes,
    trust: Trust,
    at: datetime,
    ek: bytes | None = None,
    idevid: bytes | None = None,
    ak: AttestationKey | None = None,
    rule: ProvenanceRule | None = None,
    expected: ExpectedPcrs | None = None,
    ephemeral: bool = False,
    max_list_age: timedelta | None = None,
) -> QuoteVerdict:
    """Judge a quote. Pure: no file, no network, no clock.

    Args:
        quote: from anybody.
        nonce: what the relying party has sent for it, 1 to 64 octets; take 16 or more of a random generator, once.
        iak: DER of the IAK certificate, from anybody. This CA certifies IAKs only that are instances of TCG templates.
        trust: root, issuing CAs and revocation lists.
        at: the time, aware.
        ek: DER of the TPM's EK certificate, if it shall be judged too. It must be the one that `iak` names, and states
            the TPM's firmware version.
        idevid: DER of the TPM's IDevID certificate, if it shall be judged too.
        ak: the key that has signed in the IAK's place, with the IAK's word for it; None if the IAK itself has.
        rule: which provenance is accepted, of each certificate; None for any.
        expected: which PCR values are good; None for any.
        ephemeral: whether certificates of the Ephemeral CA count.
        max_list_age: how old the issuers' lists may be at most; None if their nextUpdate alone says so.

    Returns:
        What was found; the quote is good if it is `admitted`.

    Raises:
        BadRequest: `at` is naive, or `nonce` has a length that none has.
    """
    if not 1 <= len(nonce) <= _LONGEST_NONCE:
        raise BadRequest("nonce", f"must have 1 to {_LONGEST_NONCE} octets", remedy="Take 32 random ones.")
    given: tuple[tuple[Kind, bytes | None], ...] = (("iak", iak), ("ek", ek), ("idevid", idevid))
    certificates = []
    for kind, der in given:
        if der is None:
            continue
        view = read_view(der)
        trace = judge_certificate(
            der,
            kind,
            trust,
            at,
            _rule_for(rule, view, with_ek=ek is not None and kind != "ek"),
            ephemeral=ephemeral,
            max_list_age=max_list_age,
        )
        certificates.append(JudgedCertificate(kind, der, view, trace))
    views = {one.kind: one.view for one in certificates}
    subject = QuoteSubject(
        quote=quote,
        nonce=nonce,
        iak=views["iak"],
        ak=ak,
        ek=ek,
        ek_view=views.get("ek"),
        idevid_view=views.get("idevid"),
        expected=expected,
    )
    trace = judge_all(tuple(_checks(subject, with_idevid=idevid is not None)), subject)
    verdict = QuoteVerdict(tuple(certificates), trace, subject.quoted.info, subject.pcrs)
    return verdict if verdict.admitted else replace(verdict, pcrs=None)


def _checks(subject: QuoteSubject, *, with_idevid: bool) -> Iterator[QuoteCheck]:
    if subject.ak is not None:
        yield from AK_CHECKS
    yield from QUOTE_CHECKS
    if subject.ek is not None or subject.tpm_version is not None:
        yield FIRMWARE
    if subject.ek is not None:
        yield SAME_EK
    if with_idevid:
        yield SAME_IDEVID


def _rule_for(
    rule: ProvenanceRule | None, view: CertificateView | None, *, with_ek: bool
) -> ProvenanceRule | None:
    """A certificate that is short of room leaves the resource to the EK certificate, which is bound to it by digest."""
    found = provenance_of(view)
    if rule is None or found is None or found.version != _BRIEF or not with_ek:
        return rule
    return replace(rule, resources=None)
