"""Which PCR values a relying party takes for good, as values and in its file."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from ca_service.export.quote.pcrs import PcrValues, check_value
from ca_service.judgment import BadRequest

_FORM = 'Write [sha256] and lines such as 7 = "64 hex digits", or a list of such values.'


@dataclass(frozen=True)
class ExpectedPcrs:
    """The good values of PCRs. A PCR that is not named may have any value; one that is named must be quoted.

    Attributes:
        banks: name of a bank to number of a PCR to its good values, each as long as the bank's digests.

    Raises:
        BadRequest: there is no such bank, PCR or value, or no value is good; the path names it.
    """

    banks: Mapping[str, Mapping[int, frozenset[bytes]]]

    def __post_init__(self) -> None:
        for bank, numbers in self.banks.items():
            for number, values in numbers.items():
                if not values:
                    raise BadRequest(
                        f"{bank}.{number}", "has no good value", remedy="Leave the PCR out for any."
                    )
                for value in values:
                    check_value(bank, number, value, "expected")
        frozen = {bank: MappingProxyType(dict(numbers)) for bank, numbers in self.banks.items() if numbers}
        if not frozen:
            raise BadRequest("expected", "names no PCR", remedy=_FORM)
        object.__setattr__(self, "banks", MappingProxyType(frozen))

    @classmethod
    def read(cls, content: bytes) -> Self:
        """Read a file, JSON if it begins with a brace, else TOML: bank to number to hex, or to a list of hex.

        Raises:
            BadRequest: it is neither, or has something else in it; the path names the member.
        """
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest("", "must be UTF-8 text") from None
        try:
            table = (
                json.loads(text, object_pairs_hook=_once)
                if text.lstrip().startswith("{")
                else tomllib.loads(text)
            )
        except (ValueError, RecursionError) as error:
            raise BadRequest("", f"is neither JSON nor TOML: {error}", remedy=_FORM) from None
        return cls({bank: _numbers(bank, value) for bank, value in table.items()})

    @classmethod
    def exactly(cls, values: PcrValues) -> Self:
        """Just these values."""
        return cls(
            {bank: {n: frozenset({v}) for n, v in found.items()} for bank, found in values.banks.items()}
        )


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands there twice")
    return found


def _numbers(bank: str, table: object) -> dict[int, frozenset[bytes]]:
    if not isinstance(table, dict):
        raise BadRequest(bank, "must be a table", remedy=_FORM)
    found: dict[int, frozenset[bytes]] = {}
    for key, value in table.items():
        path = f"{bank}.{key}"
        if not key.isascii() or not key.isdigit() or str(int(key)) != key:
            raise BadRequest(path, "is no number of a PCR", remedy=_FORM)
        values = value if isinstance(value, list) else [value]
        found[int(key)] = frozenset(_hex(path, one) for one in values)
    return found


def _hex(path: str, value: object) -> bytes:
    try:
        if isinstance(value, str) and value.isascii() and not any(c.isspace() for c in value):
            return bytes.fromhex(value.removeprefix("0x"))
    except ValueError:
        pass
    raise BadRequest(path, "must be hex digits", remedy=_FORM)
