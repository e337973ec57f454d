"""A decision looks entries up and goes through none of them, and what it says does not grow with the policy."""

import copy
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace

import pytest

from ca_service.judgment import judge_all
from ca_service.policy import checks, judge_launch, kbs_for, launch_checks, load
from ca_service.policy.document.bits import BitDemand
from ca_service.policy.entries.launches import LaunchIndex
from vtpm.wire.report import Report

MANY = 40
"""More entries of every kind than any decision has a reason to look at."""


class Gone(Exception):
    """Somebody went through what is there to be looked up."""


class LookedUp(dict):
    """A mapping that answers questions for one key, and for nothing else."""

    def _through(self, *_args):
        raise Gone

    __iter__ = keys = values = items = _through


class Asked(frozenset):
    """A set that says of one value whether it is in it, and nothing else."""

    def _through(self, *_args):
        raise Gone

    __iter__ = __or__ = __and__ = __sub__ = __le__ = __lt__ = __ror__ = _through


def guarded(value, known):
    """The same value, in which nothing of any length can be gone through."""
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, BitDemand):
        return value
    if is_dataclass(value):
        members = {member.name: getattr(value, member.name) for member in fields(value) if member.init}
        made = replace(value, **{name: guarded(member, known) for name, member in members.items()})
    elif isinstance(value, Mapping) and len(value) >= MANY:
        made = LookedUp({name: guarded(member, known) for name, member in value.items()})
    elif isinstance(value, frozenset) and len(value) >= MANY:
        made = Asked(value)
    elif isinstance(value, Mapping):
        made = {name: guarded(member, known) for name, member in value.items()}
    elif isinstance(value, tuple) and value and is_dataclass(value[0]):
        made = tuple(guarded(each, known) for each in value)
    else:
        made = value
    known[id(value)] = made
    return made


def grown(content, count):
    """The document with so many more entries of every kind than it needs."""
    content = copy.deepcopy(content)
    launch, kbs = content["launch"], content["kbs"]
    standard, signed = launch[0], launch[2]
    for entry in (standard, signed):
        entry["host_data"] = [*entry["host_data"], *(f"{n:064x}" for n in range(1, count))]
    standard["id_keys"] = ["5a" * 48, *(f"{n:096x}" for n in range(1, count))]
    signed["author_keys"] = ["a5" * 48, *(f"{n:096x}" for n in range(1, count))]
    signed["unconstrained"] = ["measurement"]
    kbs[0]["resource"] += [{"pattern": f"tenant-{n}/vtpm/*"} for n in range(count)]
    kbs[0]["release_policies"] += [f"{n:064x}" for n in range(count)]
    content["platform"][0]["chips"]["allow"] += [f"{n:0128x}" for n in range(1, count)]
    content["store"]["formats"] += [f"other/{n}" for n in range(1, count)]
    by_key = {"unconstrained": ["measurement", "id-key"]}
    author = {k: v for k, v in signed.items() if k not in ("id_keys", "measurement")}
    content["launch"] = [
        *launch,
        *(standard | {"name": f"m-{n}", "measurement": f"{n:096x}"} for n in range(count)),
        *(signed | {"name": f"i-{n}", "id_keys": [f"{n + 1:096x}"]} for n in range(count)),
        *(author | {"name": f"a-{n}", "author_keys": [f"{n + 1:096x}"], **by_key} for n in range(count)),
    ]
    return content


@pytest.fixture
def many(content, toml):
    return load(toml(grown(content, MANY)))


@pytest.fixture
def asked(facts, launched):
    """Facts that are found by measurement, by ID key, by author key, and not at all."""
    stranger, signed = b"\x77" * 48, {"key_flags": 3, "measurement": b"\x77" * 48}
    launches = [
        facts.launch,
        launched(**signed, id_key_digest=b"\x5c" * 48),
        launched(**signed, id_key_digest=(7).to_bytes(48), author_key_digest=(7).to_bytes(48)),
        launched(**signed, id_key_digest=bytes(48), author_key_digest=(7).to_bytes(48)),
        launched(
            measurement=stranger,
            id_key_digest=stranger,
            author_key_digest=stranger,
            host_data=b"\x01" * 32,
            chip_id=b"\x66" * 64,
        ),
    ]
    found = [replace(facts, launch=launch) for launch in launches]
    strange = replace(facts, kbs_thumbprint="nobody's", resource="x/y/z", release_policy="ee" * 32)
    return [*found, strange, replace(facts, store_format="nothing/1", ek_templates=("L-2",))]


def traces(policy, asked):
    for facts in asked:
        kbs_for(policy, facts.kbs_thumbprint)
        launch = judge_all(launch_checks(policy, "simulation"), facts.launch)
        yield launch + judge_all(checks(policy, "simulation"), facts)


def test_no_decision_goes_through_the_entries(many, asked):
    expected = list(traces(many, asked))
    assert [trace.admitted for trace in expected[:2]] == [True, False]
    found = {f.actual for trace in expected for f in trace.findings if f.rule == "launch.measurement"}
    assert {actual.partition("(")[2].partition(")")[0] for actual in found} == {
        "standard", "signed", "i-6", "a-6", "not listed",
    }  # fmt: skip
    watched = guarded(many, {})
    assert isinstance(watched.launches.by_measurement, LookedUp)
    assert isinstance(watched.platforms["fleet"].chips_allowed, Asked)
    assert list(traces(watched, asked)) == expected


def test_the_launches_are_gone_through_once_for_a_policy(many, asked, monkeypatch):
    expected = [judge_launch(many, "simulation", facts.launch) for facts in asked]

    def gone(_index):
        raise Gone

    monkeypatch.setattr(LaunchIndex, "entries", gone)
    for facts, found in zip(asked, expected, strict=True):
        anew = replace(facts.launch, report=Report.parse(facts.launch.report.raw))
        assert judge_launch(many, "simulation", anew) == found


def test_a_trace_does_not_grow_with_the_policy(content, toml, many, asked):
    more = load(toml(grown(content, 100)))
    for few, found in zip(traces(many, asked), traces(more, asked), strict=True):
        # How many entries there are is told, and takes a digit more.
        assert 0 <= len(found.text()) - len(few.text()) < 20
