"""Properties: what is taken away from a document never lets in what was kept out; patterns mean what they say."""

import copy
from dataclasses import replace
from datetime import timedelta
from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_service.judgment import BadRequest, Finding, judge_all
from ca_service.policy import UNSAFE_RULES, checks, load
from ca_service.policy.resources import ANY, lookup, overlaps

FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

_CONSTRAINTS = {"release_policies", "valid_from", "valid_to", "compromised_since", "label"}
"""Members that narrow an entry: to take one away as a whole widens it, so that is no removal of an entry."""


def removable(value, path=()):
    """Paths of all tables, members and list elements whose absence takes a permission away."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        if step not in _CONSTRAINTS:
            yield (*path, step)
        if step not in ("jwk", "label"):
            yield from removable(inner, (*path, step))


def without(content, path):
    changed = copy.deepcopy(content)
    place = changed
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return changed


@st.composite
def drawn_facts(draw, facts, keys):
    return replace(
        facts,
        product=draw(st.sampled_from(["Milan", "Genoa", "Turin", None])),
        simulated=draw(st.booleans()),
        measurement=draw(st.sampled_from([b"\x11" * 48, b"\x22" * 48, b"\x33" * 48])),
        vmpl=draw(st.sampled_from([0, 0, 0, 1])),
        kbs_thumbprint=draw(st.sampled_from([*(key.thumbprint() for key in keys), "nobody"])),
        resource=draw(st.sampled_from(["default/vtpm/a", "default/pool/a", "x/vtpm/a", "x/y/z"])),
        origin=draw(st.sampled_from(["kbs-generated", "provisioned"])),
        release_policy=draw(st.sampled_from(["ab" * 32, "cd" * 32, "00" * 32])),
        grant_iat=int(facts.at.timestamp()) - draw(st.sampled_from([0, 60, 4000])),
        store_mode=draw(st.sampled_from(["persistent", "persistent", "volatile"])),
        store_format=draw(st.sampled_from(["cocoonfs/1", "cocoonfs/2", "none"])),
        ek_templates=draw(st.sampled_from([("L-1",), ("L-1", "H-3"), ("L-2",)])),
        idevid_template=draw(st.sampled_from(["H-3", "H-2", "H-1"])),
        at=facts.at + timedelta(days=draw(st.sampled_from([0, 0, 0, 300]))),
    )


@FUZZ
@given(data=st.data())
def test_removing_entries_never_admits_what_was_refused(content, facts, keys, toml, data):
    names = data.draw(st.lists(st.sampled_from(sorted(UNSAFE_RULES)), unique=True, max_size=3))
    if names:
        content = content | {"unsafe": [{"name": name, "gives_up": "x"} for name in names]}
    asked = data.draw(drawn_facts(facts, keys))
    before = load(toml(content))
    narrowed = content
    for _ in range(data.draw(st.integers(1, 4))):
        candidate = without(narrowed, data.draw(st.sampled_from(sorted(removable(narrowed), key=str))))
        try:
            after = load(toml(candidate))
        except BadRequest:
            continue  # what is left is no document: it can be put in force by nobody
        narrowed = candidate
        if judge_all(checks(after, "simulation"), asked).admitted:
            assert judge_all(checks(before, "simulation"), asked).admitted


def test_every_single_removal_leaves_the_refused_refused(content, facts, toml, refusals):
    bad = [
        replace(facts, measurement=b"\x22" * 48),
        replace(facts, resource="x/y/z"),
        replace(facts, origin="provisioned"),
        replace(facts, release_policy="00" * 32),
        replace(facts, store_mode="volatile"),
        replace(facts, product="Turin"),
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
    assert loaded > 15


@FUZZ
@given(data=st.data())
def test_permissive_entries_change_nothing_on_a_production_ca(content, facts, keys, toml, data):
    names = data.draw(st.lists(st.sampled_from(sorted(UNSAFE_RULES)), unique=True, min_size=1, max_size=8))
    policy = load(toml(content | {"unsafe": [{"name": name, "gives_up": "x"} for name in names]}))
    asked = data.draw(drawn_facts(facts, keys))
    assert not judge_all(checks(policy, "production"), asked).admitted


@FUZZ
@given(data=st.data())
def test_a_decision_depends_on_its_inputs_alone(content, facts, keys, toml, data):
    asked = data.draw(drawn_facts(facts, keys))
    once, again = (judge_all(checks(load(toml(content)), "simulation"), asked) for _ in range(2))
    assert once == again


_TEXT = st.text(max_size=40)


@FUZZ
@given(data=st.data())
def test_the_checks_are_total(content, facts, toml, data):
    asked = replace(
        facts,
        product=data.draw(st.none() | _TEXT),
        measurement=data.draw(st.binary(max_size=60)),
        vmpl=data.draw(st.integers()),
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
    trace = judge_all(
        checks(load(toml(content)), data.draw(st.sampled_from(["simulation", "production"]))), asked
    )
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


@pytest.mark.parametrize("size", [10, 10_000])
def test_a_decision_looks_up_and_never_scans(content, facts, toml, size):
    launches = [
        {
            "name": f"build-{i}",
            "measurement": f"{i:096x}",
            "capabilities": ["verifies-grants", "reports-state"],
            "products": ["Milan"],
        }
        for i in range(size)
    ]
    policy = load(toml(content | {"launch": content["launch"] + launches}))
    counted = replace(policy, launches=Counted(policy.launches), kbs=Counted(policy.kbs))
    Counted.lookups = 0
    assert judge_all(checks(counted, "simulation"), facts).admitted
    assert judge_all(checks(counted, "simulation"), replace(facts, measurement=b"")).refusal is not None
    assert Counted.lookups <= 20
