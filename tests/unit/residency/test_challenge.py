"""The challenge: what a real TPM with the right keys answers, and nobody else."""

from dataclasses import replace

import pytest

from ca_service.judgment import judge_all
from ca_service.residency import CERTIFY_CHECKS, KEY_CHECKS, SECRET_SIZE, TpmEvidence, make_challenge
from vtpm.tpm import TpmKeys, TpmRefused, activate
from vtpm.wire.errors import WireError
from vtpm.wire.public_area import pack_public, parse_public
from vtpm.wire.templates import Role, name, template

SECRET = bytes(range(100, 132))


@pytest.fixture(scope="module")
def tpm(real_tpm):
    with real_tpm.powered_tpm() as tpm:
        yield tpm


@pytest.mark.parametrize(
    ("eks", "iak", "idevid"),
    [
        (["L-1", "L-2"], "H-3", "H-3"),
        (["H-3", "H-2"], "H-1", "H-2"),
        (["H-4", "H-6", "H-1"], "H-4", "R-3072"),
    ],
)
def test_a_fresh_tpm_passes_every_check_and_recovers_the_secret(real_tpm, tpm, eks, iak, idevid):
    statement, attest, signature = real_tpm.honest(tpm, eks, iak, idevid)
    evidence = TpmEvidence(statement, real_tpm.QUALIFIER, attest, signature)
    assert judge_all(KEY_CHECKS + CERTIFY_CHECKS, evidence).refusal is None
    keys = TpmKeys(statement.eks, statement.iak, statement.idevid)
    for i, ek in enumerate(statement.eks):
        blob, encrypted = make_challenge(ek.public, name(statement.iak.public), SECRET)
        assert activate(tpm, keys, i, blob, encrypted) == SECRET


def test_a_challenge_for_another_name_is_not_answered(real_tpm, tpm, soft_tpm):
    statement, _, _ = real_tpm.honest(tpm, ["L-2"], "H-3", "H-3")
    keys = TpmKeys(statement.eks, statement.iak, statement.idevid)
    software_iak = name(soft_tpm().statement.iak.public)
    challenge = make_challenge(statement.eks[0].public, software_iak, SECRET)
    with pytest.raises(TpmRefused):
        activate(tpm, keys, 0, *challenge)


def test_a_challenge_for_another_ek_is_not_answered(real_tpm, tpm, soft_tpm):
    statement, _, _ = real_tpm.honest(tpm, ["L-2"], "H-3", "H-3")
    keys = TpmKeys(statement.eks, statement.iak, statement.idevid)
    challenge = make_challenge(soft_tpm().statement.eks[0].public, name(statement.iak.public), SECRET)
    with pytest.raises(TpmRefused):
        activate(tpm, keys, 0, *challenge)


def test_two_challenges_never_look_alike(soft_tpm):
    statement = soft_tpm().statement
    iak = name(statement.iak.public)
    one, two = (make_challenge(statement.eks[0].public, iak, SECRET) for _ in range(2))
    assert one[0] != two[0]
    assert one[1] != two[1]


@pytest.mark.parametrize("size", [0, 1, 16, 31, 33, 48, 64, 65])
def test_secrets_have_one_size(soft_tpm, size):
    statement = soft_tpm().statement
    with pytest.raises(ValueError, match=f"{SECRET_SIZE} bytes"):
        make_challenge(statement.eks[0].public, name(statement.iak.public), bytes(size))


@pytest.mark.parametrize(
    "bad", [b"", b"\x00\x0b", b"\x00\x0b" + bytes(31), b"\x00\x04" + bytes(20), bytes(50)]
)
def test_the_name_must_be_one(soft_tpm, bad):
    with pytest.raises(ValueError, match="Name"):
        make_challenge(soft_tpm().statement.eks[0].public, bad, SECRET)


def test_only_keys_of_an_ek_template_are_challenged(soft_tpm):
    statement = soft_tpm().statement
    iak = name(statement.iak.public)
    with pytest.raises(WireError):
        make_challenge(statement.iak.public, iak, SECRET)
    with pytest.raises(WireError):
        make_challenge(b"\x00\x01\x00\x0b", iak, SECRET)
    with pytest.raises(WireError):
        make_challenge(template(Role.EK, "L-2").public, iak, SECRET)
    ek = parse_public(statement.eks[0].public)
    free = replace(ek, attributes=ek.attributes & ~0x00010000)
    with pytest.raises(WireError):
        make_challenge(pack_public(free), iak, SECRET)
