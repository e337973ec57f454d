"""Values that are worked out once."""

from dataclasses import dataclass

from vtpm.wire.lazy import cached_property


@dataclass(frozen=True)
class Square:
    side: int
    worked: list[int]

    @cached_property
    def area(self) -> int:
        """Of the square."""
        self.worked.append(self.side)
        return self.side**2


def test_a_value_is_worked_out_once_for_each_instance():
    worked: list[int] = []
    two, three = Square(2, worked), Square(3, worked)
    assert (two.area, three.area, two.area, three.area) == (4, 9, 4, 9)
    assert worked == [2, 3]


def test_what_is_frozen_stays_equal_and_documented():
    one, other = Square(2, []), Square(2, [])
    assert one.area == 4
    assert one == Square(2, [2]) != other
    assert Square.area.__doc__ == "Of the square."
