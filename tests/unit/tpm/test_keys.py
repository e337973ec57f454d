import pytest
from tpm2_pytss import ESYS_TR

from vtpm.errors import UsageError
from vtpm.tpm import (
    Swtpm,
    TpmError,
    TpmIdentityError,
    TpmKeys,
    manufacture,
    properties,
    repair_persistent,
    verify_loaded,
)
from vtpm.wire.runtime_data import KeyStatement, TpmSpec
from vtpm.wire.templates import Role, differences, name, template


def persistent_public(tpm, handle):
    with tpm.esapi("reading a persistent handle") as esapi:
        public, key_name, _ = esapi.read_public(esapi.tr_from_tpmpublic(handle))
        return bytes(public.publicArea.marshal()), bytes(key_name)


CHOICES = [
    (("L-1",), "H-3", "H-3"),
    (("L-2", "H-2"), "H-2", "H-2"),
    (("H-3", "H-4"), "H-4", "H-3"),
    (("H-1",), "H-1", "H-1"),
    (("H-6",), "R-3072", "R-3072"),
]


@pytest.mark.parametrize(("ek", "iak", "idevid"), CHOICES)
def test_every_template_is_manufactured_survives_a_reboot_and_is_found_again(
    make_tpm, reboot, templates_of, ek, iak, idevid
):
    tpm = make_tpm()
    keys = manufacture(tpm, *templates_of(ek, iak, idevid))
    assert [k.template for k in (*keys.eks, keys.iak, keys.idevid)] == [*ek, iak, idevid]
    roles = [*[Role.EK] * len(ek), Role.IAK, Role.IDEVID]
    for role, key in zip(roles, (*keys.eks, keys.iak, keys.idevid), strict=True):
        wanted = template(role, key.template)
        assert differences(key.public, wanted) == []
        assert persistent_public(tpm, wanted.persistent) == (key.public, name(key.public))
    tpm = reboot(tpm)
    verify_loaded(tpm, keys)
    assert repair_persistent(tpm, keys) == ()


def test_two_tpms_have_different_keys(make_tpm, templates_of):
    one, other = (manufacture(make_tpm(), *templates_of()) for _ in range(2))
    assert {k.public for k in (*one.eks, one.iak, one.idevid)}.isdisjoint(
        {k.public for k in (*other.eks, other.iak, other.idevid)}
    )


def test_a_state_that_belongs_to_other_records_is_recognised(make_tpm, reboot, made, templates_of):
    _, keys = made
    other = make_tpm()
    others = manufacture(other, *templates_of())
    other = reboot(other)
    with pytest.raises(TpmIdentityError, match="not the recorded key") as caught:
        verify_loaded(other, keys)
    assert caught.value.rule == "tpm.identity"
    verify_loaded(other, others)


@pytest.mark.parametrize("exchanged", ["eks", "iak", "idevid"])
def test_each_recorded_key_is_compared(made, make_tpm, templates_of, exchanged):
    tpm, keys = made
    others = manufacture(make_tpm(), *templates_of())
    mixed = TpmKeys(**{f: getattr(others if f == exchanged else keys, f) for f in ("eks", "iak", "idevid")})
    with pytest.raises(TpmIdentityError):
        verify_loaded(tpm, mixed)


def test_a_new_tpm_in_place_of_the_stored_one_is_recognised(make_tpm, made):
    """What swtpm makes of a state that it refused."""
    _, keys = made
    with pytest.raises(TpmIdentityError):
        verify_loaded(make_tpm(), keys)


def test_keys_are_made_in_a_new_tpm_only(reboot, made, templates_of):
    tpm, _ = made
    with pytest.raises(TpmError, match="new TPM only"):
        manufacture(reboot(tpm), *templates_of())


@pytest.mark.parametrize("ek", [(), ("L-2", "L-2"), ("L-1", "L-2", "H-2", "H-3", "H-4")])
def test_one_to_four_different_eks(make_tpm, templates_of, ek):
    with pytest.raises(UsageError, match="1 to 4"):
        manufacture(make_tpm(), *templates_of(ek))


def test_templates_have_their_roles(make_tpm, templates_of):
    ek, iak, idevid = templates_of()
    with pytest.raises(UsageError, match="roles"):
        manufacture(make_tpm(), ek, idevid, iak)


def test_a_tpm_without_power_makes_nothing(templates_of):
    with Swtpm() as tpm, pytest.raises(TpmError, match="no power"):
        manufacture(tpm, *templates_of())


def test_missing_and_replaced_handles_are_repaired(made):
    tpm, keys = made
    iak, ek = template(Role.IAK, "H-3").persistent, template(Role.EK, "L-2").persistent
    with tpm.esapi("swapping keys as a guest may") as esapi:
        esapi.evict_control(ESYS_TR.OWNER, esapi.tr_from_tpmpublic(iak), iak)
        esapi.evict_control(ESYS_TR.OWNER, esapi.tr_from_tpmpublic(ek), ek)
        handle, *_ = esapi.create_primary(None, "ecc", ESYS_TR.OWNER)
        esapi.evict_control(ESYS_TR.OWNER, handle, ek)
        esapi.flush_context(handle)
    assert persistent_public(tpm, ek)[0] != keys.eks[0].public
    assert set(repair_persistent(tpm, keys)) == {ek, iak}
    assert persistent_public(tpm, ek)[0] == keys.eks[0].public
    assert persistent_public(tpm, iak)[0] == keys.iak.public


def test_unknown_recorded_template_is_refused(made):
    tpm, keys = made
    with pytest.raises(ValueError, match="must be one of"):
        verify_loaded(tpm, TpmKeys(keys.eks, KeyStatement("H-9", keys.iak.public), keys.idevid))


def test_properties_are_those_of_libtpms(make_tpm):
    manufacturer, vendor, firmware, spec = properties(make_tpm())
    assert manufacturer == "49424d00"
    assert vendor == "SW   TPM"
    assert len(firmware) == 16
    assert int(firmware, 16) > 0
    assert spec == TpmSpec("2.0", "0", "164")
