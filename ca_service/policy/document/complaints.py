"""What a wrong member should have been, in words for whoever wrote the document."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema


@dataclass(frozen=True)
class Shape:
    """The shape of a string, for `Annotated`; whoever misses it is told in words.

    Attributes:
        pattern: a regular expression for the whole string, also for the JSON schema.
        words: what it means, after "must be".
    """

    pattern: str
    words: str

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def _check(self, text: str) -> str:
        if not self._compiled.fullmatch(text):
            raise ValueError(f"must be {self.words}")
        return text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "pattern": self.pattern}


def hex_digits(count: int) -> Shape:
    """The shape of `count` hex digits."""
    return Shape(rf"^[0-9a-f]{{{count}}}$", f"{count} lower-case hex digits")


_WORDS: Final[Mapping[str, str]] = {
    "missing": "is missing",
    "extra_forbidden": "is no member of this table",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} elements",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_long": "must be at most {max_length} characters long",
    "int_type": "must be a whole number",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "datetime_type": "must be a date and time",
    "timezone_aware": "must have a time zone, such as Z at its end",
    "value_error": "{error}",
}
"""By the kind of error that pydantic sees."""


def complaint(error: ErrorDetails) -> str:
    """One error of pydantic's about a table, in this package's words."""
    words = _WORDS.get(error["type"])
    if words is None:
        return error["msg"]
    said = {name: str(value).replace("'", "") for name, value in error.get("ctx", {}).items()}
    if error["type"] == "value_error":
        said = {"error": str(error.get("ctx", {}).get("error", error["msg"]))}
    return words.format_map(said)
