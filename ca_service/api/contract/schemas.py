"""From what readers ask for to JSON Schema (2020-12, as OpenAPI 3.1 has it)."""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ca_service.api.contract.listening import PRINTABLE, Form, Listener, ecma

Schema = dict[str, object]

_REFERENCE: Final = "#/components/schemas/"
_ATTRIBUTE: Final = re.compile(r"^(\w+): (.+)$")


class Unshown(ValueError):
    """The examples of a message do not show all that its reader knows."""


@dataclass
class Schemas:
    """The named schemas of a document.

    Attributes:
        named: by name, filled by `of`.
    """

    named: dict[str, Schema] = field(default_factory=dict)

    def of(self, read: Callable[[object], object], examples: Sequence[object], name: str = "") -> Schema:
        """The schema of what a reader takes, learned from examples that it takes.

        Args:
            read: reads one message.
            examples: JSON values; together they must have every member that the reader knows.
            name: under which the whole is kept, if its reader belongs to no class.

        Raises:
            Unshown: a member is in no example.
            Exception: what the reader says about an example that it does not take.
        """
        forms = [_listened(read, example) for example in examples]
        schema = self._build(forms, name)
        return self._kept(name, schema) if name and "$ref" not in schema else schema

    def _kept(self, name: str, schema: Schema) -> Schema:
        if self.named.setdefault(name, schema) != schema:
            raise ValueError(f"{name} has two forms")
        return {"$ref": _REFERENCE + name}

    def _build(self, forms: Sequence[Form], where: str) -> Schema:
        if any(form.facts.get("type") == "object" for form in forms):
            return self._object(forms, where)
        facts = _scalar(forms)
        items = [form.items for form in forms if form.items is not None]
        if facts.get("type") == "array":
            facts["items"] = self._build(items, f"{where}[]") if items else _elements(forms, where)
        return facts

    def _object(self, forms: Sequence[Form], where: str) -> Schema:
        variants: dict[frozenset[str], list[Form]] = {}
        for form in forms:
            variants.setdefault(form.known, []).append(form)
        if len(variants) == 1:
            schema = self._members(forms, where)
        else:
            schema = {"oneOf": [self._members(some, where, narrow=True) for some in variants.values()]}
        model = forms[0].model
        if model is None:
            return schema
        return self._kept(model.__name__, {**schema, "description": _summary(model)})

    def _members(self, forms: Sequence[Form], where: str, *, narrow: bool = False) -> Schema:
        names = dict.fromkeys(name for form in forms for name in form.members)
        if unseen := sorted(forms[0].known - set(names)):
            raise Unshown(f"no example has {where}.{unseen[0]}")
        model = forms[0].model
        said = {} if model is None else _attributes(model)
        properties: dict[str, Schema] = {}
        for name in names:
            some = [form.members[name] for form in forms if name in form.members]
            properties[name] = self._build(some, f"{where}.{name}")
            if narrow and "enum" in properties[name]:
                properties[name]["enum"] = list(dict.fromkeys(value for form in some for value in form.seen))
            if name in said and "$ref" not in properties[name]:
                properties[name]["description"] = said[name]
        schema: Schema = {"type": "object"}
        if properties:
            schema["properties"] = properties
        if required := [name for name in names if not any(name in form.optional for form in forms)]:
            schema["required"] = required
        others = [form.others for form in forms if form.others is not None]
        if others:
            schema["additionalProperties"] = self._build(others, f"{where}.*")
        elif all(form.closed for form in forms):
            schema["additionalProperties"] = False
        return schema


def _listened(read: Callable[[object], object], example: object) -> Form:
    listener = Listener()
    with listener.listening():
        read(example)
    listener.form.note_values(example)
    return listener.form


def _scalar(forms: Iterable[Form]) -> Schema:
    facts: Schema = {}
    for form in forms:
        found = dict(form.facts)
        patterns = found.pop("x-patterns", [])
        if isinstance(patterns, list):
            # A pattern is of the whole text if the text of the example fits it; else it was compared with a part.
            fitting = [p for p in patterns if all(isinstance(v, str) and re.match(p, v) for v in form.seen)]
            if fitting and found.get("pattern", PRINTABLE) == PRINTABLE:
                found = {"type": "string", **found, "pattern": ecma(fitting[-1])}
        facts.update(found or _like(form.seen))
    return facts


def _like(seen: Sequence[object]) -> Schema:
    """Of what a reader takes as it stands, the type is all that is known."""
    value = seen[0] if seen else None
    if isinstance(value, str):
        return {"type": "string"}
    if isinstance(value, list):
        return {"type": "array", "items": {"type": "string"}}
    return {}


def _elements(forms: Iterable[Form], where: str) -> Schema:
    """Elements that the reader takes as they stand."""
    seen = [element for form in forms for value in form.seen if isinstance(value, list) for element in value]
    if not seen:
        raise Unshown(f"no example has an element of {where}")
    return _like(seen)


def _summary(model: type) -> str:
    return (inspect.getdoc(model) or "").partition("\n\n")[0].replace("\n", " ").replace("`", "")


def _attributes(model: type) -> dict[str, str]:
    """What a class's docstring says about its attributes."""
    _, _, block = (inspect.getdoc(model) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if not line.strip():
            break
        match = _ATTRIBUTE.match(line[4:]) if line.startswith("    ") else None
        if match:
            name = match[1]
            found[name] = match[2]
        elif name:
            found[name] += " " + line.strip()
    return {name: text.replace("`", "") for name, text in found.items()}


def as_bytes(read: Callable[[bytes], object]) -> Callable[[object], object]:
    """A reader of bytes as one of JSON values."""
    return lambda example: read(json.dumps(example).encode("ascii"))
