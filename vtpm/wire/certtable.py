"""The certificate table that a host attaches to an extended attestation report.

Entries of 24 bytes (GUID in textual byte order, u32 offset from the table's start, u32 length, little
endian), ended by an entry of zeros, then the contents. Source: AMD 56421 (GHCB), SNP extended guest request.
The table is the host's: nothing in it is trusted, and whoever reads it takes roots and intermediates from
elsewhere.
"""

import uuid
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from vtpm.wire.errors import WireError

MAX_TABLE: Final = 16 * 1024
"""Largest table in bytes; the buffer that an SVSM offers."""

_MAX_ENTRIES: Final = 16
_ENTRY: Final = 24
_GUID: Final = 16


class CertKind(StrEnum):
    """What a table entry holds; ASK stands for the ASVK too."""

    VCEK = "VCEK"
    VLEK = "VLEK"
    ASK = "ASK"
    ARK = "ARK"
    CRL = "CRL"


_GUIDS: Final[Mapping[CertKind, bytes]] = {
    CertKind.VCEK: uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes,
    CertKind.VLEK: uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1").bytes,
    CertKind.ASK: uuid.UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782").bytes,
    CertKind.ARK: uuid.UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae").bytes,
    CertKind.CRL: uuid.UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea").bytes,
}
_KINDS: Final = {guid: kind for kind, guid in _GUIDS.items()}


def parse_table(data: bytes, path: str = "certificates") -> dict[CertKind, bytes]:
    """Read a certificate table; each content is given as it stands, which may be DER or PEM.

    Entries with a GUID that is not known are bounded like the others and left out. A table of one zero entry
    (a host without certificates) is empty.

    Raises:
        WireError: too large, no closing entry, over 16 entries, a GUID twice, or an entry that is empty,
            reaches into the entries or past the end, or overlaps another.
    """
    if len(data) > MAX_TABLE:
        raise WireError(path, f"must be at most {MAX_TABLE} bytes, is {len(data)}")
    entries = _entries(data, path)
    least = (len(entries) + 1) * _ENTRY
    found: dict[CertKind, bytes] = {}
    seen: set[bytes] = set()
    for i, (guid, offset, length) in enumerate(entries):
        at = f"{path}[{i}]"
        if guid in seen:
            raise WireError(at, "the GUID stands twice")
        seen.add(guid)
        if length == 0:
            raise WireError(at, "must not be empty")
        if offset < least or offset + length > len(data):
            raise WireError(at, "must lie behind the entries and within the table")
        kind = _KINDS.get(guid)
        if kind is not None:
            found[kind] = data[offset : offset + length]
    end = least
    for offset, length in sorted((offset, length) for _, offset, length in entries):
        if offset < end:
            raise WireError(path, "two entries overlap")
        end = offset + length
    return found


def _entries(data: bytes, path: str) -> list[tuple[bytes, int, int]]:
    entries: list[tuple[bytes, int, int]] = []
    for start in range(0, (_MAX_ENTRIES + 1) * _ENTRY, _ENTRY):
        entry = data[start : start + _ENTRY]
        if len(entry) < _ENTRY:
            raise WireError(path, "has no closing entry")
        if not any(entry):
            return entries
        offset = int.from_bytes(entry[_GUID : _GUID + 4], "little")
        length = int.from_bytes(entry[_GUID + 4 :], "little")
        entries.append((entry[:_GUID], offset, length))
    raise WireError(path, f"must have at most {_MAX_ENTRIES} entries")


def pack_table(entries: Mapping[CertKind, bytes]) -> bytes:
    """Write a certificate table, contents in the order of `entries`.

    Raises:
        WireError: an empty content, or more than 16 KiB in all.
    """
    offset = (len(entries) + 1) * _ENTRY
    head = bytearray()
    for kind, content in entries.items():
        if not content:
            raise WireError(f"certificates.{kind}", "must not be empty")
        head += _GUIDS[kind] + offset.to_bytes(4, "little") + len(content).to_bytes(4, "little")
        offset += len(content)
    if offset > MAX_TABLE:
        raise WireError("certificates", f"must be at most {MAX_TABLE} bytes, is {offset}")
    return bytes(head) + bytes(_ENTRY) + b"".join(entries.values())
