"""Evidence of the AMD profiles out of what a guest gets from its SVSM: nothing here asks anybody for anything.

A guest asks for attestation with the nonce `nonce64`, through configfs-tsm for example, and gets report, manifest and
perhaps certificates. For ``amd-svsm-services`` it asks for all services, for ``amd-svsm-vtpm:0`` for the single
service `VTPM_SERVICE` in version 0. Then `amd_evidence` puts together what the CA takes.
"""

from vtpm.errors import VtpmError
from vtpm.wire.amd_evidence import (
    SERVICES_PROFILE,
    VTPM_PROFILE,
    AmdBody,
    ServicesManifest,
    nonce64,
    parse_vtpm_manifest,
)
from vtpm.wire.enrollment import Evidence, NonceReply
from vtpm.wire.errors import WireError
from vtpm.wire.report import Report
from vtpm.wire.services import VTPM_SERVICE
from vtpm.wire.statements import TpmStatement

__all__ = ["SERVICES_PROFILE", "VTPM_PROFILE", "VTPM_SERVICE", "amd_evidence", "nonce64"]


def amd_evidence(
    profile: str,
    nonce: NonceReply,
    tpm: TpmStatement,
    *,
    manifest: bytes,
    report: bytes,
    certificates: bytes | None = None,
) -> Evidence:
    """The evidence of one enrolment, held against itself first: what does not fit would only cost the nonce.

    Args:
        profile: `SERVICES_PROFILE` or `VTPM_PROFILE`.
        nonce: what the CA answered.
        tpm: the TPM's keys and properties; its first EK must be the one in the manifest.
        manifest: the SVSM's manifest, byte for byte.
        report: the SNP report over ``nonce64(nonce.aud, nonce.nonce)`` and the manifest, 1,184 bytes.
        certificates: AMD's GUID table, if the host supplied one.

    Returns:
        The evidence; what TPM2_Certify must carry is ``evidence.amd.certify_qualifier()``.

    Raises:
        VtpmError: no such profile, manifest or report is malformed, the report is over something else
            (``evidence.report-data``), or the EKs differ (``profile.ek-in-manifest``, ``profile.single-ek``).
    """
    body = AmdBody(nonce.aud, nonce.nonce, manifest, tpm)
    try:
        ek = _manifest_ek(profile, manifest)
        vouched = Report.parse(report, "report").report_data == body.report_data()
    except WireError as error:
        raise VtpmError(f"the SVSM's answer cannot be read: {error}") from error
    if not vouched:
        raise VtpmError(
            "the report is not over this nonce and this manifest",
            rule="evidence.report-data",
            remedy="Ask the SVSM with the nonce that nonce64 makes, and for the form that the profile names.",
        )
    if tpm.eks[0].public != ek:
        raise VtpmError("the first EK is not the one in the SVSM's manifest", rule="profile.ek-in-manifest")
    if profile == VTPM_PROFILE and len(tpm.eks) != 1:
        raise VtpmError("this profile takes exactly one EK", rule="profile.single-ek")
    return Evidence(profile, b"", report, certificates, amd=body)


def _manifest_ek(profile: str, manifest: bytes) -> bytes:
    if profile == SERVICES_PROFILE:
        return ServicesManifest.parse(manifest, "manifest").ek
    if profile == VTPM_PROFILE:
        return parse_vtpm_manifest(manifest, "manifest")
    raise VtpmError(f"there is no profile {profile!r} of AMD's protocol")
