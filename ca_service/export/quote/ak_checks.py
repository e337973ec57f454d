"""The checks of an attestation key that has signed in the IAK's place.

Sources: TPM 2.0 Library, Part 1, section 31 (attestation); Part 2, section 8.3 (TPMA_OBJECT); Part 3, section 18.2
(TPM2_Certify).
"""

from typing import Final

from ca_service.export.quote.check import QuoteCheck, Wrong, no_key, number_text, signature_of
from ca_service.export.quote.subject import QuoteSubject
from ca_service.residency.attest import ATTEST_CERTIFY, MAGIC

_SET: Final = 0x00050032  # sign, restricted, sensitiveDataOrigin, fixedParent, fixedTPM
_CLEAR: Final = 0x00020000  # decrypt


def _ak_form(s: QuoteSubject) -> Wrong | None:
    if s.ak_key is not None:
        return None
    return Wrong(
        "the attestation key is no TPM2B_PUBLIC or TPMT_PUBLIC of RSA from 2,048 bits on or a NIST curve"
    )


def _ak_attributes(s: QuoteSubject) -> Wrong | None:
    """Only a restricted key of the TPM's own never signs a statement that somebody else has made up."""
    if s.ak_key is None:
        return no_key(s)
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
    actual = "nothing" if attest is None else f"{number_text(attest.magic)}, {number_text(attest.type)}"
    return Wrong(
        "there is no TPMS_ATTEST of TPM2_Certify about the attestation key",
        f"{number_text(MAGIC)}, {number_text(ATTEST_CERTIFY)}",
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
    return signature_of(
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
