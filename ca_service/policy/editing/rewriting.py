"""Writing a change of one entry into the text of a policy document.

Only the lines of the entry are written anew. What comes out is read again, by another library, and compared with the
old content and just this change in it: so a document is changed as it is meant, or not at all.
"""

import tomllib
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable

from ca_service.judgment import BadRequest
from ca_service.policy.allowlist import load
from ca_service.policy.editing.layout import Lines, entries

Entry = MutableMapping[str, Any]
Change = Callable[[Entry], None]


def inline_table(value: dict[str, Any]) -> InlineTable:
    """A table that is written on one line."""
    table = tomlkit.inline_table()
    table.update(value)
    return table


def changed(text: str, table: str, number: int, change: Change) -> str:
    """The document with one entry changed.

    Args:
        text: the document, which can be read.
        table: name of an array of tables.
        number: of the entry in it, from 0.
        change: changes the entry; called with plain values and with the library's.

    Raises:
        BadRequest: it cannot be done without changing more (code ``policy-layout``), or what comes out cannot be read.
    """
    wanted = tomllib.loads(text)
    count = len(wanted[table])
    change(wanted[table][number])

    def own_lines() -> str:
        found = entries(text, table)
        if len(found) != count:
            raise ValueError("not every entry has a header of its own")
        return _in_lines(text, table, found[number], change)

    def whole() -> str:
        document = tomlkit.parse(text)
        change(document[table][number])
        return tomlkit.dumps(document)

    return _first_that_is(table, wanted, (own_lines, whole))


def appended(text: str, table: str, entry: dict[str, Any]) -> str:
    """The document with one more entry, behind the last one or at the end.

    Args:
        text: the document, which can be read.
        table: name of an array of tables.
        entry: what it says, in this order; members that are lists of tables come last.

    Raises:
        BadRequest: as for `changed`.
    """
    wanted = tomllib.loads(text)
    wanted.setdefault(table, []).append(tomlkit.item(entry).unwrap())

    def headed() -> str:
        found = entries(text, table)
        at = found[-1].end if found else len(text)
        before, after = text[:at], text[at:]
        gap = "" if not before.strip() else "\n" if before.endswith("\n") else "\n\n"
        rest = "" if not after or after.startswith(("\n", "\r\n")) else "\n"
        return before + _ended_as(text, gap + _headed(table, entry) + rest) + after

    def inline() -> str:
        whole = tomlkit.parse(text)
        whole[table].append(_nested(entry))
        return tomlkit.dumps(whole)

    return _first_that_is(table, wanted, (headed, inline))


def _in_lines(text: str, table: str, lines: Lines, change: Change) -> str:
    old = text[lines.start : lines.end]
    part = tomlkit.parse(old if old.endswith("\n") else old + "\n")
    change(part[table][0])
    new = tomlkit.dumps(part).rstrip("\r\n") + ("\n" if old.endswith("\n") else "")
    return text[: lines.start] + _ended_as(old, new) + text[lines.end :]


def _headed(table: str, entry: dict[str, Any]) -> str:
    """An entry as text under headers of its own, with one empty line before each part."""
    parts = {name: value for name, value in entry.items() if _is_array_of_tables(value)}
    lines = [f"[[{table}]]", *(_member(*item) for item in entry.items() if item[0] not in parts)]
    for name, rows in parts.items():
        for row in rows:
            lines += ["", f"[[{table}.{name}]]", *(_member(*item) for item in row.items())]
    return "\n".join(lines) + "\n"


def _is_array_of_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _member(name: str, value: object) -> str:
    return f"{name} = {tomlkit.item(value).as_string()}"


def _nested(value: Any) -> Any:
    """The value with all its tables on one line each."""
    if isinstance(value, dict):
        return inline_table({name: _nested(member) for name, member in value.items()})
    return [_nested(element) for element in value] if isinstance(value, list) else value


def _ended_as(text: str, new: str) -> str:
    """New lines with the line ends that the text has."""
    return new.replace("\r\n", "\n").replace("\n", "\r\n") if "\r\n" in text else new


def _first_that_is(table: str, wanted: dict[str, Any], ways: Iterable[Callable[[], str]]) -> str:
    """The first of the texts that reads as `wanted`, and as nothing else.

    Raises:
        BadRequest: none does; or what they say cannot be meant, see `load`.
    """
    for way in ways:
        try:
            made = way()
            right = tomllib.loads(made) == wanted
        except (TOMLKitError, ValueError, LookupError, TypeError, AttributeError):
            continue  # the library knows TOML that it cannot edit
        if right:
            load(made)
            return made
    raise BadRequest(
        table,
        "is written in a way in which no command can edit it without changing more",
        code="policy-layout",
        remedy="Edit it by hand and use `vtpm-ca policy apply`.",
    )
