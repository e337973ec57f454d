"""Who falls below a floor, and when: as a judgement on each day would find it."""

from copy import deepcopy
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca_service.judgment import Verdict, judge_all
from ca_service.policy import LaunchFacts, launch_checks, load
from ca_service.policy.outlook.forecast import FLOOR_RULES, UNSTATED, Shortfall, endings, fall, is_listed
from vtpm.wire.report import Product

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def levels(snp: int) -> dict[str, dict[str, int]]:
    return {
        name: {"bootloader": 4, "tee": 0, "snp": snp, "microcode": 219}
        for name in ("reported", "committed", "launch")
    }


def tcb(snp: int) -> bytes:
    return bytes([4, 0, 0, 0, 0, 0, snp, 219])


def floor(day: int | None, build: int, snp: int) -> dict[str, object]:
    begins = {} if day is None else {"from": AT + day * DAY}
    return {"product": "Milan", **begins, "firmware": f"1.55.{build}", **levels(snp)}


@pytest.fixture
def content(content):
    """The document for Milan alone."""
    content["launch"][0]["products"] = ["Milan"]
    return content


def two_platforms(content, first, second):
    """One measurement on two platforms with these floors."""
    other = deepcopy(content["platform"][0]) | {"name": "other", "tcb": second}
    content["platform"][0]["tcb"] = first
    content["platform"].append(other)
    content["launch"].append(content["launch"][0] | {"name": "elsewhere", "platform": "other"})
    return content


def rising():
    """Floors in their order: the first from the beginning, each other one later and higher."""

    def made(days):
        later = [floor(day, 21 + number, 21 + number) for number, day in enumerate(sorted(days))]
        return [floor(None, 20, 20), *later]

    return st.sets(st.integers(-5, 40), max_size=3).map(made)


def brute(policy, mode, report, product, at):
    """(day, rules) of the first day on which a judgement finds a floor missed; the rules are none if there is none."""
    dates = {f.since for entry in policy.platforms.values() for fs in entry.floors.values() for f in fs}
    for day in sorted({at, *(date for date in dates if date is not None and date > at)}):
        facts = LaunchFacts(report, product, simulated=True, crl_issued_at=day, at=day)
        trace = judge_all(launch_checks(policy, mode), facts)
        missed = {f.rule for f in trace.findings if f.verdict is Verdict.FAILED} & FLOOR_RULES
        if missed:
            return None if day == at else day, missed
    return None, set()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=rising(),
    second=rising(),
    build=st.integers(19, 24),
    snps=st.tuples(*[st.integers(19, 24)] * 3),
    product=st.sampled_from([Product.MILAN, Product.MILAN, Product.GENOA, None]),
    after=st.integers(-10, 45),
    unsafe=st.booleans(),
)
def test_as_a_judgement_on_each_day(
    content, toml, report, first, second, build, snps, product, after, unsafe
):
    document = two_platforms(deepcopy(content), first, second)
    if unsafe:
        document["unsafe"] = [{"name": "UnsafeAllowAnyPlatform", "gives_up": "the platform"}]
    policy = load(toml(document))
    reported, committed, launched = map(tcb, snps)
    firmware = (1, 55, build)
    found = report(
        reported_tcb=reported,
        committed_tcb=committed,
        current_tcb=committed,
        launch_tcb=launched,
        current_firmware=firmware,
        committed_firmware=firmware,
    )
    at = AT + after * DAY
    told = fall(policy, "simulation", found, product, at)
    day, rules = brute(policy, "simulation", found, product, at)
    assert (told is None) == (not rules)
    if told is not None:
        # Who is below in the API version and in the build is told once.
        hidden = {"platform.api"} if "platform.build" in rules else set()
        assert told.since == day
        assert {shortfall.rule for shortfall in told.shortfalls} == rules - hidden


def test_what_is_missing_is_said_by_component(content, toml, report):
    content["platform"][0]["tcb"] = [floor(None, 20, 20), floor(30, 29, 28)]
    policy = load(toml(content))
    low = report(reported_tcb=tcb(27), launch_tcb=tcb(26), current_firmware=(1, 54, 99))
    found = fall(policy, "production", low, Product.MILAN, AT + 31 * DAY)
    assert (found.since, found.launch, found.platform) == (None, "standard", "fleet")
    assert set(found.shortfalls) == {
        Shortfall("platform.reported-tcb", "snp", "27", "28"),
        Shortfall("platform.committed-tcb", "snp", "27", "28"),
        Shortfall("platform.launch-tcb", "snp", "26", "28"),
        Shortfall("platform.build", "firmware", "1.54.99", "1.55.29"),
    }
    one = report(reported_tcb=tcb(19))
    (short,) = fall(policy, "production", one, Product.MILAN, AT).shortfalls
    assert short == Shortfall("platform.reported-tcb", "snp", "19", "20")


def test_of_several_entries_the_one_that_still_fits_counts(content, toml, report):
    """A list of revocations that would be too old by then is no reason to take another one."""
    floors = [floor(None, 20, 20), floor(30, 29, 28)], [floor(None, 20, 20), floor(60, 29, 28)]
    policy = load(toml(two_platforms(content, *floors)))
    found = fall(policy, "production", report(reported_tcb=tcb(27)), Product.MILAN, AT)
    assert (found.since, found.launch) == (AT + 60 * DAY, "standard")


@pytest.mark.parametrize("product", [Product.TURIN, None])
def test_a_processor_without_a_floor_is_below_at_once(content, toml, report, product):
    found = fall(load(toml(content)), "production", report(), product, AT)
    assert found.since is None
    assert {s.needs for s in found.shortfalls} == {UNSTATED}


def test_a_launch_that_is_not_listed_is_no_matter_of_floors(content, toml, report):
    policy, other = load(toml(content)), report(measurement=b"\x99" * 48)
    assert not is_listed(policy, other)
    assert fall(policy, "production", other, Product.MILAN, AT) is None
    assert is_listed(policy, report())


def test_the_ends_of_key_brokers(content, toml):
    for entry, days in zip(content["kbs"], (20, 10), strict=True):
        entry["valid_to"] = AT + days * DAY
    policy = load(toml(content))

    def names(first, last):
        return [entry.id for entry in endings(policy, AT + first * DAY, AT + last * DAY)]

    assert names(0, 90) == ["second-kbs", "org-kbs"]
    assert names(0, 10) == ["second-kbs"]
    assert names(10, 19) == []
    assert names(0, 9) == []
    content["kbs"][0]["status"] = "suspended"
    policy = load(toml(content))
    assert names(0, 90) == ["second-kbs"]
