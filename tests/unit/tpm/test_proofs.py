import struct

import pytest
from tpm2_pytss import ESYS_TR, TPM2B_NAME, TPM2B_PUBLIC, TPMS_ATTEST, TPMT_PUBLIC, TPMT_SIGNATURE
from tpm2_pytss.utils import make_credential

from vtpm.tpm import (
    TpmError,
    TpmIdentityError,
    TpmKeys,
    TpmRefused,
    activate,
    certify_idevid,
    manufacture,
    properties,
)
from vtpm.wire.templates import name, qualified_name

QUALIFIER = bytes(range(32))
GENERATOR = 0xFF544347
CERTIFY = 0x8017
CHOICES = [
    (("L-1", "L-2"), "H-3", "H-3"),
    (("L-2", "H-2"), "H-2", "H-2"),
    (("H-3", "H-4"), "H-4", "H-3"),
    (("H-1",), "H-1", "H-1"),
    (("H-6",), "R-3072", "R-3072"),
]


def public_of(key):
    area, _ = TPMT_PUBLIC.unmarshal(key.public)
    return TPM2B_PUBLIC(area)


def challenge(keys, index, secret, for_name=None):
    blob, encrypted = make_credential(
        public_of(keys.eks[index]), secret, TPM2B_NAME(for_name or name(keys.iak.public))
    )
    return bytes(blob.marshal()), bytes(encrypted.marshal())


def transients(tpm):
    """How many objects and sessions are loaded (TPM2_GetCapability, TPM_CAP_HANDLES)."""
    count = 0
    for first in (0x80000000, 0x02000000):
        response = tpm.transmit(struct.pack(">HIIIII", 0x8001, 22, 0x17A, 1, first, 16))
        count += int.from_bytes(response[15:19], "big")
    return count


@pytest.mark.parametrize(("ek", "iak", "idevid"), CHOICES)
@pytest.mark.parametrize("owned", [False, True], ids=["free", "owned by the guest"])
def test_certify_and_activation_hold_before_an_independent_reader(
    make_tpm, reboot, templates_of, ek, iak, idevid, owned
):
    tpm = make_tpm()
    keys = manufacture(tpm, *templates_of(ek, iak, idevid))
    if owned:
        with tpm.esapi("claiming the endorsement hierarchy") as esapi:
            esapi.hierarchy_change_auth(ESYS_TR.ENDORSEMENT, b"guest's own")
        tpm = reboot(tpm)

    attest, signature = certify_idevid(tpm, keys, QUALIFIER)
    proof, consumed = TPMT_SIGNATURE.unmarshal(signature)
    assert consumed == len(signature)
    proof.verify_signature(public_of(keys.iak), attest)
    statement, consumed = TPMS_ATTEST.unmarshal(attest)
    assert consumed == len(attest)
    assert (int(statement.magic), int(statement.type)) == (GENERATOR, CERTIFY)
    assert bytes(statement.extraData) == QUALIFIER
    assert bytes(statement.qualifiedSigner) == qualified_name(keys.iak.public)
    assert bytes(statement.attested.certify.name) == name(keys.idevid.public)
    assert bytes(statement.attested.certify.qualifiedName) == qualified_name(keys.idevid.public)
    assert f"{int(statement.firmwareVersion):016x}" == properties(tpm).firmware

    for index in range(len(ek)):
        secret = bytes([index]) * 32
        assert activate(tpm, keys, index, *challenge(keys, index, secret)) == secret
    assert transients(tpm) == 0


def test_a_challenge_for_another_iak_is_refused_and_leaves_nothing_loaded(made):
    tpm, keys = made
    for _ in range(4):  # three leaks would fill the TPM
        with pytest.raises(TpmRefused, match="activating"):
            activate(tpm, keys, 0, *challenge(keys, 0, b"s" * 32, name(keys.idevid.public)))
    assert transients(tpm) == 0
    assert activate(tpm, keys, 0, *challenge(keys, 0, b"s" * 32)) == b"s" * 32


@pytest.mark.parametrize("which", [0, 1], ids=["credential_blob", "secret"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"\0",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda _: b"\xff\xff" + bytes(0xFFFF),
        lambda _: b"\0\0",
        lambda data: data[:4] + bytes([data[4] ^ 1]) + data[5:],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    ],
    ids=["empty", "one byte", "cut", "longer", "huge", "none", "flipped", "flipped last"],
)
def test_a_malformed_challenge_is_a_typed_error(made, which, damage):
    tpm, keys = made
    parts = list(challenge(keys, 0, b"s" * 32))
    parts[which] = damage(parts[which])
    with pytest.raises(TpmError):
        activate(tpm, keys, 0, *parts)
    assert transients(tpm) == 0


@pytest.mark.parametrize("index", [-1, 1])
def test_a_challenge_for_an_ek_that_is_not_there(made, index):
    tpm, keys = made
    with pytest.raises(TpmError, match="does not have"):
        activate(tpm, keys, index, *challenge(keys, 0, b"s" * 32))


def test_nothing_is_proven_for_keys_that_are_not_this_tpms(made, make_tpm, templates_of):
    tpm, keys = made
    others = manufacture(make_tpm(), *templates_of())
    for mixed in (TpmKeys(keys.eks, others.iak, keys.idevid), TpmKeys(keys.eks, keys.iak, others.idevid)):
        with pytest.raises(TpmIdentityError):
            certify_idevid(tpm, mixed, QUALIFIER)
    with pytest.raises(TpmIdentityError):
        activate(tpm, TpmKeys(others.eks, keys.iak, keys.idevid), 0, *challenge(others, 0, b"s" * 32))
    assert transients(tpm) == 0


def test_qualifying_data_is_bounded(made):
    tpm, keys = made
    with pytest.raises(TpmError, match="64"):
        certify_idevid(tpm, keys, bytes(65))


def test_proofs_do_not_use_persistent_handles(made):
    tpm, keys = made
    with tpm.esapi("swapping the IDevID as a guest may") as esapi:
        esapi.evict_control(ESYS_TR.OWNER, esapi.tr_from_tpmpublic(0x81020000), 0x81020000)
        own, *_ = esapi.create_primary(None, "ecc", ESYS_TR.OWNER)
        esapi.evict_control(ESYS_TR.OWNER, own, 0x81020000)
        esapi.flush_context(own)
    attest, _ = certify_idevid(tpm, keys, QUALIFIER)
    assert name(keys.idevid.public) in attest


def test_proofs_fall_back_to_a_replica_when_the_tpm_is_out_of_room(made):
    """A guest that holds all three object slots cannot stop a proof."""
    tpm, keys = made
    with tpm.esapi("filling the slots") as esapi:
        for _ in range(3):
            esapi.create_primary(None, "ecc", ESYS_TR.OWNER)
    attest, _ = certify_idevid(tpm, keys, QUALIFIER)
    assert name(keys.idevid.public) in attest
