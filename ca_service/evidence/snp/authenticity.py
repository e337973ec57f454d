"""The checks that make a report authentic: an AMD processor of a known kind signed these very bytes.

They stop at the first failure, because each one relies on those before it. What the report says about the VM is
judged in `configuration`. Sources: AMD 56860 (report), AMD 57230 (certificates).
"""

from dataclasses import dataclass
from typing import Final

from ca_service.evidence.snp.endorsement import ENDORSEMENT
from ca_service.evidence.snp.evidence import P384_ORDER, SnpEvidence, verifies
from ca_service.evidence.snp.form import FORM
from ca_service.judgment import Checks, Finding, Timeless, failed, passed
from vtpm.wire.certtable import CertKind
from vtpm.wire.report import SIGNED_SIZE

_SIGNATURE_END: Final = SIGNED_SIZE + 2 * 72


@dataclass(frozen=True)
class _Tcb(Timeless):
    """The certificate is for REPORTED_TCB, byte by byte; the other TCBs of the report may differ from it."""

    id: str = "snp.tcb"

    def judge(self, subject: SnpEvidence) -> Finding:
        leaf, product = subject.leaf, subject.product
        certified = leaf.tcb(product) if leaf is not None and product is not None else None
        reported = subject.report.reported_tcb
        if certified != reported:
            return failed(
                self,
                "the certificate is for another TCB than the report's",
                expected=reported.hex(),
                actual=certified.hex() if certified is not None else "",
            )
        return passed(self, actual=reported.hex())


@dataclass(frozen=True)
class _Hwid(Timeless):
    """A VCEK's certificate is for the chip that the report names; a platform that masks its chip id is refused.

    A VLEK is a provider's and not a chip's: its certificate names none, and some of its platforms mask theirs.
    """

    id: str = "snp.hwid"

    def judge(self, subject: SnpEvidence) -> Finding:
        chip_id = subject.report.chip_id
        if subject.kind is CertKind.VLEK:
            return passed(self, actual="a VLEK names no chip")
        hwid = subject.leaf.hwid if subject.leaf is not None else None
        if not any(chip_id):
            return failed(self, "the report names no chip", expected="a chip id", actual="zeros")
        if not hwid or hwid.ljust(len(chip_id), b"\0") != chip_id:
            return failed(
                self,
                "the certificate is for another chip than the report's",
                expected=chip_id.hex(),
                actual=(hwid or b"").hex(),
            )
        return passed(self)


@dataclass(frozen=True)
class _Signature(Timeless):
    """The signature holds over the raw bytes, r and s in range, and the unsigned rest of the field is zero."""

    id: str = "snp.signature"

    def judge(self, subject: SnpEvidence) -> Finding:
        report, leaf = subject.report, subject.leaf
        if leaf is None or leaf.public_key is None:
            return failed(
                self,
                "there is no key on P-384 to verify the report with",
                expected="a certificate of a key on P-384",
                actual="no certificate" if leaf is None else f"{leaf.common_name}, a key of another kind",
            )
        if not (1 <= report.signature_r < P384_ORDER and 1 <= report.signature_s < P384_ORDER):
            return failed(
                self,
                "the report's signature is out of range",
                expected="r and s from 1 to the order of P-384 less 1",
                actual=f"r {report.signature_r:#x}, s {report.signature_s:#x}",
            )
        if report.raw[_SIGNATURE_END:].strip(b"\0"):
            used = next(i for i, byte in enumerate(report.raw[_SIGNATURE_END:], _SIGNATURE_END) if byte)
            return failed(
                self,
                "the unsigned end of the report is not zero",
                expected=f"zeros from byte {_SIGNATURE_END} on",
                actual=f"{report.raw[used]:#04x} in byte {used}",
            )
        if not verifies(leaf, report):
            return failed(
                self,
                "the report's signature does not hold",
                expected=f"a signature by the key of {leaf.common_name}",
                actual="none that verifies",
            )
        return passed(self)


AUTHENTICITY: Checks[SnpEvidence] = Checks((*FORM, *ENDORSEMENT, _Tcb(), _Hwid(), _Signature()))
"""In their order; run them with `judge_until_failure`."""
