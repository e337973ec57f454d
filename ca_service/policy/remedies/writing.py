"""Values of a document as TOML text: for what an operator pastes, and for a changed document that is read again.

Comments and layout of the operator's own document are not kept here: it is never written back.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

_Table = Mapping[str, Any]


def value(found: object) -> str:
    """One value on one line.

    Raises:
        TypeError: a policy document holds no value of this kind.
    """
    if isinstance(found, str):
        # A basic string of TOML takes JSON's escapes; without ensure_ascii there are no surrogates, which it does not.
        return json.dumps(found, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, int):
        return str(found)
    if isinstance(found, datetime):
        return found.isoformat()
    if isinstance(found, Mapping):
        inner = ", ".join(f"{_key(name)} = {value(member)}" for name, member in found.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(found, Sequence):
        return "[" + ", ".join(map(value, found)) + "]"
    raise TypeError(f"a policy document has no {type(found).__name__}")


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else json.dumps(name, ensure_ascii=False)


def document(content: _Table) -> str:
    """A whole document, a line for each member of the root: for reading, not for people."""
    return "".join(f"{_key(name)} = {value(member)}\n" for name, member in content.items())


def table(path: str, members: _Table, *, many: bool) -> str:
    """One table as people write it: head, plain members, then tables and arrays of tables under their own heads.

    Args:
        path: dotted name of the table.
        members: what stands in it.
        many: whether it is an element of an array of tables.
    """
    lines = [f"[[{path}]]" if many else f"[{path}]"]
    later: list[str] = []
    for name, member in members.items():
        if isinstance(member, Mapping) and name in _OWN_HEAD:
            later.append(table(f"{path}.{name}", member, many=False))
        elif isinstance(member, list) and name in _OWN_HEAD and member:
            later += [table(f"{path}.{name}", element, many=True) for element in member]
        else:
            lines.append(f"{_key(name)} = {value(member)}")
    return "\n\n".join(["\n".join(lines), *later])


_OWN_HEAD = frozenset({"key", "resource", "ear", "tcb", "platform_info"})
"""Members that are tables and stand under a head of their own in the examples; all others are on one line."""
