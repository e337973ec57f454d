import pytest

from ca_service.store import precedes

TOP = 2**128


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (6, 7),
        (2**63 - 1, 2**63),
        (2**64 - 1, 2**64),
        (TOP - 2, TOP - 1),
        (TOP - 1, 0),
        (TOP - 5, 5),
        (0, 2**127),
    ],
)
def test_what_comes_before(one, other):
    assert precedes(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (7, 7),
        (0, 0),
        (8, 7),
        (2**64, 2**64 - 1),
        (0, TOP - 1),
        (5, TOP - 5),
        (0, 2**127 + 1),
        (2**127 - 1, 0),
    ],
)
def test_what_does_not(one, other):
    assert not precedes(one, other)


@pytest.mark.parametrize("last", [0, 1, 7, 2**63, 2**127 - 1, 2**127, 2**127 + 1, TOP - 1])
def test_a_counter_comes_after_the_half_circle_below_it(last):
    half = 2**127
    assert [precedes((last - way) % TOP, last) for way in (0, 1, half, half + 1, TOP - 1)] == [
        False,
        True,
        True,
        False,
        False,
    ]
