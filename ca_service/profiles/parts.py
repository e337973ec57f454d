"""A TBSCertificate cut into its parts, each still encoded.

The walk is strict: tags of one octet, definite lengths in their shortest form, and nothing before, between or after
the parts. So the parts, one after the other under their heads, are the very bytes.

Source: ITU-T X.690, sections 8.1 and 10.1; RFC 5280, section 4.1.
"""

from typing import NamedTuple

_SEQUENCE, _EXTENSIONS = 0x30, 0xA3
_TAG_GOES_ON = 0x1F
_LONG_FORM = 0x80
_CUT_OFF = "ends before its contents"


class Parts(NamedTuple):
    """DER of the parts of a TBSCertificate that has extensions and no unique identifiers."""

    version: bytes
    serial: bytes
    algorithm: bytes
    issuer: bytes
    validity: bytes
    subject: bytes
    spki: bytes
    extension_list: bytes
    extensions: tuple[bytes, ...]


def cut(tbs: bytes) -> Parts:
    """Cut a TBSCertificate.

    Raises:
        ValueError: the bytes are not one value of the distinguished encoding, or have other parts.
    """
    first, end = _extent(tbs, 0)
    if tbs[0] != _SEQUENCE or end != len(tbs):
        raise ValueError("is not one sequence")
    version, serial, algorithm, issuer, validity, subject, spki, extension_list = _walk(tbs, first)
    first, end = _extent(extension_list, 0)
    if extension_list[0] != _EXTENSIONS or extension_list[first : first + 1] != bytes((_SEQUENCE,)):
        raise ValueError("has no extensions")
    first, inner_end = _extent(extension_list, first)
    if inner_end != end:
        raise ValueError("has something after its extensions")
    extensions = tuple(_walk(extension_list, first))
    return Parts(version, serial, algorithm, issuer, validity, subject, spki, extension_list, extensions)


def _walk(data: bytes, start: int) -> list[bytes]:
    """The values from an offset to the end."""
    values, size = [], len(data)
    while start < size:
        first = start + 2
        if first > size or data[start + 1] >= _LONG_FORM or data[start] & _TAG_GOES_ON == _TAG_GOES_ON:
            _, end = _extent(data, start)
        else:
            # Most values are short.
            end = first + data[start + 1]
            if end > size:
                raise ValueError(_CUT_OFF)
        values.append(data[start:end])
        start = end
    return values


def _extent(data: bytes, start: int) -> tuple[int, int]:
    """Where the contents of the value at an offset begin and end."""
    first = start + 2
    if first > len(data) or data[start] & _TAG_GOES_ON == _TAG_GOES_ON:
        raise ValueError("has a head of another form")
    size = data[start + 1]
    if size >= _LONG_FORM:
        octets = size - _LONG_FORM
        size = int.from_bytes(data[first : first + octets], "big")
        first += octets
        if size < _LONG_FORM or size >> (8 * (octets - 1)) == 0:
            raise ValueError("has a length that is not in its shortest form")
    if first + size > len(data):
        raise ValueError(_CUT_OFF)
    return first, first + size
