"""Values that never change and are made by the dozen: frozen data classes that are cheap to make."""

from dataclasses import MISSING, dataclass, field, fields
from functools import update_wrapper
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """`dataclass(frozen=True)`, whose values take less than half the time to make; all else is the same.

    The `__init__` of the standard library may not assign, because the class forbids it, and calls
    `object.__setattr__` for each field, which searches the class each time. This one fills the instance's dict in one
    call.

    Raises:
        TypeError: a field has another kind of default than a value, or is no parameter by position.
    """
    made: Any = dataclass(frozen=True)(cls)
    given = fields(made)
    if not all(each.init and not each.kw_only and each.default_factory is MISSING for each in given):
        raise TypeError(f"{cls.__qualname__} has a field that only `dataclass` can fill")
    # The class keeps a field's default under its name.
    parameters = [f"{f.name}" if f.default is MISSING else f"{f.name}=cls.{f.name}" for f in given]
    filled = ", ".join([f"{f.name}={f.name}" for f in given])
    lines = [f"def __init__({', '.join(['self', *parameters])}):", f"    self.__dict__.update({filled})"]
    if hasattr(cls, "__post_init__"):
        lines.append("    self.__post_init__()")
    named: dict[str, Any] = {"cls": made}
    exec("\n".join(lines), named)  # noqa: S102 - names of fields, as `dataclass` itself does
    made.__init__ = update_wrapper(named["__init__"], made.__init__)
    return made  # type: ignore[no-any-return]


__all__ = ["frozen"]
