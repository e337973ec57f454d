"""Attestation tokens of a fuzzer's making, read and judged: raw, or a verifier's token with parts exchanged."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import ear_tokens as make
from choosing import Chooser

from ca_service.evidence.ear import EAR_CHECKS, EarEvidence
from ca_service.judgment import Finding, Trace
from vtpm.wire.ear import EarToken
from vtpm.wire.encoding import b64url
from vtpm.wire.jwk import EcJwk

VERIFIER = EcJwk.from_key(make.VERIFIER.public_key())
GENUINE = make.token()
MOST_CHANGES = 6

PIECES = (
    b'"',
    b"{",
    b"}",
    b"[" * 20,
    b"null",
    b"true",
    b"-0",
    b"1e400",
    b"NaN",
    b"9" * 400,
    b"\\ud800",
    b"\\u0000",
    b"\xff",
    b'"ear.status":2,',
    b'"crit":["exp"],',
    b'"b64":false,',
    b'"alg":"none",',
    b'"alg":"HS256",',
    b'"crv":"P-256",',
    b'"nbf":1,',
    b'"cpu0":{},',
)
"""What has a meaning in a token, or has none and looks as if it had."""

VALUES = (
    None,
    True,
    -1,
    0,
    2,
    1 << 60,
    1.5,
    "",
    "affirming",
    "none",
    [],
    {},
    "P-521",
    "ES256",
    "a" * 300,
    "\0",
    "é",
)


def read_and_judge(data: bytes) -> None:
    """Whatever the token: it is read or refused, judged without an exception, and not believed unless it is signed."""
    choose = Chooser(data)
    kind = choose.byte() % 5
    if kind == 0:
        compact, signed = choose.rest().decode("latin-1"), False
    elif kind == 1:
        compact, signed = _patched(choose, GENUINE.encode()).decode("latin-1"), False
    elif kind == 2:
        head, claims, signature = make.parts(GENUINE)
        if choose.byte() & 1:
            head = _patched(choose, head)
        compact, signed = ".".join(map(b64url, (head, _patched(choose, claims), signature))), False
    else:
        head = _altered(choose, make.header()) if choose.byte() & 1 else make.header()
        claims = _altered(choose, make.CLAIMS)
        content = _patched(choose, json.dumps(claims).encode()) if kind == 4 else claims
        compact, signed = make.token(content, head=head), True
    token = EarToken.parse(compact)
    assert token.compact == compact
    subject = EarEvidence(
        token=token,
        signers=(VERIFIER,),
        max_age_s=300,
        tee_jkt=make.TEE.thumbprint(),
        nonce=make.NONCE,
        at=datetime.fromtimestamp(make.ISSUED + choose.number(2) % 600, UTC),
    )
    findings = tuple(check.judge(subject) for check in EAR_CHECKS)
    assert all(isinstance(finding, Finding) for finding in findings)
    assert [finding.rule for finding in findings] == [check.id for check in EAR_CHECKS]
    if Trace(findings).admitted:
        assert signed or compact == GENUINE
        assert {status for _, status in token.statuses} == {"affirming"}


def _patched(choose: Chooser, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(choose.byte() % MOST_CHANGES):
        at, kind = choose.number(2) % (len(changed) + 1), choose.byte()
        piece = choose.take(kind >> 4) if kind & 1 else PIECES[(kind >> 1) % len(PIECES)]
        changed[at : at + choose.byte() % 24] = piece
    return bytes(changed)


def _altered(choose: Chooser, value: object) -> object:
    whole = json.loads(json.dumps(value))
    for _ in range(choose.byte() % MOST_CHANGES):
        inner = whole
        while isinstance(inner, dict) and inner:
            name = sorted(inner)[choose.byte() % len(inner)]
            if not isinstance(inner[name], dict) or not inner[name] or choose.byte() & 1:
                _change(choose, inner, name)
                break
            inner = inner[name]
    return whole


def _change(choose: Chooser, members: dict[str, object], name: str) -> None:
    kind = choose.byte() % 4
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[choose.take(choose.byte() % 70).decode("latin-1")] = members[name]
    else:
        members[name] = VALUES[choose.byte() % len(VALUES)]


def seeds() -> list[bytes]:
    """Inputs that go through."""
    return [b"\0" + GENUINE.encode(), *(bytes([kind]) for kind in (1, 2, 3, 4))]
