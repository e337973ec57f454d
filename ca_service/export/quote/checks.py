"""The checks of a quote: each looks at one thing and says in one sentence what is wrong with it.

Sources: TPM 2.0 Library, Part 1, section 31 (attestation) and section 16 (Names); Part 3, section 18.4 (TPM2_Quote).
"""

import hmac
from typing import Final

from ca_service.export.quote.check import QuoteCheck, Wrong, no_key, number_text, of_structure, signature_of
from ca_service.export.quote.keys import SigningKey
from ca_service.export.quote.pcrs import chosen
from ca_service.export.quote.subject import QuoteSubject, named_ek
from ca_service.residency.attest import MAGIC
from ca_service.residency.quote import ATTEST_QUOTE, QuoteInfo
from ca_service.residency.signature import HASHES, KeySignature
from vtpm.wire.public_area import ALG_ECDSA, ALG_RSAPSS, ALG_RSASSA, Scheme

# --- the structure ---


def _magic(s: QuoteSubject) -> Wrong | None:
    if s.quoted.magic == MAGIC:
        return None
    return Wrong("no TPM has made it", number_text(MAGIC), number_text(s.quoted.magic))


def _type(s: QuoteSubject) -> Wrong | None:
    if s.quoted.type == ATTEST_QUOTE:
        return None
    return Wrong(
        "it is no quote but another statement", number_text(ATTEST_QUOTE), number_text(s.quoted.type)
    )


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


def _scheme(s: QuoteSubject) -> Wrong | None:
    return _scheme_of(s.key, s.signature) if s.key is not None else no_key(s)


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
        return no_key(s)
    whose = "the IAK" if s.ak is None else "the attestation key"
    return signature_of(s.key, s.signature, s.quote.attest, f"{whose} has not signed this quote")


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
    """A certificate states the first half of the version only, as tpmVersion of the TCG's names is made."""
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


QUOTE_CHECKS: Final = (
    QuoteCheck("quote.magic", _magic),
    QuoteCheck("quote.type", _type),
    QuoteCheck("quote.form", _form),
    QuoteCheck("quote.scheme", _scheme),
    QuoteCheck("quote.signature", _signature),
    QuoteCheck("quote.signer", of_structure(_signer)),
    QuoteCheck("quote.nonce", of_structure(_nonce)),
    QuoteCheck("quote.pcr-values", _pcr_values),
    QuoteCheck("quote.pcr-selection", of_structure(_pcr_selection)),
    QuoteCheck("quote.pcr-digest", of_structure(_pcr_digest)),
    QuoteCheck("quote.pcrs", _expected_pcrs),
    QuoteCheck("quote.clock-safe", of_structure(_clock_safe)),
)
"""Of every quote."""

FIRMWARE: Final = QuoteCheck("quote.firmware", of_structure(_firmware))
"""Where a certificate states a version."""

SAME_EK: Final = QuoteCheck("quote.same-ek", _same_ek)
SAME_IDEVID: Final = QuoteCheck("quote.same-idevid", _same_idevid)
"""Where these certificates were given."""
