"""How large a policy document may be, and how dotted its lines.

An auditor reads the documents of an export, and those may come from anybody; what no auditor reads must not come in
force.
"""

from typing import Final

from ca_service.judgment import BadRequest

MAX_POLICY: Final = 16 * 1024 * 1024
"""Longest document, in bytes of UTF-8."""

MOST_DOTS: Final = 1000
"""Most dots in a line: the time to read a key of TOML grows with the square of its parts."""


def check_bounds(content: bytes) -> None:
    """Refuse a document that is too long or has too many dots in a line.

    Raises:
        BadRequest: it has (code ``policy-invalid``).
    """
    if len(content) > MAX_POLICY:
        raise BadRequest("", f"must be at most {MAX_POLICY} bytes long", code="policy-invalid")
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.count(b".") > MOST_DOTS:
            detail = f"must have at most {MOST_DOTS} dots in a line: line {number} has more"
            raise BadRequest(
                "", detail, code="policy-invalid", remedy="Write lists with a line for each entry."
            )
