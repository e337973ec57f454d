"""A set of edits for people and scripts: where in the document, from what to what, what it means, and TOML to paste."""

from collections.abc import Iterator, Sequence
from typing import Final

from ca_service.judgment import BadRequest
from ca_service.policy.allowlist import Policy, load
from ca_service.policy.changes import Effect, compare
from ca_service.policy.document.form import shown_path
from ca_service.policy.document.tables import plain
from ca_service.policy.remedies import writing
from ca_service.policy.remedies.edits import Act, Content, Edit, Step, edited, found, position
from ca_service.policy.remedies.search import Remedy

_ENTRIES: Final = ("kbs", "launch", "platform")
_LISTS: Final = ("key", "resource", "tcb")
_IN_ENTRY: Final = 3
"""Steps of a path down to the member of an entry."""


def shown(remedy: Remedy, edits: Sequence[Edit], mode: str) -> list[dict[str, object]]:
    """One object for each edit, of plain values.

    Args:
        remedy: where they come from.
        edits: its smallest set, or one of its alternatives.
        mode: of the CA.

    Returns:
        ``words`` say what the edit does, ``places`` where in the document (path, old and new value; null for what is
        not there), ``toml`` what to write, ``effect`` and ``changes`` what `policy diff` would say, ``warnings`` what
        is lost, ``rules`` which rules ask for less.
    """
    after = edited(remedy.whole, edits)
    base = load(writing.document(remedy.part))
    return [
        {
            "rules": list(edit.rules),
            "entries": list(edit.entries),
            "words": edit.words,
            "warnings": list(edit.warnings),
            **_alone(base, remedy.part, edit, mode),
            "places": list(_places(remedy.whole, after, edit)),
            "toml": "\n".join(_pasted(after, edit)),
        }
        for edit in edits
    ]


def _alone(base: Policy, part: Content, edit: Edit, mode: str) -> dict[str, object]:
    """What the edit is by itself; of one that makes sense with the others only, no more than that it widens."""
    try:
        alone = load(writing.document(edited(part, [edit])))
    except BadRequest:
        return {"effect": Effect.WIDENS.value, "changes": []}
    compared = compare(base, alone, mode)
    return {"effect": compared.effect.value, "changes": [str(change) for change in compared.changes]}


def _is_new_table(step: Step) -> bool:
    in_root = len(step.where) == 1 and step.where[0] in _ENTRIES
    return step.act is Act.ADD and (in_root or (len(step.where) == _IN_ENTRY and step.where[2] in _LISTS))


def _places(before: Content, after: Content, edit: Edit) -> Iterator[dict[str, object]]:
    for step in edit.steps:
        at = position(after, step.where)
        if _is_new_table(step):
            row = found(after, step.where).index(step.value)
            yield {"path": shown_path((*at, row)), "old": None, "new": plain(step.value)}
        else:
            old, new = found(before, step.where), found(after, step.where)
            yield {"path": shown_path(at), "old": plain(old), "new": plain(new)}


def _pasted(after: Content, edit: Edit) -> Iterator[str]:
    """TOML for each place, under a comment that says where it goes; every place once."""
    said = set[str]()
    for step in edit.steps:
        text = _snippet(after, step)
        if text not in said:
            said.add(text)
            yield text


def _snippet(after: Content, step: Step) -> str:
    where = step.where
    kind = str(where[0])
    if kind not in _ENTRIES:
        members = found(after, (kind,))
        return f"# take out: [[{kind}]]" if members is None else writing.table(kind, members, many=False)
    if len(where) < _IN_ENTRY:
        return writing.table(kind, step.value, many=True)
    return f'# in [[{kind}]] "{where[1]}"{_member(after, step, kind)}'


def _member(after: Content, step: Step, kind: str) -> str:
    """The rest of a line that names an entry, and what goes there."""
    where, member = step.where, str(step.where[2])
    value = found(after, where[:_IN_ENTRY])
    if value is None:
        return f", take out: {member}"
    if _is_new_table(step):
        return f"\n{writing.table(f'{kind}.{member}', step.value, many=True)}"
    if member == "tcb":
        row, name = value[where[3]], str(where[4])
        since = f" from {row['from'].isoformat()}" if "from" in row else ""
        return f", [[platform.tcb]] of {row['product']}{since}\n{name} = {writing.value(row[name])}"
    if member == "ear":
        return f"\n{writing.table('kbs.ear', value, many=False)}"
    return f"\n{member} = {writing.value(value)}"
