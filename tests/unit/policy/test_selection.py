"""Which entry a report is judged by: at most three candidates, found by lookups, and the one that admits counts."""

from dataclasses import replace

import pytest

from ca_service.judgment import BadRequest
from ca_service.policy import load
from ca_service.policy.selection import judged


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
    three["launch"][1] |= {"host_data": ["01" * 32], "capabilities": ["oracle-free"]}
    both = replace(facts, launch=launched(host_data=b"\x01" * 32))
    assert refusals(three, both) == []
    assert refusals(three, replace(both, profile="amd-svsm-services")) == []
    del three["launch"][1]
    assert refusals(three, both) == []
    assert refusals(three, replace(both, profile="amd-svsm-services")) == ["launch.capabilities"]


def test_an_entry_that_does_not_hold_lends_no_capability(three, facts, launched, refusals):
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
