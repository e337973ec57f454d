"""The checks on a report's form: whether its bytes mean what this verifier takes them to mean.

Source: AMD 56860, table ATTESTATION_REPORT. They look at bytes that nobody vouches for yet; that the processor
signed them is for `authenticity` to find.
"""

from dataclasses import dataclass
from typing import Final

from ca_service.evidence.snp.evidence import SnpEvidence
from ca_service.judgment import Check, Finding, Timeless, failed, passed

_VERSIONS: Final = range(2, 6)
_ECDSA_P384_SHA384: Final = 1
_NO_KEY: Final = 7
_MAX_VMPL: Final = 3


@dataclass(frozen=True)
class _Version(Timeless):
    """The report's layout is one that this verifier knows."""

    id: str = "snp.version"

    def judge(self, subject: SnpEvidence) -> Finding:
        version = subject.report.version
        if version not in _VERSIONS:
            return failed(
                self, "the report's version is not accepted", expected="2, 3, 4 or 5", actual=version
            )
        return passed(self, actual=version)


@dataclass(frozen=True)
class _SignatureAlgorithm(Timeless):
    """The report says that it is signed by ECDSA on P-384 with SHA-384; nothing else is defined."""

    id: str = "snp.signature-algorithm"

    def judge(self, subject: SnpEvidence) -> Finding:
        algorithm = subject.report.signature_algo
        if algorithm != _ECDSA_P384_SHA384:
            return failed(self, "the report's signature algorithm is unknown", expected=1, actual=algorithm)
        return passed(self)


@dataclass(frozen=True)
class _KeyKind(Timeless):
    """The report says that a VCEK or a VLEK signed it."""

    id: str = "snp.key-kind"

    def judge(self, subject: SnpEvidence) -> Finding:
        if subject.kind is None:
            number = subject.report.signing_key
            return failed(
                self,
                "the report is signed by neither a VCEK nor a VLEK",
                expected="VCEK (0) or VLEK (1)",
                actual="none (7)" if number == _NO_KEY else f"reserved ({number})",
            )
        return passed(self, actual=subject.kind)


@dataclass(frozen=True)
class _MaskChipKey(Timeless):
    """The platform does not withhold its signature (with MASK_CHIP_KEY the firmware writes zeros)."""

    id: str = "snp.mask-chip-key"

    def judge(self, subject: SnpEvidence) -> Finding:
        if subject.report.mask_chip_key:
            return failed(
                self,
                "the platform masks its chip key, so the report is not signed",
                expected="MASK_CHIP_KEY 0",
                actual="MASK_CHIP_KEY 1",
            )
        return passed(self)


@dataclass(frozen=True)
class _VmplRange(Timeless):
    """A guest asked for the report: it names a VMPL that exists. What a hypervisor asks for carries 0xffffffff."""

    id: str = "snp.vmpl-range"

    def judge(self, subject: SnpEvidence) -> Finding:
        vmpl = subject.report.vmpl
        if vmpl > _MAX_VMPL:
            return failed(self, "the report was not asked for by a guest", expected="0 to 3", actual=vmpl)
        return passed(self, actual=vmpl)


@dataclass(frozen=True)
class _Reserved(Timeless):
    """Nothing stands where this version of the report has nothing to say, so nothing is overlooked.

    PLATFORM_INFO is left out: processors of today set bits that published tables call reserved. The guest policy's
    bits are judged apart, in `configuration`.
    """

    id: str = "snp.reserved"

    def judge(self, subject: SnpEvidence) -> Finding:
        wrong = subject.report.reserved_nonzero()
        if wrong:
            return failed(self, "reserved fields of the report are in use", actual=", ".join(wrong))
        return passed(self)


FORM: tuple[Check[SnpEvidence], ...] = (
    _Version(),
    _SignatureAlgorithm(),
    _KeyKind(),
    _MaskChipKey(),
    _VmplRange(),
    _Reserved(),
)
"""In their order."""
