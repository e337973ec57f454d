"""A policy as of one day says on every day what it says on that one, of floors and key brokers; ages go on."""

from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_service.policy import load
from ca_service.policy.outlook.dates import as_of
from vtpm.wire.report import Product

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ENDS = datetime(2027, 1, 1, tzinfo=UTC)
BUILDS = [(1, 55, 28), (1, 55, 29), (1, 55, 40)]


@pytest.fixture
def document(content, toml):
    """A measurement on two platforms, whose floors rise on different days; and one that is for Genoa alone."""
    other = deepcopy(content["platform"][0]) | {"name": "other"}
    other["tcb"] = [floor | {"firmware": "1.55.28"} for floor in other["tcb"][:2]]
    other["tcb"].append(other["tcb"][0] | {"from": AT + timedelta(days=60), "firmware": "1.55.40"})
    content["platform"].append(other)
    standard = content["launch"][0]
    content["launch"] += [
        standard | {"name": "elsewhere", "platform": "other"},
        standard | {"name": "other", "measurement": "33" * 48, "platform": "other", "products": ["Genoa"]},
    ]
    return toml(content)


loaded = lru_cache(load)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    day=st.integers(-400, 400),
    judged_at=st.integers(-4000, 4000),
    firmware=st.sampled_from(BUILDS),
    measurement=st.sampled_from([b"\x11" * 48, b"\x33" * 48, b"\x44" * 48]),
    product=st.sampled_from([*Product, None]),
)
def test_it_says_so_on_every_day(
    document, facts, report, refusals, day, judged_at, firmware, measurement, product
):
    """As the policy itself does of evidence that is as fresh on its day as this was on its own."""
    policy, now = loaded(document), AT + timedelta(days=day)
    found = report(current_firmware=firmware, committed_firmware=firmware, measurement=measurement)
    then = AT + timedelta(days=judged_at)

    def evidence(at):
        launch = replace(
            facts.launch, report=found, product=product, at=at, crl_issued_at=at - timedelta(days=10)
        )
        return replace(facts, launch=launch, grant_iat=int(at.timestamp()) - 60)

    assert refusals(as_of(policy, now), evidence(then)) == refusals(policy, evidence(now))


def test_what_ages_is_judged_by_the_time_of_the_evidence(document, facts, refusals):
    policy = load(document)
    late = as_of(policy, AT + timedelta(days=20))
    assert refusals(late, facts) == []
    old = replace(facts, grant_iat=facts.grant_iat - 3600)
    assert refusals(late, old) == ["grant.age"]
    assert refusals(late, replace(facts, launch=replace(facts.launch, at=facts.at + timedelta(days=21)))) == [
        "platform.crl-age",
        "grant.age",
    ]


def test_each_date_alone(document, facts, report, refusals):
    policy = load(document)
    build = report(current_firmware=BUILDS[1], committed_firmware=BUILDS[1], measurement=b"\x11" * 48)
    here = replace(facts, launch=replace(facts.launch, report=build))
    second = timedelta(seconds=1)
    assert refusals(as_of(policy, ENDS - second), here) == []
    assert refusals(as_of(policy, ENDS), here) == ["kbs.valid"]
    assert refusals(as_of(policy, datetime(2026, 1, 1, tzinfo=UTC) - second), here) == ["kbs.valid"]
    other = replace(here, launch=replace(here.launch, product=Product.GENOA))
    assert "platform.build" in refusals(as_of(policy, AT), other)


def test_nothing_else_is_another(document):
    policy = load(document)
    moved = as_of(policy, AT)
    assert (moved.digest, moved.text, moved.templates) == (policy.digest, policy.text, policy.templates)
    assert [entry.name for entry in moved.launches.entries()] == [
        entry.name for entry in policy.launches.entries()
    ]
    assert moved.kbs.keys() == policy.kbs.keys()
    assert policy == load(document)
