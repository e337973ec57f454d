"""What a draft's bytes are made of, found by a walk of its own, and drafts of other bytes.

What a draft says of its parts is held against them.

The walk is strict: tags of one octet, definite lengths in their shortest form, and nothing before, between or after
the parts (ITU-T X.690, sections 8.1 and 10.1). So the parts, one after the other under their heads, are the very bytes.
"""

from dataclasses import replace

from ca_service.profiles import Draft, patch_slot
from ca_service.profiles.parts import Parts
from ca_service.profiles.reading import read_by_parts
from ca_service.profiles.view import CertificateView

_SEQUENCE, _EXTENSIONS = 0x30, 0xA3
_TAG_GOES_ON = 0x1F
_LONG_FORM = 0x80
_CUT_OFF = "ends before its contents"


def with_tbs(draft: Draft, tbs: bytes) -> Draft:
    """A draft of other bytes, whose parts are named rightly."""
    return replace(draft, tbs=tbs, parts=parts_or_none(tbs))


def filled(draft: Draft, digest: str) -> Draft:
    """The draft as if it had been made with the EK certificate's digest known."""
    done = with_tbs(draft, patch_slot(draft.tbs, draft.slot, digest))
    return replace(done, slot=None, content=replace(draft.content, ek_digest=digest))


def by_parts(tbs: bytes) -> CertificateView | None:
    """What the lint's short way sees in a TBSCertificate whose parts are named rightly; None if it has others."""
    parts = parts_or_none(tbs)
    return None if parts is None else read_by_parts(tbs, parts)


def parts_or_none(tbs: bytes) -> Parts | None:
    """As `cut`; None if the bytes cannot be cut."""
    try:
        return cut(tbs)
    except ValueError:
        return None


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
