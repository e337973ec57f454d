"""What a reader of JSON asks for, found out by listening to it while it reads examples.

The service parses messages with `Members`, one call for each member. So that the published contract cannot say
anything else, it is not written down a second time: the real reader reads an example, and each of its calls is noted
with its bounds. What no example shows is an error, not a gap in the contract.

This is for the generator of the document alone; it takes Python's profiling hook for the time of one call.
"""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, Final

from vtpm.wire import message_fields
from vtpm.wire.encoding import Members, unb64url, unhex

_STEP: Final = re.compile(r"\[\d+\]|[^.\[\]]+")

PRINTABLE: Final = "^[ -~]*$"
"""ECMA-262 form of what `Members.text` takes."""


@dataclass
class Form:
    """What a reader asks of one value, as far as one reading has shown.

    Attributes:
        facts: keywords of JSON Schema.
        members: of an object, those that were read.
        optional: names that the reader looked for before it read them.
        items: of an array, what each element must be.
        others: of an object with names that the reader does not know, what each value must be.
        closed: whether further members are refused.
        model: the class that read an object, if one did.
        seen: the example's value.
    """

    facts: dict[str, object] = field(default_factory=dict)
    members: dict[str, "Form"] = field(default_factory=dict)
    optional: set[str] = field(default_factory=set)
    items: "Form | None" = None
    others: "Form | None" = None
    closed: bool = False
    model: type | None = None
    seen: list[object] = field(default_factory=list)

    @property
    def known(self) -> frozenset[str]:
        """All names that the reader knows, read or not."""
        return frozenset(self.members) | self.optional

    def at(self, path: str) -> "Form":
        """The form of the value at a path such as ``evidence.tpm.ek[0].pub``; made if it is new."""
        form = self
        for step in _STEP.findall(path):
            if step.startswith("["):
                form.items = form.items or Form()
                form = form.items
            elif form.others is not None:
                form = form.others
            else:
                form = form.members.setdefault(step, Form())
        return form

    def note_values(self, value: object) -> None:
        """Note what the example has where this form was read."""
        self.seen.append(value)
        if isinstance(value, Mapping):
            for name, member in value.items():
                form = self.others or self.members.get(name)
                if form is not None:
                    form.note_values(member)
        elif isinstance(value, list) and self.items is not None:
            for element in value:
                self.items.note_values(element)


def text_facts(least: int, most: int) -> dict[str, object]:
    """Printable ASCII of so many characters."""
    return {
        "type": "string",
        **({"minLength": least} if least else {}),
        "maxLength": most,
        "pattern": PRINTABLE,
    }


def base64url_facts(size: int | None, most: int | None) -> dict[str, object]:
    """Bytes in base64url without padding; lengths in JSON Schema are those of the text."""
    longest = size if size is not None else most
    return {
        "type": "string",
        "contentEncoding": "base64url",
        "pattern": "^[A-Za-z0-9_-]*$",
        **({} if size is None else {"minLength": -(-size * 4 // 3)}),
        **({} if longest is None else {"maxLength": -(-longest * 4 // 3)}),
    }


def hex_facts(size: int | None, most: int | None) -> dict[str, object]:
    """Bytes in lower-case hexadecimal."""
    longest = size if size is not None else most
    return {
        "type": "string",
        "pattern": "^([0-9a-f]{2})*$",
        **({} if size is None else {"minLength": 2 * size}),
        **({} if longest is None else {"maxLength": 2 * longest}),
    }


def ecma(pattern: str) -> str:
    """A pattern for Python's `match` as JSON Schema wants it (ECMA-262), in the subset that the readers use."""
    return "^" + pattern.replace(r"\Z", "$")


class Listener:
    """Notes what the readers of one message ask for; `form` is the result."""

    def __init__(self) -> None:
        self.form = Form()
        self._inside: FrameType | None = None
        self._last: dict[int, str] = {}
        self._calls: Mapping[CodeType, Callable[[FrameType, Mapping[str, Any]], None]] = {
            Members.__init__.__code__: self._object,
            Members.value.__code__: self._value,
            Members.text.__code__: self._text,
            Members.one_of.__code__: self._one_of,
            Members.integer.__code__: self._integer,
            Members.boolean.__code__: self._boolean,
            Members.array.__code__: self._array,
            Members.b64url.__code__: self._b64url,
            Members.hex.__code__: self._hex,
            Members.unread.__code__: self._unread,
            Members.end.__code__: self._end,
            unb64url.__code__: self._some_b64url,
            unhex.__code__: self._some_hex,
            message_fields.parse_time.__code__: self._time,
        }

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen while the block runs."""
        before = sys.getprofile()
        sys.setprofile(self._hear)
        try:
            yield
        finally:
            sys.setprofile(before)

    def _hear(self, frame: FrameType, event: str, what: object) -> None:
        if event == "call" and self._inside is None and frame.f_code in self._calls:
            self._calls[frame.f_code](frame, frame.f_locals)
        elif event == "return":
            self._returned(frame)
        elif event == "c_call" and self._inside is None:
            self._matched(frame, what)

    def _returned(self, frame: FrameType) -> None:
        self._last.pop(id(frame), None)
        if frame is self._inside:
            self._inside = None
        elif self._inside is not None:
            return
        given = frame.f_locals
        if frame.f_code is Members.has.__code__:
            self.form.at(given["self"].path).optional.add(given["name"])
        elif frame.f_code is message_fields.filled_bytes.__code__:
            self.form.at(given["members"].at(given["name"])).facts["minLength"] = 2
        elif frame.f_code is message_fields.bytes_element.__code__:
            self.form.at(given["path"]).facts["minLength"] = 2

    def _matched(self, frame: FrameType, what: object) -> None:
        """A text is compared with a pattern: the one read last here, or the one whose path is given."""
        pattern = getattr(what, "__self__", None)
        if isinstance(pattern, re.Pattern) and getattr(what, "__name__", "") in ("match", "fullmatch"):
            path = self._last.get(id(frame), frame.f_locals.get("path"))
            if isinstance(path, str):
                form = self.form.at(path)
                patterns = form.facts.setdefault("x-patterns", [])
                if isinstance(patterns, list) and pattern.pattern not in patterns:
                    patterns.append(pattern.pattern)

    # --- the calls of a reader --------------------------------------------------------------------------------------

    def _read(self, given: Mapping[str, Any], **facts: object) -> Form:
        form = self.form.at(given["self"].at(given["name"]))
        form.facts.update(facts)
        return form

    def _object(self, frame: FrameType, given: Mapping[str, Any]) -> None:
        form = self.form.at(given["path"])
        form.facts["type"] = "object"
        form.model = form.model or _model(frame.f_back)

    def _value(self, frame: FrameType, given: Mapping[str, Any]) -> None:
        del frame
        self._read(given)

    def _text(self, frame: FrameType, given: Mapping[str, Any]) -> None:
        self._inside = frame
        self._read(given, **text_facts(given["least"], given["most"]))
        if frame.f_back is not None:
            self._last[id(frame.f_back)] = given["self"].at(given["name"])

    def _one_of(self, frame: FrameType, given: Mapping[str, Any]) -> None:
        self._inside = frame
        self._read(given, type="string", enum=list(given["choices"]))

    def _integer(self, frame: FrameType, given: Mapping[str, Any]) -> None:
        self._inside = frame
        self._read(given, type="integer", minimum=given["least"], maximum=given["most"])

    def _boolean(self, frame: FrameType, given: Mapping[str, Any]) -> None:
        self._inside = frame
        self._read(given, type="boolean")

    def _array(self, frame: FrameType, given: Mapping[str, Any]) -> None:
        self._inside = frame
        self._read(given, type="array", minItems=given["least"], maxItems=given["most"])

    def _b64url(self, frame: FrameType, given: Mapping[str, Any]) -> None:
        self._inside = frame
        self._read(given, **base64url_facts(given["size"], given["most"]))

    def _hex(self, frame: FrameType, given: Mapping[str, Any]) -> None:
        self._inside = frame
        self._read(given, **hex_facts(given["size"], given["most"]))

    def _some_b64url(self, frame: FrameType, given: Mapping[str, Any]) -> None:
        self._inside = frame
        self.form.at(given["path"]).facts.update(base64url_facts(given["size"], given["most"]))

    def _some_hex(self, frame: FrameType, given: Mapping[str, Any]) -> None:
        self._inside = frame
        self.form.at(given["path"]).facts.update(hex_facts(given["size"], given["most"]))

    def _time(self, frame: FrameType, given: Mapping[str, Any]) -> None:
        del frame
        self.form.at(given["path"]).facts.update(type="string", format="date-time")

    def _unread(self, frame: FrameType, given: Mapping[str, Any]) -> None:
        del frame
        self.form.at(given["self"].path).others = Form()

    def _end(self, frame: FrameType, given: Mapping[str, Any]) -> None:
        form = self.form.at(given["self"].path)
        form.closed = True
        form.model = _model(frame.f_back) or form.model


def _model(frame: FrameType | None) -> type | None:
    """The class whose `parse` this is, or which calls the reader of whole messages."""
    if frame is not None and frame.f_code is message_fields.document.__code__:
        frame = frame.f_back
    found = None if frame is None else frame.f_locals.get("cls")
    return found if isinstance(found, type) else None
