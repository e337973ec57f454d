"""Does what certificates are revoked by stand as the evidence has it? Who edits it keeps TPMs from being found."""

import hashlib

from ca_service.store import EvidenceFacts
from vtpm.wire.amd_evidence import SERVICES_PROFILE, ServicesManifest
from vtpm.wire.enrollment import EnrollmentRequest, Evidence
from vtpm.wire.errors import WireError
from vtpm.wire.report import CPUID_SINCE, Product, Report
from vtpm.wire.runtime_data import KbsStatement, RuntimeData, TpmStatement
from vtpm.wire.templates import name


def altered_facts(body: bytes, stored: EvidenceFacts) -> list[str]:
    """Names of the facts beside a request's body that are not what it says; of a body that cannot be read, none.

    The product of a report before version 3 is not compared: only a judge with AMD's certificates knows it.
    """
    try:
        said, product_known = _said(body)
    except WireError:
        return []
    return [
        fact
        for fact, value in vars(said).items()
        if getattr(stored, fact) != value and (fact != "product" or product_known)
    ]


def _said(body: bytes) -> tuple[EvidenceFacts, bool]:
    """What a request's evidence says, and whether that is all of the product that can be known; raises `WireError`."""
    evidence = EnrollmentRequest.parse(body).evidence
    report = Report.parse(evidence.report, "evidence.report")
    tpm, kbs = _statements(evidence)
    product = Product.from_cpuid(*report.cpuid[:2])
    ek_names = sorted(name(ek.public).hex() for ek in tpm.eks)
    facts = EvidenceFacts(
        measurement=report.measurement.hex(),
        chip_id=report.chip_id.hex() if any(report.chip_id) else None,
        kbs_key=None if kbs is None else kbs.jwk.thumbprint(),
        product=None if product is None else product.value,
        reported_tcb=report.reported_tcb.hex(),
        ek_set=hashlib.sha256("\n".join(ek_names).encode("ascii")).hexdigest(),
    )
    return facts, report.version >= CPUID_SINCE


def _statements(evidence: Evidence) -> tuple[TpmStatement, KbsStatement | None]:
    """TPM and key broker in the evidence, by its profile."""
    if evidence.amd is None:
        data = RuntimeData.parse(evidence.runtime_data, "evidence.runtime_data")
        return data.tpm, data.kbs
    if evidence.profile != SERVICES_PROFILE:
        return evidence.amd.tpm, None
    return evidence.amd.tpm, ServicesManifest.parse(evidence.amd.manifest, "evidence.manifest").kbs
