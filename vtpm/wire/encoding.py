"""Strict text encodings and strict JSON, as every message of the protocol uses them.

Strict means: a byte string has exactly one accepted text form, and a JSON document has exactly one meaning.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Final, NoReturn, cast

import rfc8785

from vtpm.wire.errors import WireError

_MAX_SAFE_INTEGER = 2**53 - 1
"""Largest integer that every JSON reader keeps exact (RFC 7493, section 2.2)."""

_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_+/=", b"+/   ")
"""To the standard alphabet, which has no space: what has no meaning in base64url has none there either."""

_PADDING = (b"", b"===", b"==", b"=")
"""By the number of characters modulo 4; one left over encodes nothing, and its padding is refused."""

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_LAST = (_ALPHABET, _ALPHABET[::16], _ALPHABET[::4])
"""By the number of bytes modulo 3: the characters that may come last, because their lowest bits are zero."""


def _check_size(data: bytes, path: str, size: int | None, most: int | None) -> bytes:
    if size is not None and len(data) != size:
        raise WireError(path, f"must be {size} bytes, is {len(data)}")
    if most is not None and len(data) > most:
        raise WireError(path, f"must be at most {most} bytes, is {len(data)}")
    return data


def b64url(data: bytes) -> str:
    """Encode as base64url without padding (RFC 7515, section 2)."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL, b"=").decode("ascii")


def b64url_array(items: tuple[bytes, ...]) -> str:
    """A JSON array of texts as `b64url` makes them, in its canonical form."""
    texts = b'","'.join([binascii.b2a_base64(item, newline=False) for item in items])
    return f'["{texts.translate(_TO_URL, b"=").decode("ascii")}"]' if items else "[]"


def unb64url(text: str, path: str, *, size: int | None = None, most: int | None = None) -> bytes:
    """Decode base64url without padding; only the one canonical form is taken.

    Args:
        text: the encoded bytes.
        path: where `text` stood, for the error.
        size: exact number of bytes wanted, if there is one.
        most: largest number of bytes accepted, if there is one.

    Raises:
        WireError: not canonical base64url, or of another size.
    """
    try:
        encoded = text.encode("ascii").translate(_FROM_URL) + _PADDING[len(text) % 4]
        data = binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError as error:
        raise WireError(path, "must be base64url without padding") from error
    # The strict reader leaves one thing open: the last character may have bits that encode nothing.
    if text and text[-1] not in _LAST[len(data) % 3]:
        raise WireError(path, "must be base64url without padding, in its canonical form")
    return data if len(data) == size else _check_size(data, path, size, most)


_DIGEST = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]\Z")


def check_digest(text: str, path: str) -> str:
    """The base64url text of 32 bytes, such as a thumbprint, unchanged: most digests are compared as texts.

    Raises:
        WireError: as `unb64url`.
    """
    if not _DIGEST.match(text):
        unb64url(text, path, size=32)  # which says what is wrong
    return text


def b64std(data: bytes) -> str:
    """Encode as standard base64 with padding (RFC 4648, section 4)."""
    return base64.b64encode(data).decode("ascii")


def unb64std(text: str, path: str, *, size: int | None = None, most: int | None = None) -> bytes:
    """Decode standard base64 with padding; only the one canonical form is taken.

    Raises:
        WireError: not canonical base64, or of another size.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError(path, "must be standard base64 with padding") from error
    if b64std(data) != text:
        raise WireError(path, "must be standard base64 with padding, in its canonical form")
    return _check_size(data, path, size, most)


def unhex(text: str, path: str, *, size: int | None = None, most: int | None = None) -> bytes:
    """Decode lower-case hexadecimal.

    Raises:
        WireError: not lower-case hexadecimal, or of another size.
    """
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    # Python takes capitals and spaces too.
    if data.hex() != text:
        raise WireError(path, "must be lower-case hexadecimal")
    return data if len(data) == size else _check_size(data, path, size, most)


class _Flaw:
    """Stands in for a value that is not taken, until the path to it is known."""

    def __init__(self, problem: str) -> None:
        self.problem = problem


_TWICE = "the member stands twice"
_NUMBER = "numbers must be integers that every JSON reader keeps exact"


def _marked_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, value in pairs:
        members[name] = _Flaw(_TWICE) if name in members else value
    return members


class _Flawed(Exception):
    """Some value is not taken."""


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Flawed
    return members


def _refuse_flaws(value: object) -> None:
    """Raise `WireError` for the first value that is not taken, naming the way to it."""
    if isinstance(value, _Flaw):
        raise WireError("", value.problem)
    if isinstance(value, dict):
        steps = ((_shown(name), member) for name, member in value.items())
    elif isinstance(value, list):
        steps = ((f"[{i}]", element) for i, element in enumerate(value))
    else:
        return
    for step, inner in steps:
        try:
            _refuse_flaws(inner)
        except WireError as error:
            raise error.under(step) from None


def _shown(name: str) -> str:
    """A member name that came from outside, made safe for an error message."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in name[:64])


def _refuse_number(_text: str) -> NoReturn:
    raise _Flawed


def _marked_number(_text: str) -> _Flaw:
    return _Flaw(_NUMBER)


def _safe_integer(text: str) -> int:
    # The length comes first: Python refuses, by its own error, to read integers of thousands of digits.
    if len(text) > len(str(-_MAX_SAFE_INTEGER)) or text == "-0":
        _refuse_number(text)
    value = int(text)
    if abs(value) > _MAX_SAFE_INTEGER:
        _refuse_number(text)
    return value


def _any_integer(text: str) -> int | float:
    try:
        return _safe_integer(text)
    except _Flawed:
        return float(text)


def _marked_integer(text: str) -> int | _Flaw:
    try:
        return _safe_integer(text)
    except _Flawed:
        return _Flaw(_NUMBER)


_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A string, perhaps unfinished."""

_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
"""All bytes but brackets."""


def _check_depth(data: bytes, depth: int) -> None:
    """Bound the nesting before the recursive parser sees the text."""
    if data.count(b"[") + data.count(b"{") <= depth:
        return
    # Without escape sequences every other piece between quotation marks is a string.
    outside = _STRING.sub(b"", data) if b"\\" in data else b"".join(data.split(b'"')[::2])
    level = 0
    for bracket in outside.translate(None, _OTHERS):
        if bracket in b"[{":
            level += 1
            if level > depth:
                raise WireError("", f"is nested more than {depth} levels deep")
        else:
            level -= 1


def parse_json(
    data: bytes, path: str = "", *, most: int, depth: int = 16, any_number: bool = False
) -> object:
    """Parse JSON that has exactly one meaning (I-JSON, RFC 7493, and integers only).

    Args:
        data: UTF-8 text.
        path: name of the document, for the error.
        most: largest size in bytes.
        depth: deepest nesting of arrays and objects.
        any_number: take fractions and unsafe integers too, as `float`, which no reader of `Members` accepts: for
            documents of others that may carry such numbers where nobody looks.

    Raises:
        WireError: too large, too deep, not UTF-8, not JSON, duplicate members, fractions or unsafe integers,
            or strings that are no Unicode text.
    """
    if len(data) > most:
        raise WireError(path, f"must be at most {most} bytes, is {len(data)}")
    try:
        _check_depth(data, depth)
        text = data.decode("utf-8")
        try:
            value: object = _DECODERS[any_number].decode(text)
        except _Flawed:
            value = _MARKING[any_number].decode(text)
            _refuse_flaws(value)
        # Half a surrogate pair is no Unicode text, and only an escape sequence can bring one.
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except WireError as error:
        raise error.under(path) from None
    except UnicodeError as error:
        raise WireError(path, "must be UTF-8 text") from error
    except ValueError as error:
        raise WireError(path, "must be JSON") from error
    return value


_DECODERS: Final = {
    any_number: json.JSONDecoder(
        object_pairs_hook=_unique_members,
        parse_int=_any_integer if any_number else _safe_integer,
        parse_float=float if any_number else _refuse_number,
        parse_constant=_refuse_number,
    )
    for any_number in (False, True)
}
"""By whether any number is taken."""

_MARKING: Final = {
    any_number: json.JSONDecoder(
        object_pairs_hook=_marked_members,
        parse_int=_any_integer if any_number else _marked_integer,
        parse_float=float if any_number else _marked_number,
        parse_constant=_marked_number,
    )
    for any_number in (False, True)
}
"""The same, with a mark in place of each value that is not taken."""


_TEXT: Final = frozenset({str})
_LEAVES: Final = frozenset({str, bool, type(None)})


def _is_plain(value: object) -> bool:
    """Whether a value is made of nothing on which Python's JSON and RFC 8785 differ, but perhaps of texts."""
    rest = [value]
    for member in rest:  # which grows meanwhile
        if type(member) is dict:
            if not _TEXT.issuperset(map(type, member)):
                return False
            rest += [inner for inner in member.values() if type(inner) is not str]
        elif type(member) is list:
            rest += member
        elif type(member) is int:
            if abs(member) > _MAX_SAFE_INTEGER:
                return False
        elif type(member) not in _LEAVES:
            return False
    return True


_ascii_form = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False).encode
"""The canonical form of a plain value that has no DEL; that one, and all beyond ASCII, it writes as ``\\u....``."""


def canonical(value: object) -> bytes:
    """The canonical bytes of a JSON value (RFC 8785).

    Raises:
        WireError: the value has no canonical form (for example a number that JSON cannot carry).
    """
    if _is_plain(value):
        # Nearly every value of the protocol; the encoder in C takes a quarter of the time, this look included.
        text = _ascii_form(value)
        if "\\u" not in text:
            return text.encode("ascii")
    try:
        return rfc8785.dumps(cast("dict[str, object]", value))  # type: ignore[arg-type]
    except (rfc8785.CanonicalizationError, UnicodeError) as error:
        raise WireError("", "has no canonical JSON form") from error


quoted = json.encoder.encode_basestring_ascii
"""A string as JSON in ASCII, for texts that `spliced` takes."""


def spliced(text: str) -> bytes:
    """The canonical bytes of a JSON text that somebody put together from fragments, because most of it is constant.

    Args:
        text: ASCII without spaces between tokens, members sorted by name, strings as `quoted` writes them.

    Raises:
        WireError: as `canonical`.
    """
    # Escape sequences are the one thing in which such a text and its canonical form may differ.
    return canonical(json.loads(text)) if "\\u" in text else text.encode("ascii")


def is_canonical(data: bytes, value: object) -> bool:
    """Whether a document is written in its canonical form (RFC 8785).

    Args:
        data: the document.
        value: what `parse_json` read from it: safe integers only, and strings that are Unicode text.
    """
    text = _ascii_form(value)
    # Escape sequences are the one thing in which the two forms of such values differ.
    return data == (canonical(value) if "\\u" in text else text.encode("ascii"))


_LONGEST: Final = 1 << 20
"""Characters that the text form of bytes may have, whatever their size."""


class Members:
    """Reads the members of one JSON object, each once, and refuses what is left over.

    Every method names the member at fault in its `WireError`. Call `end` after the last member.
    """

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise WireError(path, "must be a JSON object")
        self._values: Mapping[str, object] = value
        self._left = set(value)
        self._within = f"{path}." if path else ""
        self.path = path

    def at(self, name: str) -> str:
        """The path of the member `name`."""
        return self._within + name

    def has(self, name: str) -> bool:
        """Whether the optional member `name` is there; JSON null counts as a value, not as absence."""
        return name in self._values

    def value(self, name: str) -> object:
        """The member as it stands; raises `WireError` if it is missing."""
        try:
            value = self._values[name]
        except KeyError:
            raise WireError(self.at(name), "is missing") from None
        self._left.discard(name)
        return value

    def text(self, name: str, *, least: int = 1, most: int = 1024) -> str:
        """A string of printable ASCII, `least` to `most` characters long."""
        try:
            value = self._values[name]
        except KeyError:
            raise WireError(self.at(name), "is missing") from None
        self._left.discard(name)
        if not isinstance(value, str):
            raise WireError(self.at(name), "must be a string")
        if not least <= len(value) <= most:
            raise WireError(self.at(name), f"must be {least} to {most} characters long, is {len(value)}")
        if not (value.isascii() and value.isprintable()):
            raise WireError(self.at(name), "must be printable ASCII")
        return value

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        """A string out of a closed set."""
        value = self._values.get(name)
        if isinstance(value, str) and value in choices:
            self._left.discard(name)
            return value
        self.text(name, least=0)
        raise WireError(self.at(name), "must be one of " + ", ".join(choices))

    def integer(self, name: str, least: int, most: int) -> int:
        """An integer within bounds, both included."""
        value = self.value(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise WireError(self.at(name), "must be an integer")
        if not least <= value <= most:
            raise WireError(self.at(name), f"must be {least} to {most}")
        return value

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self.value(name)
        if not isinstance(value, bool):
            raise WireError(self.at(name), "must be true or false")
        return value

    def members(self, name: str) -> "Members":
        """A reader for the JSON object `name`."""
        return Members(self.value(name), self._within + name)

    def array(self, name: str, least: int, most: int) -> list[tuple[object, str]]:
        """The elements of an array, each with its path; `least` to `most` of them."""
        value = self.value(name)
        if not isinstance(value, list):
            raise WireError(self.at(name), "must be an array")
        if not least <= len(value) <= most:
            raise WireError(self.at(name), f"must have {least} to {most} elements, has {len(value)}")
        return [(element, f"{self._within}{name}[{i}]") for i, element in enumerate(value)]

    def _encoded(self, name: str) -> str:
        """A string that is to be decoded, which shows what is in it."""
        value = self._values.get(name)
        if not isinstance(value, str) or len(value) > _LONGEST:
            return self.text(name, least=0, most=_LONGEST)
        self._left.discard(name)
        return value

    def b64url(self, name: str, *, size: int | None = None, most: int | None = None) -> bytes:
        """Bytes as base64url without padding; give `size` or `most`."""
        return unb64url(self._encoded(name), self._within + name, size=size, most=most)

    def b64std(self, name: str, *, size: int | None = None, most: int | None = None) -> bytes:
        """Bytes as standard base64 with padding; give `size` or `most`."""
        return unb64std(self._encoded(name), self._within + name, size=size, most=most)

    def hex(self, name: str, *, size: int | None = None, most: int | None = None) -> bytes:
        """Bytes as lower-case hexadecimal; give `size` or `most`."""
        return unhex(self._encoded(name), self._within + name, size=size, most=most)

    def unread(self) -> list[str]:
        """Names of the members that nothing has read yet, for objects that may carry further ones."""
        return sorted(self._left)

    def end(self) -> None:
        """Refuse members that nobody asked for."""
        if self._left:
            raise WireError(self.at(_shown(min(self._left))), "is no member of this object")
