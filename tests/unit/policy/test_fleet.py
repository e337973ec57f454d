"""What is remembered about the launches of a fleet is what would be found anew."""

from copy import deepcopy
from dataclasses import replace
from datetime import timedelta

import pytest

from ca_service.judgment import judge_all
from ca_service.policy import judge_launch, launch_checks, load
from vtpm.wire.report import Product, Report

DAYS = timedelta(days=1)
STEPS = (
    -9000 * DAYS,
    0 * DAYS,
    20 * DAYS,
    20 * DAYS + DAYS / 86400,
    30 * DAYS - DAYS / 86400,
    30 * DAYS,
    400 * DAYS,
)
"""From the facts' time: long before, now, on and after the last second of the CRL, before and from the next floor."""


@pytest.fixture
def platforms(content):
    """Two entries for one measurement: on a platform whose floors rise and on one that has other ones."""
    other = deepcopy(content["platform"][0]) | {"name": "other", "crl_max_age_days": 60}
    other["tcb"] = [other["tcb"][0] | {"firmware": "1.55.20"}]
    content["platform"].append(other)
    content["launch"].append(
        content["launch"][0] | {"name": "elsewhere", "platform": "other", "products": ["Milan"]}
    )
    return content


def unsafe(content):
    return content | {"unsafe": [{"name": "UnsafeAllowAnyPlatform", "gives_up": "the platform"}]}


@pytest.fixture(params=["one", "platforms", "unsafe"])
def policy(request, toml, content):
    if request.param == "platforms":
        content = request.getfixturevalue("platforms")
    return load(toml(unsafe(content) if request.param == "unsafe" else content))


def same(policy, facts, mode="simulation"):
    """The trace, after it was compared with the one of a judgement that remembers nothing."""
    found = judge_launch(policy, mode, facts)
    assert found == judge_all(launch_checks(policy, mode), facts)
    return found


def flipped(report, byte):
    raw = bytearray(report.raw)
    raw[byte] ^= 1 << byte % 8
    return Report.parse(bytes(raw))


def test_no_byte_of_a_report_is_overlooked(policy, launch):
    good = same(policy, launch)
    changed = {
        byte
        for byte in range(len(launch.report.raw))
        if same(policy, replace(launch, report=flipped(launch.report, byte))) != good
    }
    # Measurement, keys and chip: what a policy asks about begins and ends with these.
    assert changed >= {0x000, 0x090, 0x0BF, 0x0C0, 0x0E0, 0x1A0, 0x1DF, 0x1E0, 0x1F0, 0x200}
    assert not changed & {*range(0x050, 0x090), *range(0x140, 0x180), *range(0x2A0, 0x4A0)}


def test_the_clock_is_looked_at_each_time(policy, launch):
    traces = {}
    for _ in range(2):
        for step in STEPS:
            for issued in (None, launch.crl_issued_at, launch.at + 395 * DAYS):
                facts = replace(launch, at=launch.at + step, crl_issued_at=issued)
                found = same(policy, facts)
                assert traces.setdefault((step, issued), found) == found
    assert len({trace.text() for trace in traces.values()}) >= 4


def test_what_the_chain_says_is_looked_at_each_time(policy, launch):
    for _ in range(2):
        for product in (*Product, None):
            for simulated in (True, False):
                for mode in ("simulation", "production"):
                    same(policy, replace(launch, product=product, simulated=simulated), mode)


def test_the_entry_that_admits_now_counts(toml, platforms, launch):
    policy = load(toml(platforms))
    names = []
    for step in (0 * DAYS, 30 * DAYS, 0 * DAYS):
        at = launch.at + step
        trace = same(policy, replace(launch, at=at, crl_issued_at=at))
        names.append(next(f.actual for f in trace.findings if f.rule == "platform.stated"))
        assert trace.admitted
    assert names == ["fleet", "other", "fleet"]


def test_policies_do_not_share_what_they_found(toml, content, launch):
    strict, open_ = (deepcopy(content) for _ in range(2))
    strict["platform"][0]["chips"] = {"allow": ["01" * 64]}
    for _ in range(2):
        assert same(load(toml(open_)), launch).admitted
        assert same(load(toml(strict)), launch).refusal.rule == "platform.chip"
