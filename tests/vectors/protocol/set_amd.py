"""The profiles of AMD's attestation protocol: bodies, malformed ones, and whole enrolments with the rules they fail."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fixed import (
    AUD,
    IAK_KEY,
    IAT,
    KBS,
    KBS_KEY,
    NOW,
    P521,
    RUNTIME_DATA,
    TPM,
    Attest,
    changed,
    grant,
    jwk,
    key,
    sign,
    statement,
    stream,
    tpm_signature,
)
from set_evidence import (
    ADMITTED,
    MEASUREMENT,
    MEASUREMENT_WITHOUT,
    NONCE,
    NONCE_EXPIRES,
    NONCE_KEY,
    PLATFORM,
    POLICY,
    REPORT,
    TABLE,
    UNKNOWN,
)

from ca_service.enrollment.nonces import make_nonce
from vtpm.wire.amd_evidence import (
    MAX_EVIDENCE_MANIFEST,
    MAX_KBS_SERVICE,
    SERVICES_PROFILE,
    VTPM_PROFILE,
    AmdBody,
    ServicesManifest,
    nonce64,
)
from vtpm.wire.aproxy import CHALLENGE, legacy_report_data
from vtpm.wire.encoding import b64url, canonical
from vtpm.wire.enrollment import Certify, EnrollmentRequest, Evidence, time_text
from vtpm.wire.jwk import EcJwk
from vtpm.wire.report import pack_report, pack_signature
from vtpm.wire.runtime_data import PROFILE, KbsStatement, certify_qualifier, report_data
from vtpm.wire.services import (
    KBS_SERVICE,
    SERVICES_GUID,
    UEFI_MM_SERVICE,
    VTPM_SERVICE,
    pack_services,
    services_report_data,
)
from vtpm.wire.templates import Role, name, qualified_name

EK = TPM.eks[0].public
OTHER_EK = statement(Role.EK, "H-3", "/other").public
ONE_EK = replace(TPM, eks=TPM.eks[:1])
MANIFEST = ServicesManifest(EK, KBS).pack()
KBS_JSON = canonical(KBS.to_json())
SERVICES = AmdBody(AUD, NONCE, MANIFEST, TPM)
VTPM = AmdBody(AUD, NONCE, EK, ONE_EK)
BOTH = {SERVICES_PROFILE: SERVICES, VTPM_PROFILE: VTPM}


def _report(changes: Mapping[str, object]) -> bytes:
    body = pack_report(**(REPORT | dict(changes)))
    return body + pack_signature(*sign(body, PLATFORM.vcek_key()))


@dataclass(frozen=True)
class Case:
    """An enrolment as it is built: each part from the one before, unless a change says otherwise."""

    profile: str = SERVICES_PROFILE
    body: AmdBody = SERVICES
    report: Mapping[str, object] = field(default_factory=dict)
    qualifier: bytes | None = None
    certify: bool = True

    def document(self) -> dict[str, dict[str, object]]:
        fields = {"measurement": MEASUREMENT_WITHOUT, "report_data": self.body.report_data()}
        attest = Attest(
            extra_data=self.qualifier or self.body.certify_qualifier(),
            qualified_signer=qualified_name(self.body.tpm.iak.public),
            name=name(self.body.tpm.idevid.public),
            qualified_name=qualified_name(self.body.tpm.idevid.public),
        ).pack()
        request = EnrollmentRequest(
            Evidence(self.profile, b"", _report(fields | dict(self.report)), TABLE, amd=self.body),
            Certify(attest, tpm_signature(attest, IAK_KEY)) if self.certify else None,
        )
        return json.loads(json.dumps(request.to_json()))


def _manifest(kbs: KbsStatement | None, ek: bytes = EK) -> AmdBody:
    return replace(SERVICES, manifest=ServicesManifest(ek, kbs).pack())


def _services(*services: tuple[object, bytes]) -> str:
    return b64url(pack_services(dict(services)))


def _twice() -> bytes:
    """The vTPM's entry over the KBS's: the same GUID in two entries."""
    spoilt = bytearray(MANIFEST)
    spoilt[48:64] = spoilt[24:40]
    return bytes(spoilt)


def _kbs(text: bytes) -> str:
    return _services((VTPM_SERVICE, EK), (KBS_SERVICE, text))


VALID = {
    "services-with-kbs": (SERVICES_PROFILE, SERVICES),
    "services-without-kbs": (SERVICES_PROFILE, _manifest(None)),
    "services-with-a-service-that-is-not-read": (
        SERVICES_PROFILE,
        replace(
            SERVICES,
            manifest=pack_services(
                {UEFI_MM_SERVICE: bytes(8), KBS_SERVICE: KBS_JSON, VTPM_SERVICE: EK},
            ),
        ),
    ),
    "vtpm-rsa": (VTPM_PROFILE, VTPM),
    "vtpm-ecc": (
        VTPM_PROFILE,
        replace(VTPM, manifest=TPM.eks[1].public, tpm=replace(TPM, eks=TPM.eks[1:])),
    ),
}

# name: (profile, members changed in `evidence`, path of the error); `...` removes a member
INVALID: dict[str, tuple[str, dict[str, object], str]] = {
    "unknown-version": (VTPM_PROFILE, {"profile": "amd-svsm-vtpm:1"}, "profile"),
    "runtime-data-beside": (
        SERVICES_PROFILE,
        {"runtime_data": b64url(RUNTIME_DATA.canonical())},
        "runtime_data",
    ),
    "kbs-beside": (SERVICES_PROFILE, {"kbs": KBS.to_json()}, "kbs"),
    "store-beside": (VTPM_PROFILE, {"store": RUNTIME_DATA.store.to_json()}, "store"),
    "no-aud": (SERVICES_PROFILE, {"aud": ...}, "aud"),
    "aud-not-ascii": (SERVICES_PROFILE, {"aud": "cä"}, "aud"),
    "nonce-257-characters": (VTPM_PROFILE, {"nonce": "n" * 257}, "nonce"),
    "no-manifest": (VTPM_PROFILE, {"manifest": ...}, "manifest"),
    "manifest-empty": (VTPM_PROFILE, {"manifest": ""}, "manifest"),
    "manifest-16385-bytes": (
        SERVICES_PROFILE,
        {"manifest": b64url(bytes(MAX_EVIDENCE_MANIFEST + 1))},
        "manifest",
    ),
    "no-tpm": (SERVICES_PROFILE, {"tpm": ...}, "tpm"),
    "tpm-with-a-grant": (SERVICES_PROFILE, {"tpm.grant": KBS.grant}, "tpm.grant"),
    "iak-cut": (VTPM_PROFILE, {"tpm.iak.pub": b64url(TPM.iak.public[:-1])}, "tpm.iak.pub.unique.y"),
    "services-manifest-is-a-bare-ek": (SERVICES_PROFILE, {"manifest": b64url(EK)}, "manifest"),
    "guid-of-the-manifest-in-network-order": (
        SERVICES_PROFILE,
        {"manifest": b64url(SERVICES_GUID.bytes + MANIFEST[16:])},
        "manifest",
    ),
    "bytes-after-the-last-service": (SERVICES_PROFILE, {"manifest": b64url(MANIFEST + b"\0")}, "manifest"),
    "service-twice": (SERVICES_PROFILE, {"manifest": b64url(_twice())}, "manifest[1]"),
    "no-vtpm-service": (SERVICES_PROFILE, {"manifest": _services((KBS_SERVICE, KBS_JSON))}, "manifest"),
    "vtpm-service-empty": (
        SERVICES_PROFILE,
        {"manifest": _services((VTPM_SERVICE, b""))},
        "manifest.vtpm.type",
    ),
    "vtpm-service-of-version-1": (
        SERVICES_PROFILE,
        {"manifest": _services((VTPM_SERVICE, (1).to_bytes(4, "little") + EK))},
        "manifest.vtpm.type",
    ),
    "vtpm-service-with-a-byte-more": (
        SERVICES_PROFILE,
        {"manifest": _services((VTPM_SERVICE, EK + b"\0"))},
        "manifest.vtpm",
    ),
    "kbs-service-empty": (SERVICES_PROFILE, {"manifest": _kbs(b"")}, "manifest.kbs"),
    "kbs-service-not-canonical": (
        SERVICES_PROFILE,
        {"manifest": _kbs(KBS_JSON.replace(b":", b": ", 1))},
        "manifest.kbs",
    ),
    "kbs-service-with-a-secret": (
        SERVICES_PROFILE,
        {"manifest": _kbs(canonical({**KBS.to_json(), "secret": "x"}))},
        "manifest.kbs.secret",
    ),
    "kbs-service-without-grant": (
        SERVICES_PROFILE,
        {"manifest": _kbs(canonical({"jwk": KBS.jwk.members()}))},
        "manifest.kbs.grant",
    ),
    "kbs-service-of-8193-bytes": (
        SERVICES_PROFILE,
        {"manifest": _kbs(KBS_JSON + b" " * (MAX_KBS_SERVICE + 1 - len(KBS_JSON)))},
        "manifest.kbs",
    ),
    "kbs-key-p521": (
        SERVICES_PROFILE,
        {
            "manifest": _kbs(
                canonical({"jwk": jwk(key("kbs/p521", P521)).members(), "grant": KBS.grant}),
            )
        },
        "manifest.kbs.jwk.crv",
    ),
    "grant-with-an-unknown-claim": (
        SERVICES_PROFILE,
        {"manifest": b64url(_manifest(KbsStatement(KBS.jwk, grant({"aud": "x"}))).manifest)},
        "manifest.kbs.grant.claims.aud",
    ),
    "ek-with-size-prefix": (
        VTPM_PROFILE,
        {"manifest": b64url(len(EK).to_bytes(2, "big") + EK)},
        "manifest.type",
    ),
    "ek-with-a-byte-more": (VTPM_PROFILE, {"manifest": b64url(EK + b"\0")}, "manifest"),
    "services-called-vtpm": (SERVICES_PROFILE, {"profile": VTPM_PROFILE}, "manifest"),
    "small-services-called-vtpm": (
        SERVICES_PROFILE,
        {"profile": VTPM_PROFILE, "manifest": _services((VTPM_SERVICE, EK))},
        "manifest.type",
    ),
    "vtpm-called-services": (VTPM_PROFILE, {"profile": SERVICES_PROFILE}, "manifest"),
    "services-called-profile-1": (SERVICES_PROFILE, {"profile": PROFILE}, "runtime_data"),
    "profile-1-called-services": (PROFILE, {"profile": SERVICES_PROFILE}, "aud"),
    "profile-1-called-vtpm": (PROFILE, {"profile": VTPM_PROFILE}, "aud"),
}

FOREIGN = replace(SERVICES, aud="ca.other.example")
NONCE_OF_ANOTHER = make_nonce(stream("nonce key of another CA", 32), AUD, NONCE_EXPIRES, stream("other", 16))
SECOND_NONCE = make_nonce(NONCE_KEY, AUD, NONCE_EXPIRES, stream("second nonce", 16))
CERTIFY_RULES = tuple(
    f"certify.{rule}"
    for rule in (
        "present",
        "form",
        "magic",
        "type",
        "qualifier",
        "name",
        "qualified-name",
        "signer",
        "firmware",
        "scheme",
        "signature",
    )
)
KBS_RULES = tuple(
    f"kbs.{rule}" for rule in ("listed", "status", "valid", "resource", "origin", "release-policy")
)
ORACLE = {
    "measurement": MEASUREMENT,
    "report_data": legacy_report_data(
        [CHALLENGE], EcJwk.from_key(key("svsm", P521).public_key()), nonce64(AUD, NONCE) + MANIFEST
    ),
}


def _claims(private: object = KBS_KEY, **claims: object) -> AmdBody:
    return _manifest(KbsStatement(jwk(private), grant(claims, private=private)))


AMD_POLICY = (
    POLICY.replace('capabilities = ["oracle-free"]', 'capabilities = ["oracle-free", "verifies-grants"]')
    + f"""
[ephemeral]
days = 7
profiles = ["{SERVICES_PROFILE}", "{VTPM_PROFILE}"]
"""
)

ADMITTED_CASES = {
    "services": Case(),
    "vtpm": Case(VTPM_PROFILE, VTPM),
    "services-with-a-service-that-is-not-read": Case(
        body=VALID["services-with-a-service-that-is-not-read"][1]
    ),
}

# name: (enrolment, rules that fail, in their order)
REFUSED: dict[str, tuple[Case, tuple[str, ...]]] = {
    "services-without-kbs": (Case(body=_manifest(None)), ("profile.grant-present",)),
    "vtpm-with-two-eks": (
        Case(VTPM_PROFILE, replace(VTPM, tpm=TPM)),
        ("profile.single-ek",),
    ),
    "manifest-of-another-tpm": (
        Case(body=_manifest(KBS, OTHER_EK)),
        ("profile.ek-in-manifest",),
    ),
    "vtpm-of-another-tpm": (
        Case(VTPM_PROFILE, replace(VTPM, manifest=OTHER_EK)),
        ("profile.ek-in-manifest",),
    ),
    "the-manifests-ek-in-second-place": (
        Case(body=replace(SERVICES, tpm=replace(TPM, eks=TPM.eks[::-1]))),
        ("profile.ek-in-manifest",),
    ),
    "for-another-ca": (Case(body=FOREIGN), ("nonce.audience",)),
    "nonce-of-another-ca": (Case(body=replace(SERVICES, nonce=NONCE_OF_ANOTHER)), ("nonce.genuine",)),
    "report-for-another-ca": (
        Case(report={"report_data": FOREIGN.report_data()}),
        ("evidence.report-data",),
    ),
    "report-for-another-nonce": (
        Case(report={"report_data": replace(SERVICES, nonce=SECOND_NONCE).report_data()}),
        ("evidence.report-data",),
    ),
    "report-over-the-nonce-as-it-stands": (
        Case(report={"report_data": hashlib.sha512(NONCE.encode() + MANIFEST).digest()}),
        ("evidence.report-data",),
    ),
    "single-service-form-called-services": (
        Case(report={"report_data": services_report_data(nonce64(AUD, NONCE), EK)}),
        ("evidence.report-data",),
    ),
    "services-form-called-vtpm": (
        Case(VTPM_PROFILE, VTPM, {"report_data": services_report_data(nonce64(AUD, NONCE), MANIFEST)}),
        ("evidence.report-data",),
    ),
    "report-of-profile-1": (
        Case(report={"report_data": report_data(RUNTIME_DATA.canonical())}),
        ("evidence.report-data",),
    ),
    "report-data-of-profile-1-over-the-manifest": (
        Case(report={"report_data": report_data(nonce64(AUD, NONCE) + MANIFEST)}),
        ("evidence.report-data",),
    ),
    "certify-of-another-statement": (
        Case(qualifier=replace(SERVICES, tpm=replace(TPM, vendor="other")).certify_qualifier()),
        ("certify.qualifier",),
    ),
    "certify-for-another-manifest": (
        Case(qualifier=_manifest(None).certify_qualifier()),
        ("certify.qualifier",),
    ),
    "certify-of-profile-1": (
        Case(qualifier=certify_qualifier(RUNTIME_DATA.canonical())),
        ("certify.qualifier",),
    ),
    "no-certify": (Case(certify=False), CERTIFY_RULES),
    "forged-by-the-signing-oracle": (Case(report=ORACLE), ("launch.capabilities",)),
    "asked-for-by-the-guest-itself": (
        Case(report={"vmpl": 2}),
        ("snp.vmpl", "launch.measurement"),
    ),
    "grant-of-another-launch": (
        Case(body=_claims(report_id="00" * 32)),
        ("grant.report-id",),
    ),
    "grant-older-than-an-hour": (
        Case(body=_claims(iat=IAT - 3600, exp=IAT - 3300)),
        ("grant.age",),
    ),
    "unknown-kbs": (Case(body=_claims(UNKNOWN)), KBS_RULES),
    "grant-by-another-key-than-stated": (
        Case(body=_manifest(KbsStatement(jwk(KBS_KEY), grant(private=UNKNOWN)))),
        ("grant.key", *KBS_RULES),
    ),
}

BASES = {profile: Case(profile, body).document() for profile, body in BOTH.items()}
ALL_BASES = {PROFILE: ADMITTED, **BASES}


def _valid(case: str, profile: str, body: AmdBody) -> dict[str, object]:
    return {
        "name": case,
        "profile": profile,
        "body": body.to_json(),
        "nonce64": nonce64(body.aud, body.nonce).hex(),
        "report_data": body.report_data().hex(),
        "certify_extra_data": body.certify_qualifier().hex(),
        "ek": (
            ServicesManifest.parse(body.manifest).ek if profile == SERVICES_PROFILE else body.manifest
        ).hex(),
        "kbs": ServicesManifest.parse(body.manifest).kbs is not None
        if profile == SERVICES_PROFILE
        else False,
    }


def _invalid(case: str, profile: str, changes: dict[str, object], path: str) -> dict[str, object]:
    base = ALL_BASES[profile]["evidence"]
    if changed(base, changes) == base:
        raise ValueError(f"the case {case} changes nothing")
    members = {member: None if value is ... else value for member, value in changes.items()}
    return {"name": case, "base": profile, "changes": members, "path": f"evidence.{path}"}


def _enrolment(case: str, built: Case) -> dict[str, object]:
    base, document = BASES[built.profile], built.document()
    changes: dict[str, object] = {}
    for part, members in base.items():
        for member, value in members.items():
            if part not in document:
                changes[part] = None
            elif document[part][member] != value:
                changes[f"{part}.{member}"] = document[part][member]
    return {"name": case, "base": built.profile, "changes": changes}


def _refused(case: str, built: Case, failed: tuple[str, ...]) -> dict[str, object]:
    return {**_enrolment(case, built), "failed": list(failed)}


def make() -> dict[str, object]:
    """The file amd_evidence.json."""
    return {
        "about": (
            "`valid`: bodies with what follows from them. `invalid`: `changes` in the evidence of the request `base`"
            " (null: leaves the member out) make it malformed at `path`; base svsm-vtpm-ca:1 is the request of"
            " evidence.json. `admitted`: with `changes`, the request is admitted for an ephemeral certificate."
            " `refused`: with `changes`, the request is well-formed and fails by exactly the rules of"
            " `failed`, in that order, at a CA with this id, nonce key, policy and the simulated root, at `at`."
        ),
        "services": {"vtpm": str(VTPM_SERVICE), "kbs": str(KBS_SERVICE)},
        "ca_id": AUD,
        "mode": "simulation",
        "nonce_key": NONCE_KEY.hex(),
        "at": time_text(NOW),
        "policy": AMD_POLICY,
        "valid": [_valid(case, profile, body) for case, (profile, body) in VALID.items()],
        "requests": BASES,
        "invalid": [_invalid(case, *vector) for case, vector in INVALID.items()],
        "admitted": [_enrolment(case, built) for case, built in ADMITTED_CASES.items()],
        "refused": [_refused(case, built, failed) for case, (built, failed) in REFUSED.items()],
    }
