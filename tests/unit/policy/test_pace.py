"""The limit of an instance: a sliding window, whose answer is always how long to wait."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca_service.policy import INSTANCE_LIMIT, InstanceLimit

AT = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
THREE = InstanceLimit(3, timedelta(minutes=10))
NOTHING = timedelta()


def ago(*minutes):
    return [AT - timedelta(minutes=m) for m in minutes]


@pytest.mark.parametrize(
    ("earlier", "wait"),
    [
        ([], 0),
        (ago(1, 2), 0),
        (ago(1, 2, 3), 7),
        (ago(3, 1, 2), 7),
        (ago(1, 2, 9, 9.5), 1),
        (ago(1, 2, 10), 0),
        (ago(0, 0, 0), 10),
        (ago(1, 2, 3, 4, 5), 7),
        (ago(*range(11, 100)), 0),
        (ago(-5, -60, -(10**6)), 10),
    ],
)
def test_the_wait(earlier, wait):
    assert THREE.wait(earlier, AT) == timedelta(minutes=wait)


@pytest.mark.parametrize(
    ("count", "per"), [(0, timedelta(1)), (-1, timedelta(1)), (1, NOTHING), (1, -timedelta(1))]
)
def test_a_limit_that_nobody_could_keep(count, per):
    with pytest.raises(ValueError, match="at least one"):
        InstanceLimit(count, per)


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=60).map(sorted),
    st.integers(1, 6),
    st.integers(1, 900),
)
def test_no_span_ever_holds_more_than_the_limit(seconds, count, per):
    """Whoever comes back as told gets in, and nobody gets in more often than the limit says."""
    limit = InstanceLimit(count, timedelta(seconds=per))
    let_in: list[datetime] = []
    for second in seconds:
        at = AT + timedelta(seconds=second)
        if let_in and at < let_in[-1]:
            continue
        wait = limit.wait(let_in, at)
        assert NOTHING <= wait <= limit.per
        if wait:
            assert limit.wait(let_in, at + wait - timedelta(microseconds=1))
            at += wait
        assert limit.wait(let_in, at) == NOTHING
        let_in.append(at)
        assert sum(moment > at - limit.per for moment in let_in) <= count
        assert limit.wait([m for m in let_in if m > limit.since(at)], at) == limit.wait(let_in, at)


def test_the_default_lets_a_machine_reboot():
    boots = [AT + timedelta(minutes=4 * n) for n in range(15)]
    for n, boot in enumerate(boots):
        assert INSTANCE_LIMIT.wait(boots[:n], boot) == NOTHING
