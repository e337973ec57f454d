"""The few DER values (ITU-T X.690) that a key certificate needs.

Written by hand because a simulator must also write what no certificate library agrees to: serial number 0, as all
of AMD's key certificates have it, and the malformed ones that a verifier has to refuse.
"""

from datetime import datetime
from typing import Final

_SHORT: Final = 0x80
_TWO_ARCS: Final = 40
_LAST_UTC_YEAR: Final = 2049


def value(tag: int, *parts: bytes) -> bytes:
    """One value with a definite length: tag, length, and the parts as its content."""
    content = b"".join(parts)
    size = len(content)
    if size < _SHORT:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, _SHORT | len(length)]) + length + content


def sequence(*parts: bytes) -> bytes:
    """A SEQUENCE of encoded values."""
    return value(0x30, *parts)


def integer(number: int) -> bytes:
    """An INTEGER of zero or more; a leading zero byte keeps the sign bit clear."""
    return value(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def octet_string(content: bytes) -> bytes:
    """An OCTET STRING."""
    return value(0x04, content)


def bit_string(content: bytes) -> bytes:
    """A BIT STRING of whole bytes."""
    return value(0x03, b"\0", content)


def ia5_string(text: str) -> bytes:
    """An IA5String.

    Raises:
        ValueError: a character outside ASCII.
    """
    return value(0x16, text.encode("ascii"))


def object_identifier(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER from its dotted form, which must have two arcs or more."""
    first, second, *others = (int(arc) for arc in dotted.split("."))
    content = bytearray()
    for arc in (first * _TWO_ARCS + second, *others):
        groups = [arc >> shift & 0x7F for shift in range(0, max(arc.bit_length(), 1), 7)]
        content += bytes(group | _SHORT for group in reversed(groups[1:])) + bytes(groups[:1])
    return value(0x06, bytes(content))


def time(moment: datetime) -> bytes:
    """A Time of X.509 (RFC 5280, 4.1.2.5): UTCTime up to the year 2049, GeneralizedTime from then on.

    Args:
        moment: in UTC; fractions of a second are dropped.
    """
    text = moment.strftime("%Y%m%d%H%M%SZ").encode("ascii")
    return value(0x17, text[2:]) if moment.year <= _LAST_UTC_YEAR else value(0x18, text)
