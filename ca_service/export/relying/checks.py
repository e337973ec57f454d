"""The checks: each looks at one side of a certificate and says in one sentence what is wrong with it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from ca_service.export.relying.answers import answer_problem
from ca_service.export.relying.lists import RevocationList
from ca_service.export.relying.subject import (
    LARGEST_CERTIFICATE,
    Candidate,
    authority_key_id,
    key_id,
    list_place,
)
from ca_service.export.relying.trust import ca_problem
from ca_service.judgment import Finding, failed, passed
from ca_service.profiles.contracts import CONTRACTS
from ca_service.profiles.rule import SteadyRule
from ca_service.profiles.rules import rules_for
from ca_service.profiles.view import KU, PROVENANCE, CertificateView, ProvenanceView

_PROFILE_RULES = frozenset(
    f"lint.{name}"
    for name in (
        "version",
        "extension-set",
        "criticality",
        "basic-constraints",
        "extended-key-usage",
        "policies",
    )
)
"""Rules of the lint that need to know neither the draft nor where the CA publishes."""

_DEVICE = ("2.5.4.3", "2.5.4.5")


@dataclass(frozen=True)
class RelyingCheck:
    """One check. `problem` says what is wrong, or nothing (None)."""

    id: str
    problem: Callable[[Candidate], str | None]

    def judge(self, subject: Candidate) -> Finding:
        """Look at the certificate."""
        wrong = self.problem(subject)
        return passed(self) if wrong is None else failed(self, wrong)


# --- the chain: before it has passed, nothing that the certificate says counts ---


def _readable(s: Candidate) -> str | None:
    if not s.der:
        return "there is no certificate"
    if len(s.der) > LARGEST_CERTIFICATE:
        return f"the certificate has {len(s.der)} octets; this CA issues none above {LARGEST_CERTIFICATE}"
    return (
        "the certificate cannot be read as DER with nothing before or after it"
        if s.certificate is None
        else None
    )


def _issuer(s: Candidate) -> str | None:
    if s.named_issuers:
        return None
    return "its issuer, by name and key identifier, is none of the trusted issuing CAs"


def _signature(s: Candidate) -> str | None:
    return "it is not signed by the issuing CA that it names" if s.issuer is None else None


def _chain(s: Candidate) -> str | None:
    view, issuer = s.issuer_view, s.issuer
    if view is None or issuer is None:
        return "the issuing CA's certificate cannot be read"
    if (
        view.issuer.der != s.trust.root.subject.public_bytes()
        or authority_key_id(view) != s.trust.root_key_id
    ):
        return "the issuing CA is not one of the trusted root"
    if not s.trust.certified(issuer):
        return "the issuing CA's certificate is not signed by the trusted root"
    wrong = ca_problem(view, 0)
    return None if wrong is None else f"the issuing CA {wrong}"


CHAIN: tuple[RelyingCheck, ...] = (
    RelyingCheck("relying.readable", _readable),
    RelyingCheck("relying.issuer", _issuer),
    RelyingCheck("relying.signature", _signature),
    RelyingCheck("relying.chain", _chain),
)


# --- dates ---


def _dates(s: Candidate) -> str | None:
    return _date_problem("the certificate", s.certificate, s.at)


def _issuer_dates(s: Candidate) -> str | None:
    return _date_problem("the issuing CA's certificate", s.issuer, s.at)


def _root_dates(s: Candidate) -> str | None:
    return _date_problem("the root's certificate", s.trust.root, s.at)


def _date_problem(what: str, certificate: x509.Certificate | None, at: datetime) -> str | None:
    if certificate is None:
        return f"{what} cannot be read"
    if at < certificate.not_valid_before_utc:
        return f"{what} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC only"
    if at > certificate.not_valid_after_utc:
        return f"{what} has expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    return None


# --- what it is ---


def _role(s: Candidate) -> str | None:
    """The issuer's name says what it signs: keylime does not look at it."""
    title = None if s.issuer is None else s.trust.title(s.issuer)
    if title is None:
        return "the issuing CA's name is none of this CA"
    if title.role == "ephemeral":
        if s.ephemeral:
            return None
        return "it is an ephemeral certificate: the TPM's state does not outlive the boot"
    wanted = "ek" if s.kind == "ek" else "devid"
    return (
        None
        if title.role == wanted
        else f"the {title.role} CA has issued it, which signs no {s.kind} certificates"
    )


def _kind(s: Candidate) -> str | None:
    if s.view is None:
        return "it has an extension of another form than this CA's"
    return f"it is no {s.kind} certificate by its purposes and policies" if s.consumers is None else None


def _profile(s: Candidate) -> str | None:
    subject = s.consumers
    if subject is None:
        return "it follows no profile of this kind"
    steady = (r for r in rules_for(subject.profile) if isinstance(r, SteadyRule) and r.id in _PROFILE_RULES)
    wrong = [r.problem(subject.outline) for r in steady]
    wrong += [r.problem(subject) for r in CONTRACTS if subject.profile in r.required]
    wrong += [_subject_problem(subject.profile, subject.view), _usage_problem(s.kind, subject.view)]
    first = next((problem for problem in wrong if problem is not None), None)
    return None if first is None else f"it is not of the profile {subject.profile}: {first}"


def _subject_problem(profile: str, view: CertificateView) -> str | None:
    """EK certificates have an empty subject, of IAK and IDevID certificates it names a vTPM."""
    if profile in ("ek", "iak-webauthn"):
        return "has a subject" if view.subject.rdns else None
    kinds = tuple(kind for rdn in view.subject.rdns for kind, _ in rdn)
    return None if kinds == _DEVICE else "has another subject than a device"


def _usage_problem(kind: str, view: CertificateView) -> str | None:
    usage = view.extension(KU)
    value = None if usage is None else usage.value
    allowed = (frozenset({"key_encipherment"}), frozenset({"key_agreement"}))
    if kind != "ek":
        allowed = (frozenset({"digital_signature"}),) * 2
    return None if value in allowed else "may be used for something else"


# --- whether it still counts ---


def _revocation(s: Candidate) -> str | None:
    if s.view is None or s.issuer is None or s.issuer_view is None:
        return "its revocation cannot be looked up"
    issuer_key_id = key_id(s.issuer_view) or b""
    lists = _lists_of(s, s.issuer, issuer_key_id)
    if s.ocsp is None:
        return _list_problem("the certificate", s.view, lists, s.at, s.max_list_age)
    revoked = _revoked("the certificate", s.view, lists)
    return revoked or answer_problem(s.ocsp, s.view.serial, s.issuer, issuer_key_id, s.at)


def _issuer_revocation(s: Candidate) -> str | None:
    if s.issuer_view is None:
        return "the issuing CA's certificate cannot be read"
    lists = _lists_of(s, s.trust.root, s.trust.root_key_id)
    return _list_problem("the issuing CA", s.issuer_view, lists, s.at, None)


def _lists_of(s: Candidate, issuer: x509.Certificate, issuer_key_id: bytes) -> list[RevocationList]:
    return [one for one in s.trust.lists if one.names_issuer(issuer, issuer_key_id) and one.signed_by(issuer)]


def _revoked(what: str, view: CertificateView, lists: Iterable[RevocationList]) -> str | None:
    """However old a list is, and whatever its scope: what it names stays revoked."""
    moments = [one.revoked_at(view.serial) for one in lists]
    first = min((moment for moment in moments if moment is not None), default=None)
    return None if first is None else f"{what} was revoked on {first:%Y-%m-%d %H:%M} UTC"


def _list_problem(
    what: str, view: CertificateView, lists: list[RevocationList], at: datetime, max_age: timedelta | None
) -> str | None:
    revoked = _revoked(what, view, lists)
    if revoked is not None:
        return revoked
    place = list_place(view)
    if place is None:
        return f"{what} does not name the one list that can revoke it"
    about = [one for one in lists if one.scope in (None, place)]
    if not about:
        return f"there is no revocation list for {what}: the one at {place} is needed, signed by the issuer"
    complaints = [one.stale(at, max_age) for one in about]
    if None in complaints:
        return None
    newest = max(range(len(about)), key=lambda i: about[i].this_update)
    return f"the revocation list for {what} {complaints[newest]}"


# --- what vouched for it ---


def _provenance_of(s: Candidate) -> ProvenanceView | None:
    extension = None if s.view is None else s.view.extension(PROVENANCE)
    value = None if extension is None else extension.value
    return value if isinstance(value, ProvenanceView) else None


def _provenance(s: Candidate) -> str | None:
    found = _provenance_of(s)
    if found is None:
        return "it does not say what vouched for the TPM (provenance extension)"
    if len(found.measurement) != 48 or len(found.policy_digest) != 32:  # noqa: PLR2004 - SNP measurement, SHA-256
        return "its provenance has a measurement or policy digest of the wrong length"
    return None


def _provenance_rule(s: Candidate) -> str | None:
    if s.rule is None:
        return None
    found = _provenance_of(s)
    return "it states no provenance, and a rule demands one" if found is None else s.rule.problem(found)


CONTENT: tuple[RelyingCheck, ...] = (
    RelyingCheck("relying.dates", _dates),
    RelyingCheck("relying.issuer-dates", _issuer_dates),
    RelyingCheck("relying.root-dates", _root_dates),
    RelyingCheck("relying.role", _role),
    RelyingCheck("relying.kind", _kind),
    RelyingCheck("relying.profile", _profile),
    RelyingCheck("relying.revocation", _revocation),
    RelyingCheck("relying.issuer-revocation", _issuer_revocation),
    RelyingCheck("relying.provenance", _provenance),
    RelyingCheck("relying.provenance-rule", _provenance_rule),
)
