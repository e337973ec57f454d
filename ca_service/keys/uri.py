"""Names of keys and tokens as PKCS#11 URIs (RFC 7512), as far as this CA uses them.

Only what names a token or a key is taken. Where the module lies and what the PIN is stands elsewhere: a URI goes
into files that everybody may read.
"""

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

SCHEME = "pkcs11:"

_MAX_TEXT = 512
_MAX_LABEL = 32
_MAX_OBJECT = 64
_MAX_ID = 64
_ATTRIBUTE = re.compile(
    r"(?P<name>[a-z-]+)=(?P<value>(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&]|%[0-9A-Fa-f]{2})*)\Z"
)
_KNOWN = ("token", "serial", "object", "id", "type")
_SAFE = "-._~"


@dataclass(frozen=True)
class TokenUri:
    """What a PKCS#11 URI names.

    Attributes:
        token: label of the token, 1 to 32 bytes in UTF-8.
        serial: serial number of the token, if labels do not tell tokens apart.
        object: label of the key; empty if the URI names a token only.
        id: CKA_ID of the key; empty if the URI does not state it.
    """

    token: str
    serial: str = ""
    object: str = ""
    id: bytes = b""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URI.

        Raises:
            ValueError: with a text for people; it never repeats the URI, which may hold a PIN by mistake.
        """
        if len(text) > _MAX_TEXT or not text.startswith(SCHEME):
            raise ValueError(
                f"must be a URI that begins with {SCHEME} and has at most {_MAX_TEXT} characters"
            )
        path, mark, _ = text.removeprefix(SCHEME).partition("?")
        if mark:
            raise ValueError(
                "must have nothing after a question mark: the module stands in [pkcs11], and the PIN in no file"
                " that others read"
            )
        values = _attributes(path)
        if values.get("type", b"private") != b"private":
            raise ValueError("must name a private key (type=private)")
        token = _text(values, "token", _MAX_LABEL)
        if not token:
            raise ValueError("must name a token (token=LABEL)")
        identity = values.get("id", b"")
        if len(identity) > _MAX_ID:
            raise ValueError(f"must have an id of at most {_MAX_ID} bytes")
        return cls(token, _text(values, "serial", _MAX_LABEL), _text(values, "object", _MAX_OBJECT), identity)

    @property
    def names_key(self) -> bool:
        """Whether it names a key and not only a token."""
        return bool(self.object or self.id)

    def __str__(self) -> str:
        """The URI; `parse` reads it back."""
        parts = [("token", quote(self.token, safe=_SAFE)), ("serial", quote(self.serial, safe=_SAFE))]
        parts += [("object", quote(self.object, safe=_SAFE)), ("id", quote_from_bytes(self.id, safe=""))]
        if self.names_key:
            parts.append(("type", "private"))
        return SCHEME + ";".join(f"{name}={value}" for name, value in parts if value)


def is_token_uri(text: str) -> bool:
    """Whether `text` wants to be a PKCS#11 URI and not the name of a file or folder."""
    return text.startswith(SCHEME)


def _attributes(path: str) -> dict[str, bytes]:
    values: dict[str, bytes] = {}
    for part in path.split(";"):
        match = _ATTRIBUTE.match(part)
        if match is None or match["name"] not in _KNOWN:
            raise ValueError(f"must be made of {', '.join(_KNOWN)} (RFC 7512, percent-encoded, joined by ;)")
        if match["name"] in values:
            raise ValueError(f"must state {match['name']} once")
        values[match["name"]] = unquote_to_bytes(match["value"])
    return values


def _text(values: dict[str, bytes], name: str, most: int) -> str:
    value = values.get(name, b"")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if len(value) > most or not text.isprintable():
        raise ValueError(f"must have a {name} of at most {most} bytes of printable UTF-8")
    return text
