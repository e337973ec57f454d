"""One request through a WSGI application: content in, the bytes of a response out. Nothing is written to a socket.

A response is whole before its first byte is sent, so a failure in the middle of making it becomes a clean 500.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from gunicorn.config import Config
from gunicorn.http import wsgi

from ca_service.service.listeners import OPERATOR, Wsgi
from ca_service.service.request import BROKEN

_NAME = "vtpm-ca"
_INNER = ("gunicorn.socket", "wsgi.early_hints", "wsgi.file_wrapper")
"""What gunicorn lends to applications and ours must not have: ways around a response that is whole."""

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


class _Paper:
    """Stands for the socket that gunicorn would write to."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.parts.append(data)


def answer(
    application: Wsgi, request: Any, content: bytes, client: Client, config: Config, last: Callable[[], bool]
) -> Answer:
    """Let the application answer a request.

    Args:
        application: of WSGI.
        request: of gunicorn.
        content: the request's.
        client: who asks.
        config: of gunicorn.
        last: whether the connection is to close after this response; asked as late as possible.
    """
    paper = _Paper()
    try:
        keep = _run(application, request, content, client, config, last, paper)
    except Exception as error:  # noqa: BLE001 - a thread that dies would be missed
        # The application answers its own errors, so this is a fault of this program.
        _log.exception("request failed", error=type(error).__name__)
        return Answer((BROKEN.response(),), keep=False)
    return Answer(tuple(paper.parts), keep)


def _run(
    application: Wsgi,
    request: Any,
    content: bytes,
    client: Client,
    config: Config,
    last: Callable[[], bool],
    paper: _Paper,
) -> bool:
    request.body = io.BytesIO(content)
    request.scheme = "https" if client.secure else "http"
    # An operator's path names no host; an application that asks gets names that nobody chose.
    response, environ = wsgi.create(request, paper, client.address or "", ("localhost", 0), config)
    for name in _INNER:
        environ.pop(name, None)
    environ["wsgi.multithread"] = True
    environ[OPERATOR] = client.operator
    response.version = _NAME
    chunks = application(environ, response.start_response)
    try:
        if last():
            response.force_close()
        for chunk in chunks:
            response.write(chunk)
        response.close()
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    return not response.should_close()
