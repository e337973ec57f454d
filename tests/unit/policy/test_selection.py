"""Which entry a report is judged by: a few candidates, found by lookups, and the one that admits counts."""

from dataclasses import replace

import pytest

from ca_service.judgment import BadRequest
from ca_service.policy import load
from ca_service.policy.judging.selection import judged


@pytest.fixture
def three(content):
    """The same launch listed by measurement, by ID key and by author key."""
    first = content["launch"][0] | {
        "name": "measured",
        "host_data": ["01" * 32],
        "capabilities": ["verifies-grants", "reports-state"],
    }
    content["launch"] = [
        first,
        first
        | {"name": "by-id-key", "unconstrained": ["measurement", "author-key"], "host_data": ["02" * 32]},
        first
        | {
            "name": "by-author-key",
            "unconstrained": ["measurement", "id-key"],
            "author_keys": ["a5" * 48],
            "host_data": ["03" * 32],
        },
    ]
    del content["launch"][1]["measurement"]
    del content["launch"][2]["measurement"]
    del content["launch"][2]["id_keys"]
    return content


def name_of(policy, facts, given_up=()):
    entry = judged(policy, facts, given_up)
    return entry and entry.name


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"host_data": b"\x01" * 32}, "measured"),
        ({"host_data": b"\x02" * 32}, "by-id-key"),
        ({"host_data": b"\x03" * 32}, "by-author-key"),
        ({"host_data": b"\x02" * 32, "measurement": b"\x77" * 48}, "by-id-key"),
        (
            {"host_data": b"\x03" * 32, "measurement": b"\x77" * 48, "id_key_digest": b"\x88" * 48},
            "by-author-key",
        ),
    ],
)
def test_the_entry_whose_demands_hold_counts(three, launched, refusals, toml, changes, name):
    facts = launched(**changes)
    assert refusals(three, facts) == []
    assert name_of(load(toml(three)), facts) == name


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "measured"),
        ({"measurement": b"\x77" * 48}, "by-id-key"),
        ({"measurement": b"\x77" * 48, "id_key_digest": bytes(48)}, "by-author-key"),
        ({"measurement": b"\x77" * 48, "id_key_digest": bytes(48), "key_flags": 0}, None),
        ({"measurement": b"\x77" * 48, "id_key_digest": bytes(48), "author_key_digest": bytes(48)}, None),
    ],
)
def test_if_none_holds_the_most_particular_one_is_traced(three, launched, refusals, toml, changes, name):
    facts = launched(host_data=bytes(32), **changes)
    assert "launch.host-data" in refusals(three, facts)
    assert name_of(load(toml(three)), facts) == name


def test_demands_of_two_entries_are_never_mixed(three, launched, refusals):
    # What one entry allows in one field and another in another field is allowed by none.
    three["launch"][1]["min_guest_svn"] = 9
    facts = launched(host_data=b"\x02" * 32, guest_svn=3)
    assert refusals(three, facts) == ["launch.host-data"]


def test_a_rule_that_is_given_up_has_no_say_in_the_choice(three, launched, toml):
    facts = launched(host_data=b"\x02" * 32, version=4)
    policy = load(toml(three))
    assert name_of(policy, facts) == "measured"
    assert name_of(policy, facts, {"platform.report-version"}) == "by-id-key"


def test_a_profile_is_judged_by_an_entry_that_can_do_what_it_needs(three, facts, launched, refusals):
    three["ephemeral"] = {"days": 1, "profiles": ["amd-svsm-services"]}
    three["launch"][1] |= {"host_data": ["01" * 32], "capabilities": ["oracle-free", "verifies-grants"]}
    both = replace(facts, launch=launched(host_data=b"\x01" * 32))
    assert refusals(three, both) == []
    assert refusals(three, replace(both, profile="amd-svsm-services")) == []
    del three["launch"][1]
    assert refusals(three, both) == []
    assert refusals(three, replace(both, profile="amd-svsm-services")) == ["launch.capabilities"]


def test_an_entry_that_does_not_hold_lends_no_capability(three, facts, launched, refusals):
    three["ephemeral"] = {"days": 1, "profiles": ["amd-svsm-vtpm:0"]}
    three["launch"][1] |= {"capabilities": ["oracle-free"]}
    measured = replace(facts, launch=launched(host_data=b"\x01" * 32), profile="amd-svsm-vtpm:0")
    assert refusals(three, measured) == ["launch.capabilities"]


def test_two_entries_are_never_found_by_the_same_key(three, toml):
    again = three["launch"][1] | {"name": "again", "id_keys": ["99" * 48, "5a" * 48]}
    with pytest.raises(BadRequest, match='finds the entry "by-id-key" already') as caught:
        load(toml(three | {"launch": [*three["launch"], again]}))
    assert caught.value.path == "launch[3].id_keys[1]"
    again = three["launch"][2] | {"name": "again"}
    with pytest.raises(BadRequest, match='finds the entry "by-author-key" already') as caught:
        load(toml(three | {"launch": [*three["launch"], again]}))
    assert caught.value.path == "launch[3].author_keys[0]"


def test_an_entry_without_platform_counts_where_platforms_are_given_up(three, launched, refusals):
    del three["launch"][1]["platform"]
    facts = launched(host_data=b"\x02" * 32)
    assert refusals(three, facts) == ["launch.host-data"]
    three["unsafe"] = [{"name": "UnsafeAllowAnyPlatform", "gives_up": "what it runs on"}]
    assert refusals(three, facts) == []


# -- one build on several platforms ---------------------------------------------------------------------------


@pytest.fixture
def hosted(content):
    """One build on own racks (VCEK, these chips) and at a provider (VLEK, whose hosts mask their chip id)."""
    rack, build = content["platform"][0], content["launch"][0]
    cloud = rack | {"name": "cloud", "keys": ["VLEK"], "unconstrained": ["chip"]}
    del cloud["chips"]
    content["platform"] = [rack, cloud]
    content["launch"] = [
        build | {"name": "on-racks"},
        build | {"name": "hosted", "platform": "cloud", "host_data": ["d9" * 32]},
    ]
    return content


VCEK, VLEK = 1, 1 | 1 << 2


@pytest.mark.parametrize(
    ("changes", "name", "rules"),
    [
        ({}, "on-racks", []),
        ({"key_flags": VLEK, "chip_id": bytes(64), "host_data": b"\xd9" * 32}, "hosted", []),
        ({"host_data": b"\xd9" * 32}, "on-racks", ["launch.host-data"]),
        (
            {"chip_id": bytes(64), "host_data": b"\xd9" * 32},
            "on-racks",
            ["launch.host-data", "platform.chip"],
        ),
        (
            {"key_flags": VLEK, "chip_id": bytes(64)},
            "on-racks",
            ["platform.signing-key", "platform.chip"],
        ),
    ],
)
def test_one_build_may_have_other_demands_on_another_platform(
    hosted, launched, refusals, toml, changes, name, rules
):
    facts = launched(**changes)
    assert refusals(hosted, facts) == rules
    assert name_of(load(toml(hosted)), facts) == name


def test_each_of_them_is_one_of_the_launches(hosted, toml):
    assert [entry.name for entry in load(toml(hosted)).launches.entries()] == ["hosted", "on-racks"]


def test_on_one_platform_a_build_has_one_entry(hosted, toml):
    again = hosted["launch"][1] | {"name": "again"}
    hosted["launch"].append(again)
    with pytest.raises(BadRequest, match='finds the entry "hosted" already, on the same platform') as caught:
        load(toml(hosted))
    assert caught.value.path == "launch[2].measurement"
    del hosted["launch"][1]["platform"], again["platform"]
    with pytest.raises(BadRequest, match='finds the entry "hosted" already, on the same platform'):
        load(toml(hosted))


@pytest.mark.parametrize("count", [8, 9])
def test_a_build_has_so_many_entries_and_no_more(hosted, launched, refusals, toml, count):
    rack, build = hosted["platform"][0], hosted["launch"][0]
    names = [f"rack-{i}" for i in range(count)]
    hosted["platform"] = [rack | {"name": name} for name in names]
    hosted["launch"] = [
        build | {"name": name, "platform": name, "host_data": [f"{i:064x}"]} for i, name in enumerate(names)
    ]
    if count == 8:
        assert refusals(hosted, launched(host_data=bytes(31) + b"\x07")) == []
        return
    with pytest.raises(BadRequest, match="finds 8 entries already") as caught:
        load(toml(hosted))
    assert caught.value.path == "launch[8].measurement"
