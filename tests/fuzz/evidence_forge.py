"""Forged evidence: genuine certificates, revocation lists and reports with parts of a fuzzer's choosing.

The DER around the parts is right, so that what lies inside is reached; the signatures over it are of course not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from choosing import Chooser, xor

from ca_service.evidence.snp import Collateral, Leaf, Root, SnpEvidence, amd_roots, read_leaf
from vtpm.snp import der
from vtpm.wire.report import Report

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "snp-evidence"
MOST_CHANGES = 8
"""How many parts of one certificate or list are changed at once."""

ARC = "1.3.6.1.4.1.3704.1."
OIDS = (
    *(ARC + f"{n}" for n in (1, 2, 4, 5, 6)),
    *(ARC + f"3.{n}" for n in range(1, 10)),
    # What the library reads by itself: each has a parser that may have its own idea of an error.
    *(
        f"2.5.29.{n}"
        for n in (9, 14, 15, 16, 17, 18, 19, 20, 21, 24, 27, 28, 29, 30, 31, 32, 33, 35, 36, 37, 46, 54)
    ),
    "1.3.6.1.5.5.7.1.1",
    "1.3.6.1.5.5.7.1.3",
    "1.3.6.1.5.5.7.1.11",
    "1.3.6.1.5.5.7.1.24",
    "1.3.6.1.5.5.7.48.1.5",
    "1.3.6.1.4.1.11129.2.4.2",
    "1.3.6.1.4.1.11129.2.4.3",
    "1.3.6.1.4.1.11129.2.4.5",
    "1.3.6.1.4.1.311.21.7",
    "1.2.3",
)
"""Extensions that are put in: AMD's, and those with a meaning of their own elsewhere."""


@dataclass(frozen=True)
class Genuine:
    """A vector that is valid, read."""

    report: Report
    leaf: Leaf
    at: datetime

    def evidence(self, **changes: object) -> SnpEvidence:
        """The evidence, with members changed."""
        members = {
            "report": self.report,
            "roots": roots(),
            "at": self.at,
            "offered": Collateral(leaves=(self.leaf,)),
        }
        return SnpEvidence(**members | changes)


@cache
def roots() -> tuple[Root, ...]:
    """AMD's."""
    return amd_roots()


@cache
def genuine() -> tuple[Genuine, ...]:
    """The valid vectors, in the manifest's order."""
    vectors = json.loads((VECTORS / "manifest.json").read_text())["vectors"]
    return tuple(
        Genuine(
            Report.parse((VECTORS / vector["files"]["report"]).read_bytes()),
            read_leaf((VECTORS / vector["files"]["vek"]).read_bytes()),
            datetime.fromisoformat(vector["verify_at"]),
        )
        for vector in vectors
        if vector["expected"]["verdict"] == "VALID"
    )


@cache
def lists() -> tuple[bytes, ...]:
    """AMD's revocation lists, in DER."""
    return tuple(path.read_bytes() for path in sorted((VECTORS / "crl").iterdir()))


def pick(choose: Chooser) -> Genuine:
    """One of the genuine vectors."""
    return genuine()[choose.byte() % len(genuine())]


def children(element: bytes) -> list[bytes]:
    """The elements inside a constructed one; for DER that is known to be good."""
    content, found = _content(element), []
    while content:
        size = len(content) - len(_behind(content))
        found.append(content[:size])
        content = content[size:]
    return found


def _header(element: bytes) -> tuple[int, int]:
    """Sizes of tag with length, and of the content."""
    length = element[1]
    if length < 0x80:
        return 2, length
    count = length & 0x7F
    return 2 + count, int.from_bytes(element[2 : 2 + count], "big")


def _content(element: bytes) -> bytes:
    header, size = _header(element)
    return element[header : header + size]


def _behind(elements: bytes) -> bytes:
    header, size = _header(elements)
    return elements[header + size :]


def patched(choose: Chooser, data: bytes) -> bytes:
    """Some bytes exchanged, put in or cut out, anywhere."""
    changed = bytearray(data)
    for _ in range(choose.byte() % MOST_CHANGES):
        at, kind, piece = (
            choose.number(2) % (len(changed) + 1),
            choose.byte() % 3,
            choose.take(choose.byte() % 17),
        )
        changed[at : at + (len(piece) if kind < 2 else 0)] = b"" if kind == 1 else piece
    return bytes(changed)


def forged_certificate(choose: Chooser, certificate: bytes) -> bytes:
    """A certificate whose fields and extensions are partly the fuzzer's; its signature is kept."""
    tbs, algorithm, signature = children(certificate)
    fields = children(tbs)
    fields[-1] = der.value(0xA3, der.sequence(*_extensions(choose, children(children(fields[-1])[0]))))
    for _ in range(choose.byte() % 3):
        at = choose.byte() % len(fields)
        fields[at] = _changed(choose, fields[at])
    if choose.byte() & 1:
        algorithm = _changed(choose, algorithm)
    if choose.byte() & 1:
        signature = der.bit_string(choose.take(choose.number(2) % 600))
    return der.sequence(der.sequence(*fields), algorithm, signature)


def forged_list(choose: Chooser, crl: bytes) -> bytes:
    """A revocation list whose fields, entries and extensions are partly the fuzzer's; its signature is kept."""
    tbs, algorithm, signature = children(crl)
    version, alg, issuer, this_update, next_update, *others = children(tbs)
    extensions = der.value(0xA0, der.sequence(*_extensions(choose, children(children(others[-1])[0]))))
    entries = [_entry(choose, this_update) for _ in range(choose.byte() % 5)]
    revoked = der.sequence(*entries) if entries or choose.byte() & 1 else b""
    fields = [version, alg, issuer, this_update, next_update, revoked, extensions]
    for _ in range(choose.byte() % 3):
        at = choose.byte() % len(fields)
        fields[at] = _changed(choose, fields[at])
    if choose.byte() & 1:
        algorithm = _changed(choose, algorithm)
    return der.sequence(der.sequence(*fields), algorithm, signature)


def _entry(choose: Chooser, date: bytes) -> bytes:
    kind, serial = choose.byte(), choose.take(choose.byte() % 24)
    extensions = b""
    if kind & 1:
        extensions = der.sequence(*_extensions(choose, []))
    if kind & 2:
        date = _changed(choose, date)
    return der.sequence(der.value(0x02, serial) if kind & 4 else der.integer(0x20001), date, extensions)


def _extensions(choose: Chooser, present: list[bytes]) -> list[bytes]:
    found = list(present)
    for _ in range(choose.byte() % MOST_CHANGES):
        at = choose.byte() % max(len(found), 1)
        change = CHANGES[choose.byte() % len(CHANGES)]
        if found or change is _added:
            change(choose, found, at)
    return found


def _parts(extension: bytes) -> tuple[bytes, bytes]:
    oid, *_, octets = children(extension)
    return oid, _content(octets)


def _replaced(choose: Chooser, found: list[bytes], at: int) -> None:
    oid, _ = _parts(found[at])
    found[at] = der.sequence(oid, der.octet_string(choose.take(choose.byte())))


def _altered(choose: Chooser, found: list[bytes], at: int) -> None:
    oid, value = _parts(found[at])
    found[at] = der.sequence(oid, der.octet_string(xor(value, choose.take(choose.byte() % 70))))


def _dropped(_: Chooser, found: list[bytes], at: int) -> None:
    del found[at]


def _doubled(_: Chooser, found: list[bytes], at: int) -> None:
    found.append(found[at])


def _critical(choose: Chooser, found: list[bytes], at: int) -> None:
    oid, value = _parts(found[at])
    found[at] = der.sequence(oid, der.value(0x01, bytes([choose.byte()])), der.octet_string(value))


def _added(choose: Chooser, found: list[bytes], at: int) -> None:
    oid = der.object_identifier(OIDS[choose.byte() % len(OIDS)])
    flag = der.value(0x01, b"\xff") if choose.byte() & 1 else b""
    found.insert(at, der.sequence(oid, flag, der.octet_string(choose.take(choose.byte()))))


CHANGES: tuple[Callable[[Chooser, list[bytes], int], None], ...] = (
    _replaced,
    _altered,
    _added,
    _critical,
    _dropped,
    _doubled,
)


def _changed(choose: Chooser, element: bytes) -> bytes:
    """An element of the same tag with other contents, or anything else in its place."""
    kind = choose.byte() % 4
    if kind == 0:
        return patched(choose, element)
    if kind == 1:
        return der.value(element[0] if element else 0x30, choose.take(choose.byte()))
    if kind == 2:
        return b""
    return der.value(choose.byte(), _content(element) if element else b"")
