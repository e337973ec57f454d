"""The guest's TPM through a real TCTI: what an owner may have done to it, and what happens when it is not there."""

import pytest
from tpm2_pytss import ESYS_TR

from vtpm.guest import DeviceMissing, GuestDevice, GuestError, GuestTpm
from vtpm.tpm import GuestGateway, Swtpm, TpmGone, TpmRefused, derive, properties
from vtpm.wire.amd_evidence import VTPM_PROFILE
from vtpm.wire.templates import Role, template


@pytest.fixture
def tpm(tcti):
    return GuestTpm(tcti)


def hurdle(tpm):
    with pytest.raises(GuestError) as caught:
        tpm.check_usable()
    assert caught.value.exit_code == 1
    return caught.value


def test_a_tpm_that_nobody_has_claimed(tpm, swtpm):
    tpm.check_usable()
    assert properties(tpm) == properties(swtpm)
    assert derive(tpm, template(Role.EK, "L-2")) == derive(swtpm, template(Role.EK, "L-2"))


def test_an_owner_who_has_set_the_endorsement_authorisation(tpm, as_owner):
    with as_owner() as esapi:
        esapi.hierarchy_change_auth(ESYS_TR.ENDORSEMENT, b"secret")
    try:
        found = hurdle(tpm)
        with pytest.raises(TpmRefused, match="making the ek L-2"):
            derive(tpm, template(Role.EK, "L-2"))
    finally:
        with as_owner() as esapi:
            esapi.tr_set_auth(ESYS_TR.ENDORSEMENT, b"secret")
            esapi.hierarchy_change_auth(ESYS_TR.ENDORSEMENT, b"")
    assert (found.rule, "tpm2_changeauth" in found.remedy) == ("guest.endorsement-auth", True)
    tpm.check_usable()


def test_what_only_the_platform_or_many_wrong_answers_can_do():
    """A TPM of its own: these states end with it."""
    with Swtpm() as power, GuestGateway(power) as gateway:
        power.power_on(None)
        tpm = GuestTpm(gateway.tcti)
        with power.esapi("locking it out") as esapi:
            esapi.dictionary_attack_parameters(new_max_tries=0, new_recovery_time=1000, lockout_recovery=10)
        assert hurdle(tpm).rule == "guest.lockout"
        with power.esapi("clearing") as esapi:
            esapi.clear(ESYS_TR.PLATFORM)
        tpm.check_usable()
        with power.esapi("switching off") as esapi:
            esapi.hierarchy_control(ESYS_TR.PLATFORM, ESYS_TR.ENDORSEMENT, False)
        assert hurdle(tpm).rule == "guest.endorsement-enabled"
        power.kill()
        with pytest.raises((TpmGone, DeviceMissing)) as caught:
            tpm.check_usable()
        assert caught.value.exit_code in (2, 3)


@pytest.mark.parametrize(
    "tcti", ["", ":", "device:", "device:/nowhere", "device:/dev/null", "swtpm:port=x", "é"]
)
def test_a_tpm_that_cannot_be_opened(tcti):
    with pytest.raises((DeviceMissing, TpmGone)) as caught:
        GuestTpm(tcti).check_usable()
    assert "--tcti" in caught.value.remedy or caught.value.exit_code == 3


def test_the_kernel_says_why_a_device_cannot_be_opened():
    with pytest.raises(DeviceMissing, match="No such file or directory"):
        GuestTpm("device:/nowhere").check_usable()


def test_nothing_stays_in_the_tpm(tpm, as_owner):
    derive(tpm, template(Role.IAK, "H-3"))
    with pytest.raises(ValueError, match="mine"), tpm.esapi("failing"):
        raise ValueError("mine")
    with as_owner() as esapi:
        for first in (0x80000000, 0x02000000, 0x81000000):
            _, data = esapi.get_capability(1, first, 10)
            assert list(data.data.handles) == []


def test_a_device_for_no_profile_or_template(tpm):
    for profile, identity in (("svsm-vtpm-ca:1", "H-3"), (VTPM_PROFILE, "L-1"), (VTPM_PROFILE, "")):
        with pytest.raises(Exception, match=r"no profile|must be one of") as caught:
            GuestDevice(tpm, None, profile, identity=identity)
        assert caught.value.exit_code == 1
