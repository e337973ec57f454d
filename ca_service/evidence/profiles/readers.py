"""One reader per evidence profile: from the bytes of an enrolment to `Claims`. Forms only; nothing is judged here.

``docs/protocol.md``, section 6, specifies the profiles.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ca_service.evidence.profiles.claims import Claims
from vtpm.wire.amd_evidence import (
    SERVICES_PROFILE,
    VTPM_PROFILE,
    AmdBody,
    ServicesManifest,
    parse_vtpm_manifest,
)
from vtpm.wire.enrollment import Evidence
from vtpm.wire.errors import WireError
from vtpm.wire.grant import Grant
from vtpm.wire.runtime_data import PROFILE, KbsStatement, RuntimeData, certify_qualifier, report_data

_RUNTIME_DATA = "evidence.runtime_data"
_MANIFEST = "evidence.manifest"


def _read_runtime_data(evidence: Evidence) -> Claims:
    """Profile ``svsm-vtpm-ca:1``; hashed is what was received, not what was read."""
    raw = evidence.runtime_data
    data = RuntimeData.parse(raw, _RUNTIME_DATA)
    return Claims(
        profile=PROFILE,
        aud=data.aud,
        nonce=data.nonce,
        tpm=data.tpm,
        report_data=report_data(raw),
        qualifier=certify_qualifier(raw),
        kbs=data.kbs,
        grant=Grant.parse(data.kbs.grant, f"{_RUNTIME_DATA}.kbs.grant"),
        store=data.store,
    )


def _read_services(evidence: Evidence) -> Claims:
    """Profile ``amd-svsm-services``: the manifest holds the EK, and may hold a key broker and its grant."""
    body = _amd(evidence)
    manifest = ServicesManifest.parse(body.manifest, _MANIFEST)
    return _amd_claims(SERVICES_PROFILE, body, manifest.ek, manifest.kbs)


def _read_vtpm(evidence: Evidence) -> Claims:
    """Profile ``amd-svsm-vtpm:0``: the manifest is the EK."""
    body = _amd(evidence)
    return _amd_claims(VTPM_PROFILE, body, parse_vtpm_manifest(body.manifest, _MANIFEST), None)


def _amd(evidence: Evidence) -> AmdBody:
    if evidence.amd is None:
        raise WireError(_MANIFEST, "is missing")
    return evidence.amd


def _amd_claims(profile: str, body: AmdBody, ek: bytes, kbs: KbsStatement | None) -> Claims:
    return Claims(
        profile=profile,
        aud=body.aud,
        nonce=body.nonce,
        tpm=body.tpm,
        report_data=body.report_data(),
        qualifier=body.certify_qualifier(),
        kbs=kbs,
        grant=None if kbs is None else Grant.parse(kbs.grant, f"{_MANIFEST}.kbs.grant"),
        manifest_ek=ek,
    )


_READERS: Mapping[str, Callable[[Evidence], Claims]] = MappingProxyType(
    {
        PROFILE: _read_runtime_data,
        SERVICES_PROFILE: _read_services,
        VTPM_PROFILE: _read_vtpm,
    }
)


def read(evidence: Evidence) -> Claims:
    """What the evidence claims, by its profile.

    Raises:
        WireError: the profile's body is malformed, or the profile is none that this CA reads; the path begins with
            ``evidence``.
    """
    reader = _READERS.get(evidence.profile)
    if reader is None:
        raise WireError("evidence.profile", "must be a profile that this CA reads")
    return reader(evidence)
