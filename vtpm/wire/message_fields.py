"""Fields that several messages of the ``/v1`` interface share."""

import re
from datetime import UTC, datetime

from vtpm.wire.encoding import Members, parse_json, unb64url
from vtpm.wire.errors import WireError

MAX_BODY = 64 * 1024
"""Largest body of any message, in bytes; to be enforced before parsing."""

_DEPTH = 8
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def time_text(moment: datetime) -> str:
    """A moment as RFC 3339 in UTC, in whole seconds; `moment` must be aware."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def parse_time(text: str, path: str) -> datetime:
    """Inverse of `time_text`; raises `WireError` for any other form."""
    if not _TIME.match(text):
        raise WireError(path, "must be a time like 2026-01-31T23:59:59Z")
    try:
        return datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError as error:
        raise WireError(path, "must be a time that exists") from error


def document(data: bytes) -> Members:
    """A reader for a whole message; raises `WireError` unless it is a JSON object within `MAX_BODY`."""
    return Members(parse_json(data, most=MAX_BODY, depth=_DEPTH))


def time_member(members: Members, name: str) -> str:
    """A time, in the form of `time_text`."""
    text = members.text(name, most=20)
    parse_time(text, members.at(name))
    return text


def id_member(members: Members, name: str) -> str:
    """An id that can stand in a URL path."""
    text = members.text(name, most=64)
    if not _ID.match(text):
        raise WireError(members.at(name), "must be made of letters, digits, '-' and '_'")
    return text


def filled_bytes(members: Members, name: str, most: int) -> bytes:
    """One to `most` bytes in base64url."""
    data = members.b64url(name, most=most)
    if not data:
        raise WireError(members.at(name), f"must be 1 to {most} bytes, is 0")
    return data


def bytes_element(value: object, path: str, most: int) -> bytes:
    """An array element that is one or more bytes in base64url."""
    if not isinstance(value, str):
        raise WireError(path, "must be a string")
    data = unb64url(value, path, most=most)
    if not data:
        raise WireError(path, f"must be 1 to {most} bytes, is 0")
    return data
