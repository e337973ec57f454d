"""DER containers as `asn1crypto` opens them: for the second reader of certificates and of revocation lists."""

from typing import NamedTuple

from asn1crypto import parser


class Value(NamedTuple):
    """One value among others: its first octet, class, form and tag; its contents; and all of it, encoded."""

    head: int
    contents: bytes
    der: bytes

    def inside(self, head: int) -> bytes:
        """As `inside` of the whole."""
        if self.head != head:
            raise ValueError(f"has {self.head:02x} in the place of {head:02x}")
        return self.contents


def inside(der: bytes, head: int) -> bytes:
    """The contents of the one value that the bytes are; `head` is its first octet, class, form and tag.

    Raises:
        ValueError: they are another value, or more or less than one.
    """
    if der[0] != head:
        raise ValueError(f"has {der[0]:02x} in the place of {head:02x}")
    contents: bytes = parser.parse(der, strict=True)[4]
    return contents


def elements(contents: bytes) -> list[bytes]:
    """The values that stand one after the other, each with tag and length; raises ValueError if one is cut off."""
    found = []
    while contents:
        size = parser.peek(contents)
        found.append(contents[:size])
        contents = contents[size:]
    return found


def values(contents: bytes) -> list[Value]:
    """As `elements`, with each value opened: for whoever looks inside them anyway."""
    found = []
    while contents:
        *_, header, inner, trailer = parser.parse(contents)
        size = len(header) + len(inner) + len(trailer)
        found.append(Value(contents[0], inner, contents[:size]))
        contents = contents[size:]
    return found
