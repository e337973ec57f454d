"""docs/api.md says what is so: calls, codes with their statuses, limits."""

import ast
import re
from pathlib import Path

from ca_service.api import HttpLimits, problems
from ca_service.api.calls import CALLS
from ca_service.api.watching import route_of
from ca_service.judgment import BadRequest, Conflict, NotFound, Refused, TooMany, Unavailable
from ca_service.operations import MAX_REQUEST
from ca_service.service import request
from ca_service.status import MAX_REQUEST as MAX_OCSP
from vtpm.wire.enrollment import MAX_BODY

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "api.md").read_text()

SERVED = (
    "api",
    "service",
    "enrollment",
    "operations",
    "store",
    "status",
    "audit",
    "keys",
    "profiles",
    "policy",
)
"""Packages whose errors a server may meet."""

FOR_COMMANDS = {
    "audit", "damaged", "driver", "empty", "encoding", "exists", "export", "fork", "format", "lint", "lint-token",
    "other-ca", "output", "passphrase", "permissions", "pin", "policy-layout", "recorded", "replay", "signer", "taken",
    "unreadable",
}  # fmt: skip
"""Codes that only commands without a server show, or that become `internal` or `unavailable` in an answer."""


def table(head: str) -> list[list[str]]:
    (block,) = re.findall(rf"^\| {head} \|.*\n\|[ -|]+\n((?:\|.*\n)+)", DOCUMENT, re.MULTILINE)
    return [re.split(r"\s*\|\s*", line)[1:-1] for line in block.splitlines()]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def documented() -> set[tuple[int, str]]:
    """Status and code of each problem; 0 for the status of those that come with several."""
    found = {(int(status), code) for status, cell, *_ in table("status") for code in words(cell)}
    return found | {
        (0, code)
        for row in re.findall(r"^\| (`[a-z].*?`) \| [^|]+\|$", DOCUMENT, re.MULTILINE)
        for code in words(row)
    }


def test_the_calls_of_each_surface():
    for surface, _, _, cell in table("surface \\(tag\\)"):
        (name,) = words(surface)
        told = {re.sub(r"\{\w+\}", "{}", path) for path in words(cell)}
        calls = {route_of(call.rule) for call in CALLS if call.surface.value == name} - {"/openapi.json"}
        there = {re.sub(r"\{\w+\}", "{}", path) for path in calls if not path.startswith("/ocsp/")}
        assert told == there


def test_statuses_and_codes():
    known = documented()
    for status, (code, _, _) in problems._HTTP.items():
        assert (int(status), code) in known
    for kind, status in {
        BadRequest: 400, Refused: 403, NotFound: 404, Conflict: 409, TooMany: 429, Unavailable: 503,
    }.items():  # fmt: skip
        assert (status, kind.code) in known
    for refusal in (value for value in vars(request).values() if isinstance(value, request.Refusal)):
        # These two have no line of their own.
        status = 413 if refusal.status in (414, 431) else refusal.status
        assert (status, refusal.code) in known, refusal


def test_every_code_of_a_server_is_there_and_no_other():
    raised = set[str]()
    for package in SERVED:
        for path in (ROOT / "ca_service" / package).rglob("*.py"):
            raised |= {
                keyword.value.value
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call)
                for keyword in node.keywords
                if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
            }
    codes = {code for _, code in documented()}
    assert raised - FOR_COMMANDS <= codes
    text = "\n".join(path.read_text() for path in (ROOT / "ca_service").rglob("*.py"))
    for code in codes:
        assert f'"{code}"' in text, code


def test_limits():
    limits = HttpLimits()
    for text in (
        f"| content of a request of machines | {MAX_BODY:,} bytes |",
        f"| content of an operation | {MAX_REQUEST:,} bytes |",
        f"| an OCSP request | {MAX_OCSP:,} bytes |",
        f"| {limits.requests_per_second:.0f} a second, {limits.burst:,} |",
    ):
        assert text in DOCUMENT
