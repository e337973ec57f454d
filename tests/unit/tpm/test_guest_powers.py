"""Whatever a guest's owner does to its TPM, the next boot and its evidence are unharmed."""

from contextlib import suppress

import pytest
from tpm2_pytss import (
    ESYS_TR,
    TPM2B_AUTH,
    TPM2B_NV_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMS_NV_PUBLIC,
    TSS2_Exception,
)
from tpm2_pytss.constants import TPM2_ALG, TPMA_NV
from tpm2_pytss.types import TPM2B_NAME, TPM2B_PUBLIC, TPMT_PUBLIC
from tpm2_pytss.utils import make_credential

from vtpm.tpm import (
    TpmRefused,
    activate,
    certify_idevid,
    read_certificate,
    repair_persistent,
    verify_loaded,
    write_certificate,
)
from vtpm.tpm.nv import LOCKED_ATTRIBUTES
from vtpm.wire.templates import Role, name, template

EK_INDEX = template(Role.EK, "L-2").nv_index
IN_LOCKOUT = 1 << 9


def sets_endorsement_authorisation(esapi):
    esapi.hierarchy_change_auth(ESYS_TR.ENDORSEMENT, b"guest's own")


def sets_owner_authorisation(esapi):
    esapi.hierarchy_change_auth(ESYS_TR.OWNER, b"guest's own")


def claims_everything(esapi):
    for hierarchy in (ESYS_TR.ENDORSEMENT, ESYS_TR.OWNER, ESYS_TR.LOCKOUT):
        esapi.hierarchy_change_auth(hierarchy, b"guest's own")


def claims_everything_and_disables_clear(esapi):
    esapi.clear_control(ESYS_TR.LOCKOUT, True)
    claims_everything(esapi)


def clears(esapi):
    esapi.clear(ESYS_TR.LOCKOUT)


def clears_and_claims(esapi):
    clears(esapi)
    claims_everything(esapi)


def disables_the_endorsement_hierarchy(esapi):
    esapi.hierarchy_control(ESYS_TR.ENDORSEMENT, ESYS_TR.ENDORSEMENT, False)


def evicts_all_keys(esapi):
    for role, id_ in ((Role.EK, "L-2"), (Role.IAK, "H-3"), (Role.IDEVID, "H-3")):
        handle = template(role, id_).persistent
        esapi.evict_control(ESYS_TR.OWNER, esapi.tr_from_tpmpublic(handle), handle)


def replaces_all_keys_and_claims(esapi):
    evicts_all_keys(esapi)
    own, *_ = esapi.create_primary(None, "ecc", ESYS_TR.OWNER)
    for role, id_ in ((Role.EK, "L-2"), (Role.IAK, "H-3"), (Role.IDEVID, "H-3")):
        esapi.evict_control(ESYS_TR.OWNER, own, template(role, id_).persistent)
    esapi.flush_context(own)
    claims_everything(esapi)


def locks_itself_out(esapi):
    """Wrong answers to a protected object of its own until the TPM is in lockout."""
    secret = TPM2B_SENSITIVE_CREATE()
    secret.sensitive.userAuth = TPM2B_AUTH(b"right")
    handle, *_ = esapi.create_primary(secret, "ecc", ESYS_TR.OWNER)
    esapi.tr_set_auth(handle, b"wrong")
    for _ in range(33):
        with suppress(TSS2_Exception):
            esapi.create(handle, None)
    esapi.flush_context(handle)


def locks_itself_out_and_the_lockout_hierarchy_too(esapi):
    locks_itself_out(esapi)
    esapi.tr_set_auth(ESYS_TR.LOCKOUT, b"wrong")
    with suppress(TSS2_Exception):
        esapi.dictionary_attack_lock_reset()
    esapi.tr_set_auth(ESYS_TR.LOCKOUT, b"")


def forbids_every_protected_authorisation(esapi):
    esapi.dictionary_attack_parameters(0, 1 << 30, 1 << 30)
    esapi.hierarchy_change_auth(ESYS_TR.LOCKOUT, b"guest's own")


def fills_the_nv_memory(esapi):
    for index in range(0x01800000, 0x01800100):
        public = TPMS_NV_PUBLIC(
            nvIndex=index, nameAlg=TPM2_ALG.SHA256, attributes=TPMA_NV(0x00060006), dataSize=2048
        )
        try:
            esapi.nv_define_space(None, TPM2B_NV_PUBLIC(public), ESYS_TR.OWNER)
        except TSS2_Exception:
            return
    raise AssertionError("the NV memory is still not full")


def shuts_down(esapi):
    esapi.shutdown(0)


POWERS = [
    sets_endorsement_authorisation,
    sets_owner_authorisation,
    claims_everything,
    claims_everything_and_disables_clear,
    clears,
    clears_and_claims,
    disables_the_endorsement_hierarchy,
    evicts_all_keys,
    replaces_all_keys_and_claims,
    locks_itself_out,
    locks_itself_out_and_the_lockout_hierarchy_too,
    forbids_every_protected_authorisation,
    fills_the_nv_memory,
    shuts_down,
]


def challenge(keys, secret):
    area, _ = TPMT_PUBLIC.unmarshal(keys.eks[0].public)
    blob, encrypted = make_credential(TPM2B_PUBLIC(area), secret, TPM2B_NAME(name(keys.iak.public)))
    return bytes(blob.marshal()), bytes(encrypted.marshal())


@pytest.mark.parametrize("orderly", [True, False], ids=["orderly", "killed"])
@pytest.mark.parametrize("power", POWERS, ids=lambda power: power.__name__)
def test_the_next_boot_proves_all_keys(made, make_tpm, guest, power, orderly):
    tpm, keys = made
    write_certificate(tpm, EK_INDEX, b"certificate")
    with guest(tpm) as esapi:
        power(esapi)
    state = tpm.take_state() if orderly else tpm.current_state()
    tpm.kill()

    tpm = make_tpm(state)
    verify_loaded(tpm, keys)
    repair_persistent(tpm, keys)
    attest, _ = certify_idevid(tpm, keys, b"q" * 32)
    assert name(keys.idevid.public) in attest
    assert activate(tpm, keys, 0, *challenge(keys, b"s" * 32)) == b"s" * 32
    assert read_certificate(tpm, EK_INDEX) == b"certificate"
    assert write_certificate(tpm, EK_INDEX, b"certificat2")


def test_lockout_is_really_reached(made, guest):
    """The scenario above is none if the guest cannot bring it about."""
    tpm, _ = made
    with guest(tpm) as esapi:
        locks_itself_out(esapi)
    assert tpm.permanent_attributes() & IN_LOCKOUT


def test_the_guests_tpm_is_not_touched_by_the_replica(made, make_tpm, guest):
    tpm, keys = made
    with guest(tpm) as esapi:
        claims_everything_and_disables_clear(esapi)
    tpm = make_tpm(tpm.take_state())
    attributes = tpm.permanent_attributes()
    verify_loaded(tpm, keys)
    certify_idevid(tpm, keys, b"q")
    assert tpm.permanent_attributes() == attributes
    with pytest.raises(TpmRefused), tpm.esapi("using the endorsement hierarchy") as esapi:
        esapi.create_primary(None, "ecc", ESYS_TR.ENDORSEMENT)


def test_a_guest_can_neither_write_nor_remove_a_certificate(made, guest):
    tpm, _ = made
    write_certificate(tpm, EK_INDEX, b"certificate")
    with guest(tpm) as esapi:
        index = esapi.tr_from_tpmpublic(EK_INDEX)
        for attempt in (
            lambda: esapi.nv_undefine_space(index, ESYS_TR.OWNER),
            lambda: esapi.nv_undefine_space(index, ESYS_TR.PLATFORM),
            lambda: esapi.nv_write(index, b"forged", 0, ESYS_TR.OWNER),
            lambda: esapi.nv_write(index, b"forged", 0, ESYS_TR.PLATFORM),
            lambda: esapi.nv_write(index, b"forged", 0),
            esapi.change_eps,
            esapi.change_pps,
            lambda: esapi.hierarchy_control(ESYS_TR.PLATFORM, ESYS_TR.PLATFORM, False),
            lambda: esapi.hierarchy_change_auth(ESYS_TR.PLATFORM, b"mine"),
        ):
            with pytest.raises(TSS2_Exception):
                attempt()
        clears(esapi)
        assert bytes(esapi.nv_read(index, 11, 0)) == b"certificate"
    assert read_certificate(tpm, EK_INDEX) == b"certificate"


@pytest.mark.parametrize("content", [b"forged", b"certificate"])
def test_an_index_that_a_guest_took_first_is_taken_back(made, make_tpm, guest, content):
    """Even one that holds the right bytes: the guest could change them later."""
    tpm, _ = made
    with guest(tpm) as esapi:
        public = TPMS_NV_PUBLIC(
            nvIndex=EK_INDEX, nameAlg=TPM2_ALG.SHA256, attributes=TPMA_NV(0x00060006), dataSize=len(content)
        )
        index = esapi.nv_define_space(b"mine", TPM2B_NV_PUBLIC(public), ESYS_TR.OWNER)
        esapi.nv_write(index, content, 0)
        claims_everything(esapi)
    tpm = make_tpm(tpm.take_state())
    assert read_certificate(tpm, EK_INDEX) is None
    assert write_certificate(tpm, EK_INDEX, b"certificate")
    assert read_certificate(tpm, EK_INDEX) == b"certificate"
    with tpm.esapi("reading the index") as esapi:
        public, _ = esapi.nv_read_public(esapi.tr_from_tpmpublic(EK_INDEX))
        assert int(public.nvPublic.attributes) == LOCKED_ATTRIBUTES
