"""What the log says about a decision, a certificate, an OCSP responder and a restore: one canonical JSON object each.

A leaf holds digests where the thing itself is long or not for everybody: with the leaf nobody learns a trace or a
policy, and whoever has them can hold them against it. ``docs/log.md`` is the reference of the members.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from functools import lru_cache

from ca_service.store import DecisionRow
from vtpm.wire.encoding import Members, canonical, parse_json, quoted, spliced
from vtpm.wire.errors import WireError
from vtpm.wire.frozen import frozen
from vtpm.wire.log import MAX_LEAF, Checkpoint
from vtpm.wire.message_fields import time_text

VERSION = 1
DECISION, CERTIFICATE, RESPONDER, RESTORE = "decision", "certificate", "responder", "restore"
KINDS = (DECISION, CERTIFICATE, RESPONDER, RESTORE)

_TEXT, _NUMBER = "text", "number"
_MAX_NUMBER = 2**53 - 1
_FORMS: dict[str, re.Pattern[str]] = {
    "at": re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z"),
    "id": re.compile(r"[A-Za-z0-9_-]{1,64}\Z"),
    "hex": re.compile(r"[0-9a-f]{1,160}\Z"),
    "digest": re.compile(r"[0-9a-f]{64}\Z"),
    "digest or none": re.compile(r"(?:[0-9a-f]{64})?\Z"),
    "decimal": re.compile(r"(?:0|[1-9][0-9]{0,18})\Z"),
    "word": re.compile(r"[a-z0-9.-]{0,64}\Z"),
    _TEXT: re.compile(r"[\x20-\x7e]{0,256}\Z"),
}
"""Forms of texts. Some of these texts become names of files, so none may lead out of a folder."""

_MEMBERS: dict[str, dict[str, str]] = {
    DECISION: {
        "id": "id",
        "stage": "word",
        "verdict": "word",
        "rule": "word",
        "policy": "digest or none",
        "policy_version": _NUMBER,
        "evidence": "digest",
        "trace": "digest",
        "kbs": _TEXT,
        "resource": _TEXT,
    },
    CERTIFICATE: {
        "serial": "hex",
        "issuer": "hex",
        "profile": "word",
        "key": "hex",
        "sha256": "digest",
        "decision": "id",
    },
    RESPONDER: {"serial": "hex", "issuer": "hex", "sha256": "digest"},
    RESTORE: {"epoch": _NUMBER, "size": "decimal", "root": "digest or none"},
}
_VERDICTS = {0: "refused", 1: "admitted"}
"""What a decision's row says. With any other number it would be an admission that no query for admissions finds."""
_SUBJECTS = {DECISION: "id", CERTIFICATE: "serial", RESPONDER: "serial", RESTORE: "epoch"}


@frozen
class Leaf:
    """One entry of the log.

    Attributes:
        kind: one of `KINDS`.
        subject: id of the decision, serial of the certificate or the responder's, number of the epoch. Once per kind.
        data: the leaf's bytes, canonical JSON (RFC 8785).
    """

    kind: str
    subject: str
    data: bytes = field(repr=False)


_time = lru_cache(maxsize=64)(time_text)
"""All leaves of a transaction are of one moment, and those of a second too."""


def _leaf(kind: str, subject: str, at: datetime, members: dict[str, object]) -> Leaf:
    head = {"v": VERSION, "kind": kind, "at": time_text(at)}
    return Leaf(kind, subject, canonical(head | members))


def _number(value: int) -> int:
    # A database that somebody has altered may hold any number there.
    if abs(value) > _MAX_NUMBER:
        raise WireError("policy_version", "must be a number that every JSON reader keeps exact")
    return value


def decision_leaf(row: DecisionRow) -> Leaf:
    """The leaf of a decision: a grant or an authenticated refusal; raises LookupError if its row is neither."""
    trace = hashlib.sha256(row.trace.encode("utf-8")).hexdigest()
    text = (
        f'{{"at":"{_time(row.at)}","evidence":{quoted(row.evidence_digest)},"id":{quoted(row.id)},'
        f'"kbs":{quoted(row.kbs_id)},"kind":"{DECISION}","policy":{quoted(row.policy_digest)},'
        f'"policy_version":{_number(row.policy_version)},"resource":{quoted(row.resource)},"rule":{quoted(row.rule)},'
        f'"stage":{quoted(row.stage)},"trace":"{trace}","v":{VERSION},"verdict":"{_VERDICTS[row.admitted]}"}}'
    )
    return Leaf(DECISION, row.id, spliced(text))


def certificate_leaf(
    *, serial: str, issuer: str, profile: str, key_name: str, der: bytes, decision_id: str, at: datetime
) -> Leaf:
    """The leaf of an issued certificate.

    Args:
        serial: its serial number, hex as in the database.
        issuer: subject key id of the CA that signed it, hex.
        profile: "ek", "iak" and so on, as in the database.
        key_name: TPM Name of its key, hex.
        der: the certificate.
        decision_id: the decision in its intent.
        at: when it was stored as issued.
    """
    text = (
        f'{{"at":"{_time(at)}","decision":{quoted(decision_id)},"issuer":{quoted(issuer)},'
        f'"key":{quoted(key_name)},"kind":"{CERTIFICATE}","profile":{quoted(profile)},"serial":{quoted(serial)},'
        f'"sha256":"{hashlib.sha256(der).hexdigest()}","v":{VERSION}}}'
    )
    return Leaf(CERTIFICATE, serial, spliced(text))


def responder_leaf(*, serial: str, issuer: str, der: bytes, at: datetime) -> Leaf:
    """The leaf of the certificate of an OCSP responder: what an issuing CA signs besides certificates of TPMs.

    Args:
        serial: its serial number, hex as in the database.
        issuer: subject key id of the CA that signed it, hex.
        der: the certificate.
        at: when it was stored as issued.
    """
    digest = hashlib.sha256(der).hexdigest()
    return _leaf(RESPONDER, serial, at, {"serial": serial, "issuer": issuer, "sha256": digest})


def restore_leaf(epoch: int, at: datetime, known: Checkpoint | None) -> Leaf:
    """The leaf that admits a restore of the database from a backup.

    Args:
        epoch: number of the epoch that begins.
        at: when.
        known: the newest checkpoint that was known before; what its log held beyond the present tree is lost.
    """
    size, root = (0, "") if known is None else (known.size, known.root.hex())
    # The size as text: JSON readers are exact only up to 2^53.
    return _leaf(RESTORE, str(epoch), at, {"epoch": epoch, "size": str(size), "root": root})


def parse_leaf(data: bytes) -> tuple[Leaf, Mapping[str, str]]:
    """Read a leaf that came from elsewhere.

    Returns:
        The leaf, and its members as text.

    Raises:
        WireError: no leaf of version 1, or not in its canonical form.
    """
    members = Members(parse_json(data, "leaf", most=MAX_LEAF, depth=2), "leaf")
    members.integer("v", VERSION, VERSION)
    kind = members.one_of("kind", KINDS)
    values = {"at": _member(members, "at", "at")}
    values |= {name: _member(members, name, form) for name, form in _MEMBERS[kind].items()}
    members.end()
    leaf = Leaf(kind, values[_SUBJECTS[kind]], data)
    if canonical(parse_json(data, most=MAX_LEAF)) != data:
        raise WireError("leaf", "must be canonical JSON")
    return leaf, values


def _member(members: Members, name: str, form: str) -> str:
    if form == _NUMBER:
        return str(members.integer(name, 0, _MAX_NUMBER))
    text = members.text(name, least=0, most=256)
    if not _FORMS[form].match(text):
        raise WireError(members.at(name), "has another form")
    return text
