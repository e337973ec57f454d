"""Values that are worked out when somebody asks for them first."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from functools import cached_property
else:

    class cached_property:  # noqa: N801 - stands in the place of the one in functools
        """`functools.cached_property` as it is from Python 3.12 on: without a lock.

        The lock of 3.11 is one for all instances of a class and costs more than most of what is worked out here. Two
        threads that ask at once may both work the value out; it has to be the same for both.
        """

        def __init__(self, make: Callable[[Any], Any]) -> None:
            self._make = make
            self.__doc__ = make.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return self
            value = instance.__dict__[self._name] = self._make(instance)
            return value


__all__ = ["cached_property"]
