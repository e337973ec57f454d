"""The checks of a quote: each looks at one thing and says in one sentence what is wrong with it.

Sources: TPM 2.0 Library, Part 1, section 31 (attestation) and section 16 (Names); Part 3, section 18.4 (TPM2_Quote).
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ca_service.export.quote.keys import SigningKey
from ca_service.export.quote.pcrs import chosen
from ca_service.export.quote.subject import QuoteSubject, named_ek
from ca_service.judgment import Finding, failed, passed
from ca_service.residency.attest import ATTEST_CERTIFY, MAGIC
from ca_service.residency.quote import ATTEST_QUOTE, QuoteInfo
from ca_service.residency.signature import HASHES, KeySignature
from vtpm.wire.public_area import ALG_ECDSA, ALG_RSAPSS, ALG_RSASSA, Scheme

_ABSENT: Final = "there is no readable quote"
_SET: Final = 0x00050032  # sign, restricted, sensitiveDataOrigin, fixedParent, fixedTPM
_CLEAR: Final = 0x00020000  # decrypt


@dataclass(frozen=True)
class Wrong:
    """What is wrong.

    Attributes:
        reason: one sentence.
        expected: what was wanted; empty if it would say nothing.
        actual: what is there.
    """

    reason: str
    expected: str = ""
    actual: str = ""


@dataclass(frozen=True)
class QuoteCheck:
    """One check. `wrong` says what is wrong, or nothing (None)."""

    id: str
    wrong: Callable[[QuoteSubject], Wrong | None]

    def judge(self, subject: QuoteSubject) -> Finding:
        """Look at the quote."""
        found = self.wrong(subject)
        if found is None:
            return passed(self)
        return failed(self, found.reason, expected=found.expected, actual=found.actual)


def _field(look: Callable[[QuoteSubject, QuoteInfo], Wrong | None]) -> Callable[[QuoteSubject], Wrong | None]:
    """A check of what is in the structure, which fails if nothing is."""

    def wrong(s: QuoteSubject) -> Wrong | None:
        info = s.quoted.info
        return Wrong(_ABSENT) if info is None else look(s, info)

    return wrong


def _number(value: int | None) -> str:
    return "nothing" if value is None else hex(value)


# --- the structure ---


def _magic(s: QuoteSubject) -> Wrong | None:
    if s.quoted.magic == MAGIC:
        return None
    return Wrong("no TPM has made it", _number(MAGIC), _number(s.quoted.magic))


def _type(s: QuoteSubject) -> Wrong | None:
    if s.quoted.type == ATTEST_QUOTE:
        return None
    return Wrong("it is no quote but another statement", _number(ATTEST_QUOTE), _number(s.quoted.type))


def _form(s: QuoteSubject) -> Wrong | None:
    if s.quoted.info is not None:
        return None
    return Wrong(
        "it is no TPMS_ATTEST of type Quote, or not exactly one",
        "one TPMS_ATTEST",
        f"{len(s.quote.attest)} octets",
    )


def _nonce(s: QuoteSubject, info: QuoteInfo) -> Wrong | None:
    if s.nonce and hmac.compare_digest(info.extra_data, s.nonce):
        return None
    return Wrong(
        "it was not made for this nonce", s.nonce.hex() or "a nonce", info.extra_data.hex() or "none"
    )


# --- who has signed ---


def _scheme_text(scheme: Scheme) -> str:
    names = {ALG_RSASSA: "RSASSA", ALG_RSAPSS: "RSAPSS", ALG_ECDSA: "ECDSA"}
    algorithm = names.get(scheme.algorithm, f"0x{scheme.algorithm:04x}")
    digest = HASHES.get(scheme.hash_algorithm)
    return f"{algorithm} with {'no known hash' if digest is None else digest.name}"


def _no_key(s: QuoteSubject) -> Wrong:
    if s.ak is not None:
        return Wrong("the attestation key has no public area that can be read")
    return Wrong("there is no IAK: its certificate cannot be read, or is of another kind of key")


def _scheme(s: QuoteSubject) -> Wrong | None:
    return _scheme_of(s.key, s.signature) if s.key is not None else _no_key(s)


def _scheme_of(key: SigningKey, signature: KeySignature | None) -> Wrong | None:
    if key.scheme.hash_algorithm not in HASHES or key.scheme.algorithm not in (
        ALG_RSASSA,
        ALG_RSAPSS,
        ALG_ECDSA,
    ):
        return Wrong("the key has no scheme that quotes are signed by", "", _scheme_text(key.scheme))
    wanted = _scheme_text(key.scheme)
    if signature is None:
        return Wrong(
            "the signature is none of an attestation key, or not exactly one", wanted, "nothing readable"
        )
    if signature.scheme != key.scheme:
        return Wrong(
            "the signature is of another scheme than the key's", wanted, _scheme_text(signature.scheme)
        )
    return None


def _signature(s: QuoteSubject) -> Wrong | None:
    if s.key is None:
        return _no_key(s)
    whose = "the IAK" if s.ak is None else "the attestation key"
    return _signature_of(s.key, s.signature, s.quote.attest, f"{whose} has not signed this quote")


def _signature_of(
    key: SigningKey, signature: KeySignature | None, signed: bytes, reason: str
) -> Wrong | None:
    if signature is not None and signature.scheme == key.scheme and signature.holds(key.key, signed):
        return None
    return Wrong(reason, f"a signature by the key with the Name {key.name.hex()}", "none that verifies")


def _signer(s: QuoteSubject, info: QuoteInfo) -> Wrong | None:
    whose = "the IAK as a primary key of the endorsement hierarchy" if s.ak is None else "the certified key"
    if s.signer is None:
        return Wrong("what the signing key is called is not known")
    if info.qualified_signer == s.signer:
        return None
    return Wrong(f"its signer is not {whose}", s.signer.hex(), info.qualified_signer.hex())


# --- the PCRs ---


def _pcr_values(s: QuoteSubject) -> Wrong | None:
    if s.pcrs is not None:
        return None
    return Wrong(
        "the PCR values cannot be read, or are not those of the quoted PCRs",
        "what tpm2_quote -o, or tpm2_pcrread -o of the same PCRs, has written",
    )


def _pcr_selection(s: QuoteSubject, info: QuoteInfo) -> Wrong | None:
    """What is not quoted has no digest over it, so no value of it may stand among those that are shown."""
    quoted = set(chosen(info.selections))
    if not quoted:
        return Wrong("it is about no PCR at all")
    if s.pcrs is None:
        return Wrong("there are no PCR values")
    given = {(bank, number) for bank, number, _ in s.pcrs}
    if given == quoted:
        return None
    return Wrong("the PCR values are not those of the quoted PCRs", _list(quoted), _list(given))


def _list(pcrs: set[tuple[str, int]]) -> str:
    banks = sorted({bank for bank, _ in pcrs})
    numbers = {bank: sorted(n for b, n in pcrs if b == bank) for bank in banks}
    return "+".join(f"{bank}:{','.join(map(str, numbers[bank]))}" for bank in banks) or "none"


def _pcr_digest(s: QuoteSubject, info: QuoteInfo) -> Wrong | None:
    if s.key is None or s.pcrs is None:
        return Wrong("without values, or a key whose hash it is, there is no digest")
    digest = s.pcrs.digest(info.selections, s.key.scheme.hash_algorithm)
    if digest is not None and digest == info.pcr_digest:
        return None
    actual = "values of other PCRs" if digest is None else digest.hex()
    return Wrong("the PCR values are not those that were quoted", info.pcr_digest.hex(), actual)


def _expected_pcrs(s: QuoteSubject) -> Wrong | None:
    if s.expected is None:
        return None
    for bank, numbers in s.expected.banks.items():
        for number, good in numbers.items():
            value = None if s.pcrs is None else s.pcrs.value(bank, number)
            if value is None:
                return Wrong(f"PCR {number} of bank {bank} is not quoted", f"{bank}:{number}", "not quoted")
            if value not in good:
                wanted = " or ".join(sorted(one.hex() for one in good))
                return Wrong(f"PCR {number} of bank {bank} has another value", wanted, value.hex())
    return None


# --- the TPM ---


def _clock_safe(_: QuoteSubject, info: QuoteInfo) -> Wrong | None:
    if info.safe:
        return None
    return Wrong(
        "the TPM's clock is not safe: it may have gone back when power was lost; try again some seconds later",
        "safe",
        "not safe",
    )


def _firmware(s: QuoteSubject, info: QuoteInfo) -> Wrong | None:
    """A certificate states the first half of the version (TCG EK Credential Profile 2.6, section 3.1.2)."""
    actual = f"id:{info.firmware >> 32:08X}"
    if s.tpm_version == actual:
        return None
    reason = "the TPM has another firmware version than the one that was certified"
    return Wrong(reason, s.tpm_version or "a version in the EK certificate", actual)


def _same_ek(s: QuoteSubject) -> Wrong | None:
    named = named_ek(s.iak)
    if s.ek_digest is not None and named == s.ek_digest:
        return None
    return Wrong(
        "the EK certificate is another TPM's, or not the first of this TPM's: the IAK certificate names another",
        named or "none",
        s.ek_digest or "none",
    )


def _same_idevid(s: QuoteSubject) -> Wrong | None:
    named, wanted = named_ek(s.idevid_view), named_ek(s.iak)
    if named is not None and named == wanted:
        return None
    return Wrong("the IDevID certificate is another TPM's", wanted or "none", named or "none")


# --- an attestation key that the IAK certifies ---


def _ak_form(s: QuoteSubject) -> Wrong | None:
    if s.ak_key is not None:
        return None
    return Wrong(
        "the attestation key is no TPM2B_PUBLIC or TPMT_PUBLIC of RSA or a NIST curve, or not exactly one"
    )


def _ak_attributes(s: QuoteSubject) -> Wrong | None:
    """Only a restricted key of the TPM's own never signs a statement that somebody else has made up."""
    if s.ak_key is None:
        return _no_key(s)
    attributes = s.ak_key.area.attributes
    if attributes & _SET == _SET and not attributes & _CLEAR:
        return None
    return Wrong(
        "the attestation key is none: it must be restricted, sign only, made in its TPM and stay there",
        f"{_SET:08x} set and {_CLEAR:08x} clear",
        f"{attributes:08x}",
    )


def _ak_certified(s: QuoteSubject) -> Wrong | None:
    attest = s.certified
    if attest is not None and attest.info is not None:
        return None
    actual = "nothing" if attest is None else f"{_number(attest.magic)}, {_number(attest.type)}"
    return Wrong(
        "there is no TPMS_ATTEST of TPM2_Certify about the attestation key",
        f"{_number(MAGIC)}, {_number(ATTEST_CERTIFY)}",
        actual,
    )


def _ak_name(s: QuoteSubject) -> Wrong | None:
    info = None if s.certified is None else s.certified.info
    if s.ak_key is None or info is None:
        return Wrong("the IAK has certified nothing that can be read")
    if info.name == s.ak_key.name:
        return None
    return Wrong("the IAK has certified another key", s.ak_key.name.hex(), info.name.hex())


def _ak_signature(s: QuoteSubject) -> Wrong | None:
    if s.iak_key is None or s.ak is None:
        return Wrong("there is no IAK: its certificate cannot be read, or is of another kind of key")
    return _signature_of(
        s.iak_key,
        s.certified_by,
        s.ak.attest,
        "the IAK has not signed that the attestation key is in its TPM",
    )


def _ak_signer(s: QuoteSubject) -> Wrong | None:
    info = None if s.certified is None else s.certified.info
    if s.iak_key is None or info is None:
        return Wrong("the IAK has certified nothing that can be read")
    if info.qualified_signer == s.iak_key.qualified_name:
        return None
    return Wrong(
        "who has certified the attestation key is not the IAK as a primary key of the endorsement hierarchy",
        s.iak_key.qualified_name.hex(),
        info.qualified_signer.hex(),
    )


AK_CHECKS: Final = (
    QuoteCheck("quote.ak-form", _ak_form),
    QuoteCheck("quote.ak-attributes", _ak_attributes),
    QuoteCheck("quote.ak-certified", _ak_certified),
    QuoteCheck("quote.ak-name", _ak_name),
    QuoteCheck("quote.ak-signer", _ak_signer),
    QuoteCheck("quote.ak-signature", _ak_signature),
)
"""Where another key than the IAK has signed."""

QUOTE_CHECKS: Final = (
    QuoteCheck("quote.magic", _magic),
    QuoteCheck("quote.type", _type),
    QuoteCheck("quote.form", _form),
    QuoteCheck("quote.scheme", _scheme),
    QuoteCheck("quote.signature", _signature),
    QuoteCheck("quote.signer", _field(_signer)),
    QuoteCheck("quote.nonce", _field(_nonce)),
    QuoteCheck("quote.pcr-values", _pcr_values),
    QuoteCheck("quote.pcr-selection", _field(_pcr_selection)),
    QuoteCheck("quote.pcr-digest", _field(_pcr_digest)),
    QuoteCheck("quote.pcrs", _expected_pcrs),
    QuoteCheck("quote.clock-safe", _field(_clock_safe)),
)
"""Of every quote."""

FIRMWARE: Final = QuoteCheck("quote.firmware", _field(_firmware))
"""Where a certificate states a version."""

SAME_EK: Final = QuoteCheck("quote.same-ek", _same_ek)
SAME_IDEVID: Final = QuoteCheck("quote.same-idevid", _same_idevid)
"""Where these certificates were given."""
