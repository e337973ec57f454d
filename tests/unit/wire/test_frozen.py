"""`vtpm.wire.frozen`: what it makes is what `dataclass(frozen=True)` makes."""

import copy
import inspect
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace

import pytest

from vtpm.wire.frozen import frozen
from vtpm.wire.lazy import cached_property


@frozen
class Point:
    """A place."""

    x: int
    y: int = 2
    secret: bytes = field(default=b"s", repr=False, compare=False)

    @cached_property
    def sum(self) -> int:
        """Of both."""
        return self.x + self.y


@dataclass(frozen=True)
class Usual:
    """The same, as the standard library makes it."""

    x: int
    y: int = 2
    secret: bytes = field(default=b"s", repr=False, compare=False)


@frozen
class Positive:
    """A value that is checked."""

    number: int

    def __post_init__(self) -> None:
        """Refuse what is none."""
        if self.number <= 0:
            raise ValueError("not positive")


def test_it_is_made_read_compared_and_shown_like_any_data_class() -> None:
    point = Point(1)
    assert (point.x, point.y, point.secret, point.sum) == (1, 2, b"s", 3)
    assert point == Point(x=1, y=2, secret=b"another")
    assert point != Point(1, 3)
    assert hash(point) == hash(Usual(1))
    assert repr(point) == "Point(x=1, y=2)"
    assert [f.name for f in fields(Point)] == ["x", "y", "secret"]
    assert replace(point, y=5) == Point(1, 5)
    assert copy.deepcopy(point) == point
    assert inspect.signature(Point) == inspect.signature(Usual)


def test_nobody_changes_it() -> None:
    point = Point(1)
    with pytest.raises(FrozenInstanceError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del point.x
    assert point.x == 1


@pytest.mark.parametrize("arguments", [{}, {"x": 1, "z": 2}, {"y": 1}])
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        Point(**arguments)  # type: ignore[arg-type]


def test_it_is_checked_after_it_was_filled() -> None:
    assert Positive(1).number == 1
    with pytest.raises(ValueError, match="not positive"):
        Positive(0)


@pytest.mark.parametrize(
    "kind", [field(default_factory=dict), field(init=False, default=1), field(kw_only=True)]
)
def test_what_it_cannot_fill_it_refuses(kind: object) -> None:
    with pytest.raises(TypeError, match="only `dataclass`"):
        frozen(type("Odd", (), {"__annotations__": {"x": dict}, "x": kind}))
