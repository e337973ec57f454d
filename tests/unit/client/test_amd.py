"""The guest's side of AMD's attestation protocol: evidence that fits together, or none."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vtpm.client import amd_evidence, nonce64
from vtpm.errors import VtpmError
from vtpm.wire.amd_evidence import SERVICES_PROFILE, VTPM_PROFILE
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import EnrollmentRequest, NonceReply
from vtpm.wire.runtime_data import PROFILE

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "protocol" / "amd_evidence.json").read_text())
EVIDENCE = {p: EnrollmentRequest.parse(canonical(r)).evidence for p, r in VECTORS["requests"].items()}
PROFILES = [SERVICES_PROFILE, VTPM_PROFILE]


def built(base, **changes):
    wanted = EVIDENCE[base]
    arguments = {
        "profile": base,
        "nonce": NonceReply(wanted.amd.nonce, wanted.amd.aud, "2026-01-31T12:05:00Z"),
        "tpm": wanted.amd.tpm,
        "manifest": wanted.amd.manifest,
        "report": wanted.report,
        "certificates": wanted.certificates,
    }
    return amd_evidence(**arguments | changes)


@pytest.mark.parametrize("profile", PROFILES)
def test_it_is_the_published_evidence(profile):
    assert built(profile) == EVIDENCE[profile]
    assert built(profile, certificates=None) == replace(EVIDENCE[profile], certificates=None)


def test_the_nonce_for_the_svsm_is_the_published_one():
    for vector in VECTORS["valid"]:
        assert nonce64(vector["body"]["aud"], vector["body"]["nonce"]).hex() == vector["nonce64"]


def rule(profile, **changes):
    with pytest.raises(VtpmError) as caught:
        built(profile, **changes)
    return caught.value.rule


@pytest.mark.parametrize("profile", PROFILES)
def test_what_does_not_fit_together(profile):
    wanted = EVIDENCE[profile]
    other = NonceReply("another", wanted.amd.aud, "2026-01-31T12:05:00Z")
    assert rule(profile, nonce=other) == "evidence.report-data"
    assert rule(profile, report=bytes(1184)) == "evidence.report-data"
    two = EVIDENCE[SERVICES_PROFILE].amd.tpm
    assert rule(profile, tpm=replace(two, eks=two.eks[::-1])) == "profile.ek-in-manifest"


def test_one_ek_for_the_vtpm_alone():
    assert rule(VTPM_PROFILE, tpm=EVIDENCE[SERVICES_PROFILE].amd.tpm) == "profile.single-ek"


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("changes", [{"manifest": b"\x00" * 40}, {"report": b"short"}])
def test_what_cannot_be_read(profile, changes):
    with pytest.raises(VtpmError, match="cannot be read"):
        built(profile, **changes)


def test_a_profile_of_another_protocol():
    with pytest.raises(VtpmError, match="no profile"):
        built(SERVICES_PROFILE, profile=PROFILE)
