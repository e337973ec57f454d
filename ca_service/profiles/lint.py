"""The gate before every signature: exact to-be-signed bytes in, one-shot token out.

The bytes are framed as a certificate and read by two parsers that share no code; where the two see anything
differently, nobody can say what would be certified. Then every rule looks.
"""

from dataclasses import fields

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ca_service.judgment import Finding, Trace, Verdict, VtpmCaError
from ca_service.profiles import reader_asn1crypto, reader_cryptography
from ca_service.profiles.encoding import assemble
from ca_service.profiles.model import CaContent, Draft, IssuerInfo
from ca_service.profiles.reading import read_by_parts
from ca_service.profiles.rule import LintSubject
from ca_service.profiles.rules import judge
from ca_service.profiles.token import LintPassed, mint
from ca_service.profiles.view import CertificateView

READABLE = "lint.readable"
READERS_AGREE = "lint.readers-agree"

_NO_SIGNATURE = encode_dss_signature(1, 1)
"""Stands in a draft's frame where the signature will be: the readers read, and verify nothing."""


class LintFailed(VtpmCaError):
    """A draft that must not be signed.

    Attributes:
        trace: all findings; the failed ones say what is wrong.
        rule: id of the first rule that failed.
    """

    code = "lint"

    def __init__(self, profile: str, trace: Trace) -> None:
        wrong = [f for f in trace.findings if f.verdict is Verdict.FAILED]
        super().__init__(f"{profile} draft: " + "; ".join(f"{f.rule}: {f.reason}" for f in wrong))
        self.trace = trace
        self.rule = wrong[0].rule


def lint(draft: Draft, issuer: IssuerInfo | None) -> LintPassed:
    """Judge a draft; all that is wrong with it is found, not just the first thing.

    Args:
        draft: what is to be signed.
        issuer: who is to sign; None for a self-signed root.

    Returns:
        The token that `sign_certificate` demands, good for exactly these bytes under exactly this issuer.

    Raises:
        LintFailed: a rule says no.
    """
    known = None if draft.parts is None else read_by_parts(draft.tbs, draft.parts)
    view = known or _read_whole(draft)
    trace = judge(LintSubject.of(draft, view, issuer))
    if trace is not None:
        raise LintFailed(draft.profile, trace)
    if issuer is None:
        if not isinstance(
            draft.content, CaContent
        ):  # rule lint.content holds this; the type checker wants it said
            raise TypeError("only a root signs itself")
        issuer_key = draft.content.public_key
    else:
        issuer_key = issuer.public_key()
    return mint(
        profile=draft.profile,
        tbs=draft.tbs,
        slot=draft.slot,
        issuer_key=issuer_key,
        issuer=None if issuer is None else issuer.certificate,
    )


def _read_whole(draft: Draft) -> CertificateView:
    try:
        der = assemble(draft.tbs, _NO_SIGNATURE)
        first, second = reader_cryptography.read(der), reader_asn1crypto.read(der)
    except ValueError as error:
        raise _failure(draft, READABLE, f"cannot be read: {error}") from error
    if first == second:
        return first
    different = [f.name for f in fields(CertificateView) if getattr(first, f.name) != getattr(second, f.name)]
    different += [one.id for one, two in zip(first.extensions, second.extensions, strict=False) if one != two]
    raise _failure(draft, READERS_AGREE, f"two parsers see different {', '.join(different)}")


def _failure(draft: Draft, rule: str, reason: str) -> LintFailed:
    return LintFailed(draft.profile, Trace((Finding(rule, Verdict.FAILED, reason),)))
