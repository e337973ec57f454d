"""Evidence and proofs of a guest: what they hold, and what makes them none."""

import configfs_stand_in as stand_in
import pytest
from configfs_stand_in import MemoryTsm
from hypothesis import given
from hypothesis import strategies as st

from vtpm.errors import VtpmError
from vtpm.guest import GuestDevice, GuestError, GuestTpm
from vtpm.guest.device import attested_ek
from vtpm.tpm import TpmError
from vtpm.wire.amd_evidence import AMD_PROFILES, SERVICES_PROFILE, VTPM_PROFILE, ServicesManifest
from vtpm.wire.enrollment import Challenge, Evidence
from vtpm.wire.public_area import parse_public
from vtpm.wire.runtime_data import PROFILE
from vtpm.wire.templates import Role, differences, template

NAME = bytes(16)


@pytest.fixture
def device(tcti, svsm):
    def make(profile=VTPM_PROFILE, svsm=svsm, **options):
        tsm = MemoryTsm(svsm)
        return GuestDevice(GuestTpm(tcti), tsm, profile, entropy=bytes, **options), tsm

    return make


@pytest.mark.parametrize("profile", AMD_PROFILES)
def test_evidence_holds_what_was_attested_and_what_the_tpm_says(device, ek, profile):
    guest, tsm = device(profile)
    evidence = guest.evidence("ca", "nonce")
    assert (evidence.profile, evidence.amd.aud, evidence.amd.nonce) == (profile, "ca", "nonce")
    assert [key.public for key in evidence.amd.tpm.eks] == [ek]
    assert guest.keys.eks == evidence.amd.tpm.eks
    assert evidence.certificates
    assert evidence.amd.tpm.origin == "loaded"
    assert tsm.made == ["vtpm-enroll-" + "00" * 16]
    assert differences(evidence.amd.tpm.iak.public, template(Role.IAK, "H-3")) == []
    proof = guest.certify(evidence)
    assert evidence.amd.certify_qualifier() in proof.attest


def test_other_templates_of_the_identities(device):
    guest, _ = device(identity="H-2")
    statement = guest.evidence("ca", "nonce").amd.tpm
    assert (statement.iak.template, statement.idevid.template) == ("H-2", "H-2")
    assert parse_public(statement.idevid.public).bits == 256


def test_each_evidence_has_an_entry_of_its_own(tcti, svsm):
    tsm = MemoryTsm(svsm)
    guest = GuestDevice(GuestTpm(tcti), tsm, VTPM_PROFILE)
    guest.evidence("ca", "one")
    guest.evidence("ca", "two")
    assert len(set(tsm.made)) == 2


def rule(call, *arguments):
    with pytest.raises(VtpmError) as caught:
        call(*arguments)
    return caught.value.rule


class TestWhatIsNoEvidence:
    def test_an_ek_of_no_template(self, device, world, ek):
        spoilt = ek.replace(bytes.fromhex("000300b2"), bytes.fromhex("000300b0"))
        assert spoilt != ek
        guest, _ = device(svsm=stand_in.svsm_of(world.launch, spoilt))
        assert rule(guest.evidence, "ca", "nonce") == "guest.ek-template"

    def test_another_ek(self, device, world, tpm_elsewhere):
        guest, _ = device(svsm=stand_in.svsm_of(world.launch, tpm_elsewhere))
        assert rule(guest.evidence, "ca", "nonce") == "profile.ek-in-manifest"

    def test_a_manifest_that_is_none(self, device):
        for manifest in (b"x", b"\0\1\0\x0b", bytes(400)):
            guest, _ = device(svsm=lambda *_, manifest=manifest: (bytes(1184), manifest, b""))
            assert rule(guest.evidence, "ca", "nonce") == "guest.manifest"

    def test_a_report_over_something_else(self, device, ek):
        guest, _ = device(svsm=lambda *_: (bytes(1184), ek, b""))
        assert rule(guest.evidence, "ca", "nonce") == "evidence.report-data"

    def test_a_nonce_that_cannot_be_used(self, device):
        guest, tsm = device()
        for aud, nonce in (("", "n"), ("ca", ""), ("ca", "\0"), ("é", "n")):
            with pytest.raises(VtpmError, match="nonce cannot be used"):
                guest.evidence(aud, nonce)
        assert tsm.made == []


class TestProofs:
    def test_need_evidence_first(self, device):
        guest, _ = device()
        for call in (lambda: guest.keys, lambda: guest.activate(0, Challenge(NAME, b"", b""))):
            with pytest.raises(GuestError, match="has not been asked"):
                call()
        with pytest.raises(GuestError, match="another profile"):
            guest.certify(Evidence(PROFILE, b"{}", bytes(1184)))

    def test_challenges_of_a_hostile_ca(self, device):
        guest, _ = device()
        guest.evidence("ca", "nonce")
        sized = b"\x00\x02ab"
        for index, blob, secret in (
            (1, sized, sized),
            (0, b"", b""),
            (0, sized, b"\xff\xff"),
            (0, sized, sized),
        ):
            with pytest.raises(TpmError):
                guest.activate(index, Challenge(NAME, blob, secret))


@given(profile=st.sampled_from(AMD_PROFILES), data=st.data())
def test_whatever_the_manifest_is_it_is_an_ek_or_refused(ek, profile, data):
    whole = ek if profile == VTPM_PROFILE else ServicesManifest(ek).pack()
    manifest = data.draw(
        st.one_of(
            st.binary(max_size=100),
            st.builds(
                lambda at, byte, end: (whole[:at] + bytes([byte]) + whole[at + 1 :])[:end],
                st.integers(0, len(whole) - 1),
                st.integers(0, 255),
                st.integers(len(whole) - 2, len(whole)),
            ),
        )
    )
    try:
        found = attested_ek(profile, manifest)
    except GuestError as error:
        refused = error.rule
    else:
        refused = ""
    assert refused in ("", "guest.manifest")
    if refused:
        return
    assert parse_public(found)
    assert found in manifest
    assert profile != SERVICES_PROFILE or len(manifest) > len(found)
