"""The checks on what an authentic report says: who asked, and whether the host can look inside.

They hold for every CA and every policy; which measurements, products and TCBs are wanted is the policy's to say.
Sources: AMD 56860, tables ATTESTATION_REPORT and guest policy.
"""

from dataclasses import dataclass
from typing import Final

from ca_service.evidence.snp.evidence import SnpEvidence
from ca_service.judgment import Checks, Finding, Timeless, failed, passed
from vtpm.wire.report import tcb_components

_POLICY_ONE: Final = 17
_POLICY_RESERVED: Final = 26


def _word(subject: SnpEvidence) -> str:
    return f"guest policy {subject.report.policy:#x}"


@dataclass(frozen=True)
class _Vmpl(Timeless):
    """VMPL 0 asked: with an SVSM measured into the VM, that is the SVSM and not the guest's kernel."""

    id: str = "snp.vmpl"

    def judge(self, subject: SnpEvidence) -> Finding:
        vmpl = subject.report.vmpl
        if vmpl != 0:
            return failed(self, "the report was not asked for at VMPL 0", expected=0, actual=vmpl)
        return passed(self)


@dataclass(frozen=True)
class _Debug(Timeless):
    """The host may not read and write the VM's memory (guest policy DEBUG)."""

    id: str = "snp.debug"

    def judge(self, subject: SnpEvidence) -> Finding:
        if subject.report.debug:
            return failed(
                self, "the guest policy allows debugging", expected="DEBUG 0", actual=_word(subject)
            )
        return passed(self)


@dataclass(frozen=True)
class _Migration(Timeless):
    """No migration agent may be associated with the VM (guest policy MIGRATE_MA): it could export its memory."""

    id: str = "snp.migration"

    def judge(self, subject: SnpEvidence) -> Finding:
        if subject.report.migrate_ma:
            return failed(
                self,
                "the guest policy allows a migration agent",
                expected="MIGRATE_MA 0",
                actual=_word(subject),
            )
        return passed(self)


@dataclass(frozen=True)
class _GuestPolicy(Timeless):
    """No bit of the guest policy is set that has no meaning here, and bit 17 is 1, as the firmware demands."""

    id: str = "snp.guest-policy"

    def judge(self, subject: SnpEvidence) -> Finding:
        policy = subject.report.policy
        wrong = [] if policy >> _POLICY_ONE & 1 else [f"bit {_POLICY_ONE} is 0"]
        if policy >> _POLICY_RESERVED:
            wrong.append(f"bits 63:{_POLICY_RESERVED} are in use")
        if wrong:
            return failed(self, "reserved bits of the guest policy are in use", actual=", ".join(wrong))
        return passed(self)


@dataclass(frozen=True)
class _TcbOrder(Timeless):
    """Neither the reported nor the committed TCB is above the current one, component by component."""

    id: str = "snp.tcb-order"

    def judge(self, subject: SnpEvidence) -> Finding:
        report, product = subject.report, subject.product
        if product is None:
            return failed(
                self,
                "the TCB's layout is not known without the product",
                expected="a known product",
                actual="none",
            )
        current = tcb_components(report.current_tcb, product)
        for name, raw in (("reported", report.reported_tcb), ("committed", report.committed_tcb)):
            for component, level in tcb_components(raw, product).items():
                if level > current[component]:
                    return failed(
                        self,
                        f"the {name} TCB is above the current one",
                        expected=f"{component} at most {current[component]}",
                        actual=level,
                    )
        return passed(self)


CONFIGURATION: Checks[SnpEvidence] = Checks((_Vmpl(), _Debug(), _Migration(), _GuestPolicy(), _TcbOrder()))
"""Run them with `judge_all`, on a report that is authentic."""
