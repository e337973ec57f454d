"""Each rule about a launch: what it admits, what it refuses alone, and what its trace tells the operator."""

from dataclasses import replace

import pytest

from ca_service.judgment import BadRequest, Verdict
from ca_service.policy import load
from vtpm.wire.report import Product

BIT_17, SWAP_OFF, ABI_1_51 = 1 << 17, 1 << 25, 1 << 8 | 51


def finding(trace, rule):
    (found,) = (f for f in trace.findings if f.rule == rule)
    return found


def policy(*bits, abi=ABI_1_51):
    return {"policy": BIT_17 | abi | sum(1 << bit for bit in bits)}


@pytest.mark.parametrize(
    "changes",
    [
        {"host_data": b"\xd1" * 32},
        {"guest_svn": 2**32 - 1},
        policy(25, abi=1 << 8 | 52),
        policy(25, abi=2 << 8),
        policy(25, 20),
        policy(25, 20, 22, 23, 24),
        {"author_key_digest": bytes(48), "key_flags": 0},
        {"report_data": b"\x01" * 64, "report_id": b"\x02" * 32},
    ],
)
def test_what_the_entry_allows_is_admitted(content, launched, refusals, changes):
    assert refusals(content, launched(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "rule", "expected", "actual"),
    [
        ({"vmpl": 1}, "launch.measurement", "at VMPL 0", "(standard), at VMPL 1"),
        ({"vmpl": 3}, "launch.measurement", "at VMPL 0", "(standard), at VMPL 3"),
        ({"id_key_digest": bytes(48)}, "launch.id-key", "5a" * 48, "00" * 48),
        ({"id_key_digest": b"\x5b" * 47 + b"\x5a"}, "launch.id-key", "5a" * 48, "5b" * 47 + "5a"),
        ({"host_data": bytes(32)}, "launch.host-data", "one of 2 values", "00" * 32),
        ({"family_id": bytes(16)}, "launch.family-id", "fa" * 16, "00" * 16),
        ({"image_id": b"\xfa" * 16}, "launch.image-id", "1a" * 16, "fa" * 16),
        ({"guest_svn": 2}, "launch.guest-svn", "at least 3", "2"),
        (policy(25, abi=1 << 8 | 50), "launch.abi", "at least 1.51", "1.50"),
        (policy(25, abi=0xFF), "launch.abi", "at least 1.51", "0.255"),
        (policy(25, abi=0), "launch.abi", "at least 1.51", "0.0"),
        (policy(), "launch.guest-policy", "set: page-swap-disabled; not set: cxl, smt", "(set: none)"),
        (policy(25, 16), "launch.guest-policy", "not set: cxl, smt", "(set: page-swap-disabled, smt)"),
        (policy(25, 21), "launch.guest-policy", "not set: cxl, smt", "(set: cxl, page-swap-disabled)"),
    ],
)
def test_what_it_does_not_allow_is_refused_by_one_rule(
    content, launched, judge, refusals, changes, rule, expected, actual
):
    facts = launched(**changes)
    assert refusals(content, facts) == [rule]
    found = finding(judge(content, facts), rule)
    assert expected in found.expected
    assert actual in found.actual


@pytest.mark.parametrize("product", [None, "milan", "Turin"])
def test_the_product_is_one_that_the_launch_lists(content, launch, judge, product):
    found = finding(judge(content, replace(launch, product=product and Product.TURIN)), "launch.product")
    assert found.verdict is Verdict.FAILED
    assert (found.expected, found.actual) == ("Genoa, Milan", (product and "Turin") or "unknown")


def test_a_launch_that_is_not_listed_meets_no_demand_at_all(content, launched, judge):
    facts = launched(measurement=b"\x33" * 48)
    trace = judge(content, facts)
    allowed = [f.rule for f in trace.findings if f.verdict is not Verdict.FAILED]
    assert allowed == ["policy.mode", "launch.simulated"]
    assert finding(trace, "launch.measurement").actual == f"{'33' * 48} (not listed), at VMPL 0"


def test_an_author_key_counts_only_where_the_report_says_that_there_is_one(content, launched, refusals):
    content["launch"][0] |= {"author_keys": ["a5" * 48], "unconstrained": []}
    assert refusals(content, launched()) == []
    assert refusals(content, launched(key_flags=0)) == ["launch.author-key"]
    assert refusals(content, launched(author_key_digest=bytes(48))) == ["launch.author-key"]
    assert refusals(content, launched(author_key_digest=b"\x5a" * 48)) == ["launch.author-key"]


MEMBERS = {
    "launch.measurement": ("measurement", {"measurement": b"\x34" * 48, "id_key_digest": b"\x5a" * 48}),
    "launch.id-key": ("id_keys", {"id_key_digest": bytes(48)}),
    "launch.author-key": ("author_keys", {"author_key_digest": bytes(48)}),
    "launch.host-data": ("host_data", {"host_data": bytes(32)}),
    "launch.family-id": ("family_ids", {"family_id": bytes(16)}),
    "launch.image-id": ("image_ids", {"image_id": bytes(16)}),
    "launch.guest-svn": ("min_guest_svn", {"guest_svn": 0}),
    "launch.abi": ("min_abi", policy(25, abi=0)),
    "launch.guest-policy": ("guest_policy", policy(16, 21)),
}
"""The member that states a constraint, and what breaks it."""


@pytest.fixture
def full(content):
    """One launch that states everything."""
    content["launch"] = [content["launch"][0] | {"author_keys": ["a5" * 48], "unconstrained": []}]
    return content


@pytest.mark.parametrize("rule", MEMBERS)
def test_a_constraint_is_stated_given_up_or_denies(full, launched, judge, refusals, toml, rule):
    member, changes = MEMBERS[rule]
    entry = full["launch"][0]
    good, bad = launched(), launched(**changes)
    assert refusals(full, good) == []
    assert rule in refusals(full, bad)

    value = entry.pop(member)
    assert refusals(full, good) == [rule]
    unstated = finding(judge(full, good), rule)
    assert "the policy does not say" in unstated.expected
    assert unstated.reason
    assert "policy" not in unstated.reason.replace("guest policy", "")
    assert [(open_.rule, open_.path, open_.entry) for open_ in load(toml(full)).unstated] == [
        (rule, f"launch[0].{member}", ' (entry "standard")')
    ]

    entry["unconstrained"] = [rule.removeprefix("launch.")]
    assert refusals(full, good) == []
    assert refusals(full, bad) == []
    assert "unconstrained" in finding(judge(full, bad), rule).expected
    assert load(toml(full)).unstated == ()

    entry[member] = value
    with pytest.raises(BadRequest, match=r"is stated, so \"[a-z-]+\" cannot be unconstrained") as caught:
        load(toml(full))
    assert caught.value.path == "launch[0].unconstrained[0]"


def test_vmpl_0_is_asked_for_even_where_any_measurement_will_do(full, launched, refusals):
    del full["launch"][0]["measurement"]
    full["launch"][0]["unconstrained"] = ["measurement"]
    assert refusals(full, launched(measurement=b"\x34" * 48)) == []
    assert refusals(full, launched(measurement=b"\x34" * 48, vmpl=2)) == ["launch.measurement"]
    assert refusals(full, launched(measurement=b"\x34" * 48, vmpl=2**32 - 1)) == ["launch.measurement"]


def test_a_launch_that_names_no_platform_stands_nowhere(content, launch, refusals, toml):
    del content["launch"][0]["platform"]
    platform_rules = [rule for rule in refusals(content, launch) if rule.startswith("platform.")]
    assert refusals(content, launch) == platform_rules
    assert platform_rules[0] == "platform.stated"
    assert len(platform_rules) == 14
    assert [(open_.rule, open_.path) for open_ in load(toml(content)).unstated] == [
        ("platform.stated", "launch[0].platform")
    ]
