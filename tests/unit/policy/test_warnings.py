"""What a policy document may say and should be asked about."""

import pytest

from ca_service.policy import load

KEY = """
[[kbs.key]]
[kbs.key.jwk]
crv = "P-256"
kty = "EC"
x = "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY"
y = "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"
"""
BROKER = f"""
schema = 1
[[kbs]]
id = "org"
label = "the organisation's"
status = "trusted"
origins = [{{origins}}]
{{extra}}
{KEY.replace("{", "{{").replace("}", "}}")}
[[kbs.resource]]
pattern = "default/*/*"
shared = {{shared}}
"""
PINNED = 'release_policies = ["' + "ab" * 32 + '"]'


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"shared": "true"}, "shared"),
        ({"origins": '"kbs-generated", "provisioned"'}, "provisioned"),
        ({"extra": ""}, "release_policies"),
    ],
    ids=["shared", "provisioned", "release-policies"],
)
def test_each_is_said_once(changes, word):
    fields = {"shared": "false", "origins": '"kbs-generated"', "extra": PINNED} | changes
    (warning,) = load(BROKER.format(**fields)).warnings()
    assert word in warning
    assert "org" in warning


def test_a_careful_entry_is_left_alone():
    text = BROKER.format(shared="false", origins='"kbs-generated"', extra=PINNED)
    assert load(text).warnings() == []


CAREFUL_INFO = {
    "require": ["ecc", "alias-check"],
    "forbid": ["tio"],
    "either": ["smt", "tsme", "rapl-disabled", "ciphertext-hiding", "other"],
}
LAX_INFO = CAREFUL_INFO | {"require": ["ecc"], "forbid": ["tio", "alias-check"]}


def about_launches(content, toml):
    del content["kbs"], content["launch"][2]
    return load(toml(content)).warnings()


def test_a_careful_launch_on_a_careful_platform_is_left_alone(content, toml):
    assert about_launches(content, toml) == []


@pytest.mark.parametrize(
    ("member", "value", "name", "word"),
    [
        ("keys", ["VCEK", "VLEK"], "signing-key", "VLEK"),
        ("provisional_firmware", True, "provisional-firmware", "roll back"),
        ("platform_info", LAX_INFO, "info", "alias-check"),
    ],
)
@pytest.mark.parametrize("given_up", [False, True])
def test_a_lax_platform_is_pointed_out(content, toml, member, value, name, word, given_up):
    platform = content["platform"][0]
    if given_up:
        del platform[member]
        platform["unconstrained"] = [name]
    else:
        platform[member] = value
    (warning,) = about_launches(content, toml)
    assert word in warning
    assert "platform fleet" in warning


def test_a_platform_that_asks_for_no_crl_is_pointed_out(content, toml):
    platform = content["platform"][0]
    del platform["crl_max_age_days"]
    platform["unconstrained"] = ["crl-age"]
    (warning,) = about_launches(content, toml)
    assert warning == "platform fleet has no crl_max_age_days: a revocation may go unnoticed"


@pytest.mark.parametrize(
    ("given_up", "said"),
    [
        (["reported", "committed"], True),
        (["reported", "committed", "launch"], True),
        (["reported"], False),
        (["committed", "launch"], False),
    ],
)
def test_a_platform_without_any_tcb_floor_is_pointed_out(content, toml, given_up, said):
    platform = content["platform"][0]
    for row in platform["tcb"]:
        for member in given_up:
            del row[member]
    platform["unconstrained"] = [f"{member}-tcb" for member in given_up]
    expected = ["platform fleet has no TCB floor: firmware with known holes is admitted"]
    assert about_launches(content, toml) == (expected if said else [])


@pytest.mark.parametrize("least", [None, 0])
def test_a_key_without_a_minimum_guest_svn_is_pointed_out(content, toml, least):
    del content["launch"][0]["measurement"], content["launch"][0]["min_guest_svn"]
    content["launch"][0]["unconstrained"] += ["measurement"]
    if least is None:
        content["launch"][0]["unconstrained"] += ["guest-svn"]
    else:
        content["launch"][0]["min_guest_svn"] = least
    _measurement, warning = about_launches(content, toml)
    assert warning == "launch standard has no minimum guest SVN: old builds of its key stay admitted"


def test_a_launch_without_measurement_is_pointed_out(content, toml):
    del content["launch"][0]["measurement"]
    content["launch"][0]["unconstrained"] += ["measurement"]
    (warning,) = about_launches(content, toml)
    assert warning == "launch standard has no measurement: it admits all that its key signs, now and later"


@pytest.mark.parametrize("kept", ["family_ids", "image_ids", "min_guest_svn"])
def test_demands_of_an_id_block_that_anybody_may_have_written_are_pointed_out(content, toml, kept):
    launch = content["launch"][0]
    names = {
        "family_ids": "family-id",
        "image_ids": "image-id",
        "min_guest_svn": "guest-svn",
        "id_keys": "id-key",
    }
    for member, name in names.items():
        if member != kept:
            del launch[member]
            launch["unconstrained"] += [name]
    (warning,) = about_launches(content, toml)
    assert "ID block" in warning
    assert "launch standard" in warning
