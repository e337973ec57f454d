"""Whether an attestation is what it says: the KBS's use of the SEV-SNP verifier."""

from dataclasses import dataclass
from datetime import datetime

from ca_service.evidence.snp import (
    AUTHENTICITY,
    CONFIGURATION,
    Collateral,
    SnpEvidence,
    amd_roots,
    simulated_roots,
)
from ca_service.judgment import judge_all, judge_until_failure
from vtpm.kbs.errors import RcarError
from vtpm.kbs.policy import ReleasePolicy
from vtpm.wire.certtable import CertKind
from vtpm.wire.rcar import Attestation, kbs_report_data
from vtpm.wire.report import Report


def _refused(rule: str) -> RcarError:
    # The rule, which is public knowledge, but neither what was found nor what would have been accepted.
    return RcarError(
        "AttestationError", f"Attestation error: RCAR handshake Attest failed: {rule}", rule=rule
    )


@dataclass(frozen=True)
class Verified:
    """What a verified attestation shows.

    Attributes:
        report: genuine, fresh and this session's.
        simulated: whether the simulated platform made it.
    """

    report: Report
    simulated: bool


def verify(attestation: Attestation, nonce: str, policy: ReleasePolicy, at: datetime) -> Verified:
    """Verify that an attestation is genuine, fresh and this session's.

    Its measurement is not judged here; see `ReleasePolicy.measurements`.

    Args:
        attestation: as received.
        nonce: the session's challenge.
        policy: says whether the simulated platform's roots count.
        at: time at which certificates must be valid, aware.

    Raises:
        RcarError: an AttestationError with the rule that said no.
    """
    if attestation.nonce != nonce:
        raise _refused("kbs.nonce")
    report = Report.parse(attestation.report)
    evidence = SnpEvidence(
        report=report,
        roots=amd_roots() + (simulated_roots() if policy.simulated else ()),
        at=at,
        offered=Collateral.of_table({CertKind(kind): der for kind, der in attestation.chain}),
    )
    authenticity = judge_until_failure(AUTHENTICITY, evidence)
    trace = authenticity + judge_all(CONFIGURATION, evidence) if authenticity.admitted else authenticity
    if not authenticity.admitted or not trace.admitted:
        raise _refused(trace.refusal.rule if trace.refusal else "snp.no-check")
    # The VMPL also decides for the KBS, whatever the verifier's configuration checks are: lower levels are the guest's.
    if report.vmpl != 0:
        raise _refused("snp.vmpl")
    if report.report_data != kbs_report_data(nonce, attestation.tee):
        raise _refused("kbs.report-data")
    return Verified(report, simulated=evidence.root is None or evidence.root.simulated)
