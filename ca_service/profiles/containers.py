"""DER containers as `asn1crypto` opens them: for the second reader of certificates and of revocation lists.

Values are asked for by their `head`, the first octet: class, form and tag.
"""

from asn1crypto import parser


def inside(der: bytes, *heads: int) -> bytes:
    """The contents of the one value that the bytes are; of several heads each is that of the one value in the last.

    Raises:
        ValueError: there are other values, or more or less than one.
    """
    for head in heads:
        if der[0] != head:
            raise _another(der[0], head)
        der = parser.parse(der, strict=True)[4]
    return der


def fields(contents: bytes, *heads: int) -> list[bytes]:
    """The contents of the values that stand one after the other, one for each head.

    Raises:
        ValueError: there are other values, or more or less than the heads.
    """
    found = []
    for head in heads:
        *_, start, inner, end = parser.parse(contents)
        if start[0] != head:
            raise _another(start[0], head)
        found.append(inner)
        contents = contents[len(start) + len(inner) + len(end) :]
    if contents:
        raise ValueError("has more values than it should")
    return found


def series(contents: bytes, head: int) -> list[bytes]:
    """As `fields`, of as many values as there are, which all have this head."""
    found = opened(contents)
    for der, _ in found:
        if der[0] != head:
            raise _another(der[0], head)
    return [inner for _, inner in found]


def elements(contents: bytes) -> list[bytes]:
    """The values that stand one after the other, each with tag and length; raises ValueError if one is cut off."""
    return [der for der, _ in opened(contents)]


def opened(contents: bytes) -> list[tuple[bytes, bytes]]:
    """As `elements`, each with its contents beside it."""
    found = []
    while contents:
        *_, start, inner, end = parser.parse(contents)
        size = len(start) + len(inner) + len(end)
        found.append((contents[:size], inner))
        contents = contents[size:]
    return found


def _another(found: int, wanted: int) -> ValueError:
    return ValueError(f"has {found:02x} in the place of {wanted:02x}")
