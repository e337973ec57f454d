"""One request through a WSGI application: content in, the bytes of a response out. Nothing is written to a socket.

A response is whole before its first byte is sent, so a failure in the middle of making it becomes a clean 500, and its
length is known. That makes the server's side of PEP 3333 short enough to stand here, where gunicorn's would stream.
"""

import io
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

import structlog

from ca_service.service.listeners import OPERATOR, Wsgi
from ca_service.service.request import BROKEN, Head

_NAME: Final = "vtpm-ca"
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""What a field may hold (RFC 9110, section 5): nothing that ends a line."""

_STATUS: Final = re.compile(r"[2-5][0-9]{2} [\x20-\x7e]*")

_OURS: Final = frozenset({"connection", "date", "server", "transfer-encoding"})
"""Fields about the connection and about who answers and when, in which an application has no say."""

_EMPTY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Client:
    """Who asks, as the listener knows it; no header has a say in it.

    Attributes:
        address: host and port, or None for a Unix socket.
        operator: the operator's name, None for all others.
        secure: whether the request came through TLS.
    """

    address: tuple[str, int] | None
    operator: str | None
    secure: bool


@dataclass(frozen=True)
class Answer:
    """A response, ready to be sent.

    Attributes:
        parts: its bytes.
        keep: whether the connection stays open for another request.
    """

    parts: tuple[bytes, ...]
    keep: bool


def answer(application: Wsgi, head: Head, content: bytes, client: Client, last: Callable[[], bool]) -> Answer:
    """Let the application answer a request.

    Args:
        application: of WSGI.
        head: of the request.
        content: the request's.
        client: who asks.
        last: whether the connection is to close after this response; asked as late as possible.
    """
    try:
        status, fields, body = _run(application, _environ(head, content, client))
        keep = not (last() or head.request.should_close())
        return Answer(_whole(head.request, status, fields, body, keep=keep), keep)
    except Exception as error:  # noqa: BLE001 - a thread that dies would be missed
        # The application answers its own errors, so this is a fault of this program.
        _log.exception("request failed", error=type(error).__name__)
        return Answer((BROKEN.response(),), keep=False)


def _environ(head: Head, content: bytes, client: Client) -> dict[str, Any]:
    """What PEP 3333 has an application know of a request."""
    environ: dict[str, Any] = {
        **head.environ,
        "REMOTE_ADDR": "",
        "wsgi.url_scheme": "https" if client.secure else "http",
        "wsgi.input": io.BytesIO(content),
        "wsgi.errors": sys.stderr,
        OPERATOR: client.operator,
    }
    if client.address is not None:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client.address[0], str(client.address[1])
    return environ


def _run(application: Wsgi, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
    """Status, fields and content of the application's response."""
    said: list[Any] = []
    parts: list[bytes] = []

    def start_response(status: str, fields: list[tuple[str, str]], _error: object = None) -> Any:
        # Nothing is sent yet, so the last word counts.
        said[:] = status, fields
        return parts.append

    chunks = application(environ, start_response)
    try:
        parts.extend(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    status, fields = said
    return status, fields, b"".join(parts)


def _whole(
    request: Any, status: str, fields: list[tuple[str, str]], body: bytes, *, keep: bool
) -> tuple[bytes, ...]:
    """Head and content, if there is any; raises `ValueError` for what would not be read as it was meant."""
    major, minor = request.version
    lines = [
        f"HTTP/{major}.{minor} {status}",
        f"Server: {_NAME}",
        f"Date: {_date(int(time.time()))}",
        "Connection: keep-alive" if keep else "Connection: close",
    ]
    if not _STATUS.fullmatch(status):
        raise ValueError("a status that is none")
    length = None
    for name, value in fields:
        if not (_TOKEN.fullmatch(name) and _VALUE.fullmatch(value)):
            raise ValueError("a field that is none")
        small = name.lower()
        if small in _OURS:
            continue
        if small == "content-length":
            length = value
        lines.append(f"{name}: {value}")
    if int(status[:3]) in _EMPTY or request.method == "HEAD":
        body = b""
    elif length is None:
        lines.append(f"Content-Length: {len(body)}")
    elif length != str(len(body)):
        raise ValueError("the content has another length than its field says")
    lines += "", ""
    head = "\r\n".join(lines).encode("latin-1")
    return (head, body) if body else (head,)


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
