"""The head of a request: from the bytes that have come so far to a request whose content has a known length.

gunicorn's parser reads the lines; what is decided here is when it may, and what this server takes on top of that: a
request says its length beforehand (RFC 9112, section 6.3: 411 otherwise), so nothing is read whose end is not known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from gunicorn.config import Config
from gunicorn.http.errors import (
    ExpectationFailed,
    InvalidHTTPVersion,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader

from vtpm.wire.encoding import canonical
from vtpm.wire.problem import PROBLEM_MEDIA_TYPE, PROBLEM_TYPE, Problem

MOST_LINE: Final = 4096
MOST_FIELDS: Final = 64
MOST_FIELD: Final = 8190
MOST_HEAD: Final = 16 << 10
"""Bytes of request line and header fields together."""

_REMEMBERED: Final = 128
_SHORT: Final = 1 << 10
"""Clients of one program send the same head again and again. What the bytes of so many mean is remembered, if they are
not more than this each; so whoever sends others only makes the next one be read again."""

_END = b"\r\n\r\n"
_LENGTH_REQUIRED: Final = 411


def _rules() -> SimpleNamespace:
    """Settings of gunicorn for its parser, as plain attributes: its own object makes several calls to look one up."""
    config = Config()
    for name, value in {
        "limit_request_line": MOST_LINE,
        "limit_request_fields": MOST_FIELDS,
        "limit_request_field_size": MOST_FIELD,
        # Who asks and how is what the socket says, whatever a header or a proxy's greeting says.
        "forwarded_allow_ips": "",
        "secure_scheme_headers": {},
        "forwarder_headers": "",
        "proxy_protocol": "off",
        # Another parser that happens to be installed would read requests by rules that nobody has looked at.
        "http_parser": "python",
    }.items():
        config.set(name, value)
    return SimpleNamespace(is_ssl=False, **{name: each.get() for name, each in config.settings.items()})


_RULES: Final = _rules()

_NO_PEER: Final = None
"""The parser asks for the client's address only to see whether its word on other clients counts; nobody's does."""


@dataclass(frozen=True)
class Refusal:
    """Why a request does not get to the application.

    Attributes:
        status: of HTTP.
        title: the kind of problem, for people; also the reason phrase.
        code: stable short name, for programs.
        detail: one sentence.
    """

    status: int
    title: str
    code: str
    detail: str

    def response(self) -> bytes:
        """The whole response, after which the connection closes: a problem document (RFC 9457)."""
        retryable = self.status in (408, 429, 503)
        problem = Problem(
            PROBLEM_TYPE + self.code, self.title, self.status, self.detail, self.code, retryable=retryable
        )
        body = canonical(problem.to_json())
        head = (
            f"HTTP/1.1 {self.status} {self.title}\r\nConnection: close\r\nCache-Control: no-store\r\n"
            f"X-Content-Type-Options: nosniff\r\nContent-Type: {PROBLEM_MEDIA_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\n" + ("Retry-After: 1\r\n" if retryable else "") + "\r\n"
        )
        return head.encode("ascii") + body


MALFORMED = Refusal(400, "Bad Request", "malformed", "the request does not follow RFC 9112")
NO_HOST = Refusal(400, "Bad Request", "malformed", "a request of HTTP/1.1 needs one Host field")
NOT_AN_OPERATOR = Refusal(403, "Forbidden", "no-operator", "your certificate names no operator")
TOO_SLOW = Refusal(408, "Request Timeout", "too-slow", "the request did not come in time")
NO_LENGTH = Refusal(
    _LENGTH_REQUIRED, "Length Required", "length-required", "give Content-Length, and no transfer coding"
)
TOO_LARGE = Refusal(413, "Content Too Large", "too-large", "the content is larger than this listener takes")
LONG_LINE = Refusal(414, "URI Too Long", "too-large", "the request line is too long")
CODED = Refusal(415, "Unsupported Media Type", "unsupported-media-type", "no content coding is taken")
NOT_MET = Refusal(417, "Expectation Failed", "expectation", "the only expectation met is 100-continue")
TOO_MANY = Refusal(429, "Too Many Requests", "too-many-requests", "this client has too many connections")
LONG_HEAD = Refusal(431, "Request Header Fields Too Large", "too-large", "the header is too large")
BROKEN = Refusal(500, "Internal Server Error", "internal", "the CA failed to answer; its log says why")
FULL = Refusal(503, "Service Unavailable", "unavailable", "too many requests wait")
OTHER_VERSION = Refusal(505, "HTTP Version Not Supported", "version", "this server speaks HTTP/1.1")

_OF_ERRORS: tuple[tuple[type[Exception], Refusal], ...] = (
    (LimitRequestLine, LONG_LINE),
    (LimitRequestHeaders, LONG_HEAD),
    (UnsupportedTransferCoding, NO_LENGTH),
    (ExpectationFailed, NOT_MET),
    (InvalidHTTPVersion, OTHER_VERSION),
)


@dataclass(frozen=True)
class Head:
    """A request whose content may not have come yet.

    Attributes:
        request: of gunicorn, still without content. Nobody changes it: one object may stand for many requests.
        length: bytes of content.
        expects: whether the client waits for 100 (Continue) before it sends them.
        environ: what PEP 3333 has an application know of it.
    """

    request: Any
    length: int
    expects: bool
    environ: Mapping[str, object] = field(repr=False)


def read_head(inbox: bytearray, most_body: int) -> Head | Refusal | None:
    """Take a request's head out of what a client has sent; None if it is not complete yet.

    Args:
        inbox: what has come; the head is removed from its beginning.
        most_body: bytes of content that are taken.
    """
    end = inbox.find(_END)
    if end < 0:
        return _unfinished(inbox)
    if end > MOST_HEAD:
        return LONG_HEAD
    head = bytes(inbox[: end + len(_END)])
    del inbox[: end + len(_END)]
    return (_read_before if len(head) <= _SHORT else _read)(head, most_body)


def _read(head: bytes, most_body: int) -> Head | Refusal:
    """What a head means follows from its bytes and the bound alone."""
    source = IterUnreader([head])
    try:
        request = Request(_RULES, source, _NO_PEER)
    except (ParseException, OSError, StopIteration) as error:
        return next((refusal for kind, refusal in _OF_ERRORS if isinstance(error, kind)), MALFORMED)
    return MALFORMED if source.take_buffered() else _judged(request, most_body)


_read_before = lru_cache(maxsize=_REMEMBERED)(_read)


def _unfinished(inbox: bytearray) -> Refusal | None:
    """A head that cannot become a good one is refused at once."""
    if inbox.count(b"\n") != inbox.count(b"\r\n"):
        return MALFORMED
    if len(inbox) > MOST_LINE and b"\r\n" not in inbox:
        return LONG_LINE
    return LONG_HEAD if len(inbox) > MOST_HEAD else None


def _judged(request: Any, most_body: int) -> Head | Refusal:
    fields = dict(request.headers)
    if "TRANSFER-ENCODING" in fields:
        return NO_LENGTH
    if "HOST" not in fields and request.version >= (1, 1):
        return NO_HOST
    if "CONTENT-ENCODING" in fields and _tokens(request, "CONTENT-ENCODING") != {"identity"}:
        return CODED
    # The parser has seen to it that there is at most one, of digits.
    length = int(fields.get("CONTENT-LENGTH", "0"))
    if length > most_body:
        return TOO_LARGE
    if "CONNECTION" in fields and "close" in _tokens(request, "CONNECTION"):
        # Of a list of options the parser knows only the whole.
        request.force_close()
    expects = bool(request._expected_100_continue)  # noqa: SLF001 - gunicorn has no public name for it
    # Who waits is answered here, not by gunicorn, which would write to the socket.
    request._expected_100_continue = False  # noqa: SLF001
    return Head(request, length, expects and length > 0, _environ(request))


def _environ(request: Any) -> dict[str, object]:
    major, minor = request.version
    # An operator's path names no host; an application that asks gets names that nobody chose.
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(request.path).decode("latin-1"),
        "QUERY_STRING": request.query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "0",
        "SERVER_PROTOCOL": f"HTTP/{major}.{minor}",
        "wsgi.version": (1, 0),
        "wsgi.input_terminated": True,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    # The parser leaves no name with an underscore, so no two names become one.
    for name, value in request.headers:
        key = name.replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


def _tokens(request: Any, field: str) -> set[str]:
    """The members of a field that is a list (RFC 9110, section 5.6.1), in small letters."""
    values = (value for name, value in request.headers if name == field)
    return {token.strip(" \t").lower() for value in values for token in value.split(",")}
