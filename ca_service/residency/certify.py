"""Checks of TPM2_Certify: the IAK says that the IDevID is in its TPM, now, and both in the endorsement hierarchy.

Source: TCG "TPM 2.0 Keys for Device Identity and Attestation" 1.0, section 6.2.2; TPM 2.0 Library, Part 1, section
16 (Names) and Part 2, section 10.12 (attestation structures). That the IAK itself is in the TPM of the EK is shown
afterwards by TPM2_ActivateCredential; until then its word counts for nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ca_service.judgment import Checks, Finding, Timeless, failed, passed
from ca_service.residency.attest import ATTEST_CERTIFY, MAGIC, Attest, CertifyInfo
from ca_service.residency.evidence import TpmEvidence
from vtpm.wire.errors import WireError
from vtpm.wire.templates import name, qualified_name

_ABSENT = "there is no readable TPM2_Certify structure"
_READABLE = "a TPMS_ATTEST of type Certify"


def _sent(part: bytes | None) -> str:
    return "nothing" if part is None else part.hex()


@dataclass(frozen=True)
class _Present(Timeless):
    """Structure and signature were sent."""

    id: str = "certify.present"

    def judge(self, subject: TpmEvidence) -> Finding:
        if subject.attest is None or subject.signature is None:
            return failed(
                self,
                "certify-required: new certificates need TPM2_Certify of the IDevID by the IAK",
                expected="certify.attest and certify.signature",
                actual="not both",
            )
        return passed(self)


@dataclass(frozen=True)
class _Form(Timeless):
    """Structure and signature are well-formed to the last byte, in their one encoding."""

    id: str = "certify.form"

    def judge(self, subject: TpmEvidence) -> Finding:
        if subject.certified is None or subject.certified.info is None:
            return failed(
                self,
                "certify.attest is no TPMS_ATTEST of type Certify, or not exactly one",
                expected="one TPMS_ATTEST of type Certify",
                actual=_sent(subject.attest),
            )
        if subject.signed is None or not subject.signed.numbers:
            return failed(
                self,
                "certify.signature is no TPMT_SIGNATURE of an IAK, or not exactly one",
                expected="one TPMT_SIGNATURE with ECDSA or RSAPSS",
                actual=_sent(subject.signature),
            )
        return passed(self)


@dataclass(frozen=True)
class _Head(Timeless):
    """A field in front of the structure, which is there whatever comes behind it, has the value it must have."""

    id: str
    wanted: int
    found: Callable[[Attest], int | None]
    reason: str

    def judge(self, subject: TpmEvidence) -> Finding:
        if subject.certified is None:
            return failed(self, _ABSENT, expected=hex(self.wanted), actual="nothing")
        found = self.found(subject.certified)
        if found != self.wanted:
            actual = "nothing" if found is None else hex(found)
            return failed(self, self.reason, expected=hex(self.wanted), actual=actual)
        return passed(self)


@dataclass(frozen=True)
class _Field(Timeless):
    """A field of the structure equals what follows from the evidence; both as hex."""

    id: str
    wanted: Callable[[TpmEvidence], str]
    found: Callable[[CertifyInfo], str]
    reason: str

    def judge(self, subject: TpmEvidence) -> Finding:
        if subject.certified is None or subject.certified.info is None:
            return failed(self, _ABSENT, expected=_READABLE, actual=_sent(subject.attest))
        try:
            wanted = self.wanted(subject)
        except WireError as error:
            return failed(self, f"a key is malformed: {error}", actual=str(error))
        found = self.found(subject.certified.info)
        if not wanted or found != wanted:
            return failed(self, self.reason, expected=wanted, actual=found)
        return passed(self, actual=found)


@dataclass(frozen=True)
class _Scheme(Timeless):
    """The signature's scheme and hash are the IAK's own, fixed in its public area; the requester has no say."""

    id: str = "certify.scheme"

    def judge(self, subject: TpmEvidence) -> Finding:
        if subject.signed is None:
            return failed(
                self, "there is no signature of TPM2_Certify", expected="certify.signature", actual="nothing"
            )
        try:
            own = tuple(subject.statement.iak.area.scheme)
        except WireError as error:
            return failed(self, f"the IAK is malformed: {error}", actual=subject.statement.iak.public.hex())
        if subject.signed.scheme != own:
            return failed(
                self,
                "the signature's scheme or hash is not the IAK's own",
                expected=_algorithms(own),
                actual=_algorithms(subject.signed.scheme),
            )
        return passed(self, actual=_algorithms(own))


def _algorithms(scheme: tuple[int, ...] | None) -> str:
    return "nothing" if scheme is None else "/".join(f"{algorithm:04x}" for algorithm in scheme)


@dataclass(frozen=True)
class _SignatureHolds(Timeless):
    """The IAK signed the structure, under its own scheme: another key's or scheme's signature is none."""

    id: str = "certify.signature"

    def judge(self, subject: TpmEvidence) -> Finding:
        if subject.attest is None or subject.signed is None:
            return failed(
                self, "there is no signature of TPM2_Certify", expected="certify.signature", actual="nothing"
            )
        try:
            iak = subject.statement.iak.area
            key = iak.public_key()
        except WireError as error:
            return failed(self, f"the IAK is malformed: {error}", actual=subject.statement.iak.public.hex())
        if subject.signed.scheme != tuple(iak.scheme) or not subject.signed.holds(key, subject.attest):
            return failed(
                self,
                "the IAK did not sign this structure",
                expected=f"a signature by the IAK {name(subject.statement.iak.public).hex()}",
                actual=f"none that verifies, over {subject.attest.hex()}",
            )
        return passed(self)


CERTIFY_CHECKS: Checks[TpmEvidence] = Checks(
    (
        _Present(),
        _Form(),
        _Head("certify.magic", MAGIC, lambda attest: attest.magic, "the structure was not made by a TPM"),
        _Head(
            "certify.type",
            ATTEST_CERTIFY,
            lambda attest: attest.type,
            "the structure is not one of TPM2_Certify",
        ),
        _Field(
            "certify.qualifier",
            lambda subject: subject.qualifier.hex(),
            lambda info: info.extra_data.hex(),
            "the structure was not made for these runtime data",
        ),
        _Field(
            "certify.name",
            lambda subject: name(subject.statement.idevid.public).hex(),
            lambda info: info.name.hex(),
            "the certified key is not the IDevID",
        ),
        _Field(
            "certify.qualified-name",
            lambda subject: qualified_name(subject.statement.idevid.public).hex(),
            lambda info: info.qualified_name.hex(),
            "the IDevID is no primary key of the endorsement hierarchy",
        ),
        _Field(
            "certify.signer",
            lambda subject: qualified_name(subject.statement.iak.public).hex(),
            lambda info: info.qualified_signer.hex(),
            "the signer is not the IAK, or no primary key of the endorsement hierarchy",
        ),
        _Field(
            "certify.firmware",
            lambda subject: subject.statement.firmware,
            lambda info: f"{info.firmware:016x}",
            "the TPM's firmware version is not the stated one",
        ),
        _Scheme(),
        _SignatureHolds(),
    )
)
"""All that is demanded of the proof by TPM2_Certify; new certificates need it."""
