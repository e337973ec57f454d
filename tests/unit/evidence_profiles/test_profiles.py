"""One reader per profile behind one interface, and the rules that a profile adds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_service.evidence.profiles import (
    ISSUED_PROFILES,
    PROFILE_ISSUED,
    Claims,
    is_ephemeral,
    profile_checks,
    read,
    readers,
)
from ca_service.judgment import Verdict, judge_all
from ca_service.policy.judging.checks import PROFILE_CAPABILITIES
from vtpm.wire.amd_evidence import SERVICES_PROFILE, VTPM_PROFILE, ServicesManifest
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import EVIDENCE_PROFILES, EnrollmentRequest
from vtpm.wire.errors import WireError
from vtpm.wire.grant import Grant
from vtpm.wire.runtime_data import PROFILE, RuntimeData, certify_qualifier, report_data

FOLDER = Path(__file__).parents[2] / "vectors" / "protocol"


def load(file):
    return json.loads((FOLDER / file).read_text())


REQUESTS = {**load("amd_evidence.json")["requests"], PROFILE: load("evidence.json")["request"]}
EVIDENCE = {p: EnrollmentRequest.parse(canonical(r)).evidence for p, r in REQUESTS.items()}
CLAIMS = {profile: read(evidence) for profile, evidence in EVIDENCE.items()}


def failed(claims: Claims) -> list[str]:
    trace = judge_all(profile_checks(claims.profile), claims)
    return [finding.rule for finding in trace.findings if finding.verdict is Verdict.FAILED]


def test_every_profile_that_may_come_has_a_reader_rules_and_needed_capabilities():
    assert set(readers._READERS) == set(EVIDENCE_PROFILES) == set(PROFILE_CAPABILITIES)
    for profile in EVIDENCE_PROFILES:
        assert profile_checks(profile)[0].id == PROFILE_ISSUED


def test_profile_1():
    evidence, claims = EVIDENCE[PROFILE], CLAIMS[PROFILE]
    data = RuntimeData.parse(evidence.runtime_data)
    assert claims == Claims(
        profile=PROFILE,
        aud=data.aud,
        nonce=data.nonce,
        tpm=data.tpm,
        report_data=report_data(evidence.runtime_data),
        qualifier=certify_qualifier(evidence.runtime_data),
        kbs=data.kbs,
        grant=Grant.parse(data.kbs.grant),
        store=data.store,
    )


def test_services():
    body = EVIDENCE[SERVICES_PROFILE].amd
    manifest = ServicesManifest.parse(body.manifest)
    assert CLAIMS[SERVICES_PROFILE] == Claims(
        profile=SERVICES_PROFILE,
        aud=body.aud,
        nonce=body.nonce,
        tpm=body.tpm,
        report_data=body.report_data(),
        qualifier=body.certify_qualifier(),
        kbs=manifest.kbs,
        grant=Grant.parse(manifest.kbs.grant),
        manifest_ek=manifest.ek,
    )


def test_the_vtpm_alone():
    body = EVIDENCE[VTPM_PROFILE].amd
    assert CLAIMS[VTPM_PROFILE] == Claims(
        profile=VTPM_PROFILE,
        aud=body.aud,
        nonce=body.nonce,
        tpm=body.tpm,
        report_data=body.report_data(),
        qualifier=body.certify_qualifier(),
        manifest_ek=body.manifest,
    )


def test_a_profile_that_nobody_reads():
    with pytest.raises(WireError) as caught:
        read(replace(EVIDENCE[PROFILE], profile="svsm-vtpm-session:1"))
    assert caught.value.path == "evidence.profile"


def test_certificates_are_issued_on_every_profile_that_is_read():
    assert set(ISSUED_PROFILES) == set(CLAIMS) == set(EVIDENCE_PROFILES)
    assert {profile: failed(claims) for profile, claims in CLAIMS.items()} == {
        PROFILE: [],
        SERVICES_PROFILE: [],
        VTPM_PROFILE: [],
    }


class TestWhatIsEphemeral:
    def test_only_a_stated_persistent_store_is_not(self):
        assert {profile: is_ephemeral(claims) for profile, claims in CLAIMS.items()} == {
            PROFILE: False,
            SERVICES_PROFILE: True,
            VTPM_PROFILE: True,
        }

    @pytest.mark.parametrize("mode", ["volatile", "", "Persistent"])
    def test_another_store_is(self, mode):
        claims = CLAIMS[PROFILE]
        assert is_ephemeral(replace(claims, store=replace(claims.store, mode=mode)))

    def test_no_store_is(self):
        assert is_ephemeral(replace(CLAIMS[PROFILE], store=None))

    @pytest.mark.parametrize("profile", [SERVICES_PROFILE, VTPM_PROFILE, "svsm-vtpm-ca:2", ""])
    def test_another_profile_is_whatever_else_it_states(self, profile):
        assert is_ephemeral(replace(CLAIMS[PROFILE], profile=profile))


@pytest.mark.parametrize("profile", ["", "svsm-vtpm-ca:2", "amd-svsm-vtpm:1"])
def test_an_unknown_profile_is_refused(profile):
    assert failed(replace(CLAIMS[PROFILE], profile=profile)) == ["profile.issued"]


OTHER = CLAIMS[SERVICES_PROFILE].tpm.eks[1]


@pytest.mark.parametrize(
    ("profile", "changes", "rule"),
    [
        (SERVICES_PROFILE, {"manifest_ek": OTHER.public}, "profile.ek-in-manifest"),
        (SERVICES_PROFILE, {"manifest_ek": None}, "profile.ek-in-manifest"),
        (SERVICES_PROFILE, {"kbs": None, "grant": None}, "profile.grant-present"),
        (VTPM_PROFILE, {"manifest_ek": OTHER.public}, "profile.ek-in-manifest"),
        (VTPM_PROFILE, {"manifest_ek": None}, "profile.ek-in-manifest"),
        (VTPM_PROFILE, {"tpm": CLAIMS[SERVICES_PROFILE].tpm}, "profile.single-ek"),
    ],
)
def test_what_breaks_a_rule_of_the_profile(profile, changes, rule):
    assert failed(replace(CLAIMS[profile], **changes)) == [rule]


def test_the_manifests_ek_must_be_the_naming_one():
    tpm = CLAIMS[SERVICES_PROFILE].tpm
    turned = replace(CLAIMS[SERVICES_PROFILE], tpm=replace(tpm, eks=tpm.eks[::-1]))
    assert failed(turned) == ["profile.ek-in-manifest"]


def test_the_requester_is_told_no_key():
    """Reasons are shown to whoever asks; the keys compared are the operator's to see."""
    claims = replace(CLAIMS[SERVICES_PROFILE], manifest_ek=OTHER.public, grant=None)
    for finding in judge_all(profile_checks(claims.profile), claims).findings:
        assert finding.reason.isascii()
        assert len(finding.reason) < 200
        assert OTHER.public.hex() not in finding.reason


@given(st.sampled_from([SERVICES_PROFILE, VTPM_PROFILE]), st.binary(min_size=1, max_size=300), st.data())
def test_readers_raise_wire_errors_only(profile, noise, data):
    evidence = EVIDENCE[profile]
    at = data.draw(st.integers(0, len(evidence.amd.manifest)))
    manifest = evidence.amd.manifest[:at] + noise + evidence.amd.manifest[at + len(noise) :]
    spoilt = replace(evidence, amd=replace(evidence.amd, manifest=manifest))
    try:
        claims = read(spoilt)
    except WireError as error:
        assert error.path.startswith("evidence.manifest")  # noqa: PT017 - a changed key may still have its form
        return
    assert claims.report_data != CLAIMS[profile].report_data or manifest == evidence.amd.manifest
