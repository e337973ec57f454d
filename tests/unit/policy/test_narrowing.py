"""Properties: what is taken away from a document never lets in what was kept out; patterns mean what they say."""

import copy
from dataclasses import replace
from datetime import UTC, timedelta
from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_service.judgment import BadRequest, Finding
from ca_service.policy import UNSAFE_RULES, load
from ca_service.policy.entries.launches import LaunchIndex
from ca_service.policy.entries.resources import ANY, lookup, overlaps
from vtpm.wire.report import REPORT_SIZE, Product, Report

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

_CONSTRAINTS = {
    "release_policies",
    "grant_max_age_s",
    "valid_from",
    "valid_to",
    "compromised_since",
    "label",
    "ear",
    "deny",
    "tcb",
}
"""Members that narrow an entry, or whose elements do: to take one away widens it, so that is no removal of an entry.

A later floor is one: without it the earlier floor stays in force.
"""


def removable(value, path=()):
    """Paths of all tables, members and list elements whose absence takes a permission away."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        if step not in _CONSTRAINTS:
            yield (*path, step)
        if step not in ("jwk", *_CONSTRAINTS):
            yield from removable(inner, (*path, step))


def without(content, path):
    changed = copy.deepcopy(content)
    place = changed
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return changed


@pytest.fixture
def content(content):
    """With one launch under four entries, of which each could admit what another refuses."""
    launch = content["launch"]
    signed, host = launch[2], {"host_data": ["d2" * 32]}
    signed["id_keys"] = ["5a" * 48]
    author = signed | host | {"name": "author", "unconstrained": ["measurement", "id-key", "abi"]}
    del author["id_keys"], author["min_abi"]
    signed["host_data"] = ["d1" * 32, "d2" * 32]
    signed["platform"] = "cloud"
    fleet = content["platform"][0]
    cloud = fleet | {"name": "cloud", "chips": {"deny": ["01" * 64]}, "unconstrained": ["launch-mitigations"]}
    cloud["mitigations"] = {"current": 2}
    for entry in (signed, author):
        entry["capabilities"] = ["verifies-grants", "reports-state", "oracle-free"]
    content["ephemeral"] = {
        "days": 3,
        "profiles": ["amd-svsm-services", "amd-svsm-vtpm:0"],
        "volatile_stores": True,
    }
    content["kbs"][0]["grant_max_age_s"] = 5000
    content["kbs"][1]["grant_max_age_s"] = 30
    hosted = launch[0] | {"name": "hosted", "host_data": ["d3" * 32], "platform": "cloud"}
    return content | {"launch": [*launch, author, hosted], "platform": [fleet, cloud]}


@st.composite
def drawn_launch(draw, launched):
    """A launch of which most fields are as some entry wants them."""
    pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731 - the shortest way to say it
    facts = launched(
        measurement=pick(b"\x11", b"\x22", b"\x33") * 48,
        vmpl=pick(0, 0, 0, 1),
        id_key_digest=pick(b"\x5a", b"\x5a", b"\x5b", b"\0") * 48,
        key_flags=pick(1, 1, 1, 0, 5),
        host_data=pick(b"\xd0", b"\xd1", b"\xd2", b"\xd3", b"\0") * 32,
        guest_svn=pick(3, 3, 2),
        policy=1 << 17 | pick(1 << 25, 1 << 25, 1 << 16) | pick(1 << 8 | 51, 0),
        version=pick(5, 5, 3, 2),
        platform_info=pick(0x25, 0x25, 0x05, 0xFF),
        chip_id=pick(bytes(range(64)), b"\x01" * 64, b"\x02" * 64, bytes(64)),
        launch_mit_vector=pick(0b101, 0),
        reported_tcb=bytes([4, 0, 0, 0, 0, 0, 27, pick(219, 219, 218, 255)]),
        committed_firmware=pick((1, 55, 29), (1, 55, 29), (1, 55, 28)),
    )
    at = facts.at + timedelta(days=pick(0, 0, 0, 300))
    return replace(
        facts,
        product=pick(Product.MILAN, Product.MILAN, Product.GENOA, Product.TURIN, None),
        simulated=draw(st.booleans()),
        crl_issued_at=pick(at, at, at - timedelta(days=31), None),
        at=at,
    )


@st.composite
def drawn_facts(draw, facts, keys, launched):
    return replace(
        facts,
        launch=draw(drawn_launch(launched)),
        kbs_thumbprint=draw(st.sampled_from([*(key.thumbprint() for key in keys), "nobody"])),
        resource=draw(st.sampled_from(["default/vtpm/a", "default/pool/a", "x/vtpm/a", "x/y/z"])),
        origin=draw(st.sampled_from(["kbs-generated", "provisioned"])),
        release_policy=draw(st.sampled_from(["ab" * 32, "cd" * 32, "00" * 32])),
        grant_iat=int(facts.at.timestamp()) - draw(st.sampled_from([0, 60, 4000])),
        store_mode=draw(st.sampled_from(["persistent", "persistent", "volatile"])),
        store_format=draw(st.sampled_from(["cocoonfs/1", "cocoonfs/2", "none"])),
        ek_templates=draw(st.sampled_from([("L-1",), ("L-1", "H-3"), ("L-2",)])),
        idevid_template=draw(st.sampled_from(["H-3", "H-2", "H-1"])),
        profile=draw(
            st.sampled_from(["svsm-vtpm-ca:1", "svsm-vtpm-ca:1", "amd-svsm-services", "amd-svsm-vtpm:0"])
        ),
    )


def narrowed(content, toml, data, times):
    """Documents from which more and more was taken away, loaded."""
    for _ in range(times):
        candidate = without(content, data.draw(st.sampled_from(sorted(removable(content), key=str))))
        try:
            yield load(toml(candidate))
        except BadRequest:
            continue  # what is left is no document: it can be put in force by nobody
        content = candidate


def permissive(content, data):
    names = data.draw(st.lists(st.sampled_from(sorted(UNSAFE_RULES)), unique=True, max_size=3))
    return content | {"unsafe": [{"name": name, "gives_up": "x"} for name in names]} if names else content


@FUZZ
@given(data=st.data())
def test_removing_entries_never_admits_what_was_refused(content, facts, keys, toml, judge, launched, data):
    content = permissive(content, data)
    asked = data.draw(drawn_facts(facts, keys, launched))
    before = judge(content, asked).admitted
    for after in narrowed(content, toml, data, data.draw(st.integers(1, 4))):
        assert before or not judge(after, asked).admitted


@FUZZ
@given(data=st.data())
def test_nor_does_it_admit_a_launch_that_was_refused(content, toml, judge, launched, data):
    content = permissive(content, data)
    asked = data.draw(drawn_launch(launched))
    before = judge(content, asked).admitted
    for after in narrowed(content, toml, data, data.draw(st.integers(1, 4))):
        assert before or not judge(after, asked).admitted


@pytest.mark.parametrize(
    ("host_data", "mitigations", "version"),
    [(0xD0, 5, 5), (0xD1, 0, 3), (0xD2, 5, 5), (0xD2, 0, 3), (0xD3, 0, 5)],
)
def test_these_launches_are_admitted_by_one_entry_or_another(
    content, refusals, launched, host_data, mitigations, version
):
    changes = {"host_data": bytes([host_data]) * 32, "launch_mit_vector": mitigations, "version": version}
    assert refusals(content, launched(**changes)) == []


def test_entries_admit_together_what_each_of_them_admits_alone(content, toml, judge, launched):
    asked = [
        launched(host_data=bytes([host_data]) * 32, launch_mit_vector=mitigations, version=version)
        for host_data in (0xD0, 0xD1, 0xD2, 0xD3)
        for mitigations in (0, 5)
        for version in (3, 5)
    ]

    def admitted(entries):
        policy = load(toml(content | {"launch": list(entries)}))
        return {i for i, facts in enumerate(asked) if judge(policy, facts).admitted}

    alone = {entry["name"]: admitted([entry]) for entry in content["launch"]}
    assert [len(found) for found in alone.values()] == [4, 0, 8, 2, 4]
    for count in range(2, 6):
        for entries in combinations(content["launch"], count):
            assert admitted(entries) == set().union(*(alone[entry["name"]] for entry in entries))


def test_every_single_removal_leaves_the_refused_refused(content, facts, launched, toml, refusals):
    bad = [
        *(
            replace(facts, **change)
            for change in (
                {"resource": "x/y/z"},
                {"origin": "provisioned"},
                {"release_policy": "00" * 32},
                {"store_mode": "volatile"},
                {"profile": "svsm-vtpm-session:1"},
                {"launch": replace(facts.launch, product=Product.TURIN)},
                {"launch": replace(facts.launch, crl_issued_at=None)},
            )
        ),
        *(
            replace(facts, launch=launched(**change))
            for change in (
                {"measurement": b"\x22" * 48},
                {"host_data": bytes(32)},
                {"host_data": b"\xd3" * 32, "chip_id": b"\x01" * 64},
                {"guest_svn": 2},
                {"policy": 1 << 17 | 1 << 8 | 51},
                {"platform_info": 0x21},
                {"version": 2},
                {"chip_id": b"\x01" * 64},
                {"current_mit_vector": 0},
                {"launch_tcb": bytes(8)},
                {"current_firmware": (1, 54, 0)},
            )
        ),
    ]
    loaded = 0
    for path in removable(content):
        try:
            policy = load(toml(without(content, path)))
        except BadRequest:
            continue
        loaded += 1
        for asked in bad:
            assert refusals(policy, asked), path
    assert loaded > 60


@FUZZ
@given(data=st.data())
def test_permissive_entries_change_nothing_on_a_production_ca(content, facts, keys, judge, launched, data):
    names = data.draw(st.lists(st.sampled_from(sorted(UNSAFE_RULES)), unique=True, min_size=1, max_size=9))
    permissive = content | {"unsafe": [{"name": name, "gives_up": "x"} for name in names]}
    asked = data.draw(drawn_facts(facts, keys, launched))
    assert not judge(permissive, asked, "production").admitted


@FUZZ
@given(data=st.data())
def test_a_decision_depends_on_its_inputs_alone(content, facts, keys, judge, launched, data):
    asked = data.draw(drawn_facts(facts, keys, launched))
    once, again = (judge(content, asked) for _ in range(2))
    assert once == again


_TEXT = st.text(max_size=40)


@FUZZ
@given(data=st.data())
def test_the_checks_are_total(content, facts, toml, judge, data):
    raw = data.draw(st.binary(min_size=REPORT_SIZE, max_size=REPORT_SIZE))
    asked = replace(
        facts,
        launch=replace(
            facts.launch,
            report=Report.parse(raw),
            product=data.draw(st.none() | st.sampled_from(Product)),
            crl_issued_at=data.draw(st.none() | st.datetimes(timezones=st.just(UTC))),
            at=data.draw(st.datetimes(timezones=st.just(UTC))),
        ),
        kbs_thumbprint=data.draw(_TEXT | st.just(facts.kbs_thumbprint)),
        resource=data.draw(_TEXT),
        origin=data.draw(_TEXT),
        release_policy=data.draw(_TEXT),
        grant_iat=data.draw(st.integers()),
        store_mode=data.draw(_TEXT),
        store_format=data.draw(_TEXT),
        ek_templates=tuple(data.draw(st.lists(_TEXT, max_size=4))),
        iak_template=data.draw(_TEXT),
        idevid_template=data.draw(_TEXT),
        profile=data.draw(_TEXT),
    )
    trace = judge(content, asked, data.draw(st.sampled_from(["simulation", "production"])))
    assert all(isinstance(finding, Finding) for finding in trace.findings)
    assert not trace.admitted


# -- patterns -------------------------------------------------------------------------------------------------

_PART = st.sampled_from(["a", "b", "c", ANY])
_PATTERN = st.tuples(_PART, _PART, _PART)


def covers(pattern, resource):
    return all(part in (ANY, given_part) for part, given_part in zip(pattern, resource, strict=True))


@settings(max_examples=500, deadline=None)
@given(patterns=st.lists(_PATTERN, max_size=8))
def test_overlaps_are_found_and_only_overlaps(patterns):
    resources = [(x, y, z) for x in "abcd" for y in "abcd" for z in "abcd"]
    later = {
        j
        for i, j in combinations(range(len(patterns)), 2)
        if any(covers(patterns[i], r) and covers(patterns[j], r) for r in resources)
    }
    found = list(overlaps(patterns))
    assert {j for _, j in found} == later
    for i, j in found:
        assert i < j
        assert any(covers(patterns[i], r) and covers(patterns[j], r) for r in resources)


@settings(max_examples=300, deadline=None)
@given(
    patterns=st.dictionaries(_PATTERN, st.booleans(), max_size=8),
    parts=st.tuples(*[st.sampled_from("abcd")] * 3),
)
def test_a_lookup_finds_what_a_scan_would_find(patterns, parts):
    scanned = [shared for pattern, shared in patterns.items() if covers(pattern, parts)]
    found = lookup(patterns, "/".join(parts))
    assert (found is None) == (not scanned)
    assert found is None or found in scanned


class Counted(dict):
    """Counts lookups, refuses to be scanned."""

    lookups = 0

    def get(self, *args):
        type(self).lookups += 1
        return super().get(*args)

    def __iter__(self):
        raise AssertionError("a policy was scanned")

    items = values = keys = __iter__


@pytest.mark.parametrize("size", [10, 2_000])
def test_a_decision_looks_up_and_never_scans(content, facts, launched, toml, judge, size):
    launches = [
        content["launch"][1] | {"name": f"build-{i}", "measurement": f"{i:096x}"} for i in range(size)
    ]
    policy = load(toml(content | {"launch": content["launch"] + launches}))
    found = policy.launches
    index = LaunchIndex(Counted(found.by_measurement), Counted(found.by_id_key), Counted(found.by_author_key))
    counted = replace(policy, launches=index, platforms=Counted(policy.platforms), kbs=Counted(policy.kbs))
    Counted.lookups = 0
    assert judge(counted, facts).admitted
    assert judge(counted, replace(facts, launch=launched(measurement=bytes(48)))).refusal is not None
    assert Counted.lookups <= 30
