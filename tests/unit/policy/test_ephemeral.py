"""`[ephemeral]`: what a policy admits for a certificate of few days, and that nothing is admitted unasked."""

import inspect
from dataclasses import fields, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_service.evidence.profiles import is_ephemeral
from ca_service.judgment import BadRequest
from ca_service.policy import EphemeralTerms, load
from ca_service.policy.document.tables import MAX_EPHEMERAL_DAYS
from ca_service.profiles import EPHEMERAL_LIMIT

SERVICES, VTPM = "amd-svsm-services", "amd-svsm-vtpm:0"
VOLATILE = {"store_mode": "volatile", "store_format": "none"}


@pytest.fixture
def able(content):
    """The first launch can do whatever a profile asks for."""
    for launch in content["launch"]:
        launch["capabilities"] = ["verifies-grants", "reports-state", "oracle-free"]
    return content


def test_without_the_table_nothing_is_admitted(able, facts, refusals, toml):
    assert load(toml(able)).ephemeral == EphemeralTerms()
    for profile in (SERVICES, VTPM):
        assert refusals(able, replace(facts, profile=profile)) == ["profile.admitted"]
    assert refusals(able, replace(facts, **VOLATILE)) == ["store.persistent", "store.format"]


@pytest.mark.parametrize("admitted", [[SERVICES], [VTPM], [SERVICES, VTPM]])
def test_profiles_are_admitted_by_name(able, facts, refusals, admitted):
    able["ephemeral"] = {"days": 7, "profiles": admitted}
    for profile in (SERVICES, VTPM):
        wanted = [] if profile in admitted else ["profile.admitted"]
        assert refusals(able, replace(facts, profile=profile)) == wanted
    assert refusals(able, facts) == []
    assert refusals(able, replace(facts, **VOLATILE)) == ["store.persistent", "store.format"]


def test_a_volatile_store_is_admitted_in_its_own_form_alone(able, facts, refusals):
    able["ephemeral"] = {"days": 7, "volatile_stores": True}
    assert refusals(able, replace(facts, **VOLATILE)) == []
    assert refusals(able, replace(facts, store_mode="volatile")) == ["store.format"]
    assert refusals(able, replace(facts, store_format="none")) == ["store.format"]
    assert refusals(able, replace(facts, store_mode="", store_format="none")) == [
        "store.persistent",
        "store.format",
    ]
    assert refusals(able, facts) == []
    assert refusals(able, replace(facts, profile=VTPM)) == ["profile.admitted"]


def test_no_store_format_can_be_listed_as_none(able, toml):
    able["store"] = {"formats": ["none"]}
    with pytest.raises(BadRequest) as caught:
        load(toml(able))
    assert caught.value.path == "store.formats[0]"


@pytest.mark.parametrize("mode", ["production", "simulation"])
def test_it_is_no_unsafe_entry_and_counts_on_every_ca(able, facts, refusals, mode):
    able["ephemeral"] = {"days": 2, "profiles": [VTPM], "volatile_stores": True}
    genuine = replace(facts, launch=replace(facts.launch, simulated=False))
    assert refusals(able, replace(genuine, profile=VTPM), mode) == []
    assert refusals(able, replace(genuine, **VOLATILE), mode) == []


def test_a_capability_is_still_asked_for(able, facts, refusals):
    able["ephemeral"] = {"days": 1, "profiles": [SERVICES, VTPM]}
    for capabilities, profile in (
        (["oracle-free"], SERVICES),
        (["verifies-grants", "reports-state"], SERVICES),
        (["verifies-grants", "reports-state"], VTPM),
    ):
        for launch in able["launch"]:
            launch["capabilities"] = capabilities
        assert refusals(able, replace(facts, profile=profile)) == ["launch.capabilities"]


@pytest.mark.parametrize(
    ("table", "path", "said"),
    [
        ({"days": 7}, "ephemeral", "admits nothing"),
        ({"days": 7, "volatile_stores": False}, "ephemeral", "admits nothing"),
        ({"days": 7, "profiles": []}, "ephemeral.profiles", "must not be empty"),
        ({"days": 7, "profiles": [VTPM, VTPM]}, "ephemeral.profiles[1]", "stands twice"),
        (
            {"days": 7, "profiles": ["svsm-vtpm-ca:1"]},
            "ephemeral.profiles[0]",
            "must be amd-svsm-services or amd-svsm-vtpm:0",
        ),
        ({"profiles": [VTPM]}, "ephemeral.days", "is missing"),
        ({"days": 0, "profiles": [VTPM]}, "ephemeral.days", "at least 1"),
        ({"days": 8, "profiles": [VTPM]}, "ephemeral.days", "at most 7"),
        ({"days": "7", "profiles": [VTPM]}, "ephemeral.days", "whole number"),
        ({"days": 7, "volatile_stores": 1}, "ephemeral.volatile_stores", "true or false"),
        ({"days": 7, "volatile_stores": True, "surprise": 1}, "ephemeral.surprise", "no member"),
    ],
)
def test_what_cannot_be_meant_is_refused(content, toml, table, path, said):
    content["ephemeral"] = table
    with pytest.raises(BadRequest, match=said) as caught:
        load(toml(content))
    assert (caught.value.path, caught.value.code) == (path, "policy-invalid")


def test_the_limit_is_that_of_the_certificates():
    assert EPHEMERAL_LIMIT.days == MAX_EPHEMERAL_DAYS == EphemeralTerms().days


def test_what_wants_a_second_look_is_warned_of(content, toml):
    before = load(toml(content)).warnings()
    content["ephemeral"] = {"days": 7, "profiles": [SERVICES]}
    assert load(toml(content)).warnings() == before
    content["ephemeral"] = {"days": 7, "profiles": [SERVICES, VTPM], "volatile_stores": True}
    bare, volatile = load(toml(content)).warnings()[len(before) :]
    assert "states no key broker" in bare
    assert "volatile stores" in volatile


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    profile=st.sampled_from(["svsm-vtpm-ca:1", SERVICES, VTPM, "svsm-vtpm-session:1", ""]),
    mode=st.sampled_from(["persistent", "volatile", "", "other"]),
    store_format=st.sampled_from(["cocoonfs/1", "none", ""]),
    table=st.sampled_from(
        [None, {"days": 1, "volatile_stores": True}, {"days": 1, "profiles": [SERVICES, VTPM]}]
    ),
)
def test_what_is_admitted_by_the_table_alone_is_ephemeral(
    able, facts, refusals, profile, mode, store_format, table
):
    """A production policy never admits for a persistent certificate what states no persistent store."""
    asked = replace(
        facts,
        launch=replace(facts.launch, simulated=False),
        profile=profile,
        store_mode=mode,
        store_format=store_format,
    )
    without = {name: value for name, value in able.items() if name != "ephemeral"}
    document = without if table is None else without | {"ephemeral": table}
    persistent = profile == "svsm-vtpm-ca:1" and mode == "persistent"
    if refusals(document, asked, "production") == [] and not persistent:
        assert table is not None
        assert refusals(without, asked, "production") != []


def test_whatever_is_not_persistent_is_ephemeral_whatever_the_policy_says():
    """`is_ephemeral` takes the claims and nothing else: no document, mode or entry has a say in the issuer."""
    assert list(inspect.signature(is_ephemeral).parameters) == ["claims"]


def test_the_form_of_iak_certificates(content, toml):
    assert load("schema = 1").iak_profile == load(toml(content)).iak_profile == "iak"
    before = load(toml(content)).warnings()
    content["tpm"]["iak_profile"] = "iak-webauthn"
    policy = load(toml(content))
    assert policy.iak_profile == "iak-webauthn"
    lacking, curve = policy.warnings()[len(before) :]
    assert "HardwareModuleName" in lacking
    assert "P-256" in curve
    content["tpm"]["iak"] = ["H-2"]
    assert load(toml(content)).warnings()[len(before) :] == [lacking]
    content["tpm"]["iak_profile"] = "webauthn"
    with pytest.raises(BadRequest) as caught:
        load(toml(content))
    assert caught.value.path == "tpm.iak_profile"


def test_the_terms_have_no_member_that_a_table_cannot_set():
    assert {field.name for field in fields(EphemeralTerms)} == {"days", "profiles", "volatile_stores"}
