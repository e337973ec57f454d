"""What browsers may do on an operator's connection: read the status page, and nothing else.

Whoever forwards the operator socket to a port of his own machine, or has a client certificate in his browser, lends his
rights to every page that he has open: each of them can send requests there, and a name of its own that it lets point to
that address (DNS rebinding) even makes the answers readable to it. So an operation takes no request that a browser has
made, nor one in a form that a page could have it send without asking first; and the name in a request's Host field is
one that nobody can let point anywhere. No command needs any of this.
"""

import ipaddress
import re
from http import HTTPStatus
from typing import Final

from flask import Flask, request
from werkzeug.exceptions import UnsupportedMediaType

from ca_service.judgment import BadRequest, Refused
from ca_service.service import OPERATOR

RULE: Final = "operator.no-browser"
"""Id of the refusal, as it stands in problem documents and in the log."""

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FOREIGN: Final = frozenset({"cross-site", "same-site"})
_JSON: Final = "application/json"
_WORD: Final = re.compile(r"[a-z0-9_-]+\Z")


def guard(app: Flask) -> None:
    """Look at each request of an operator before anything else does; to be called for the operators' application."""

    @app.before_request
    def check() -> None:
        if not request.environ.get(OPERATOR):
            return
        # A browser that speaks TLS has compared the name with the server's certificate.
        if not request.is_secure and not is_nobodys(request.headers.get("Host", "")):
            raise BadRequest(
                "Host",
                "must be an address or a name without a dot, such as localhost: others can be let point here",
                code="host",
            )
        if request.method in _READS:
            _check_reading()
        elif request.blueprint == "operator":
            _check_operation()


def _check_reading() -> None:
    """Fetch Metadata Request Headers (W3C), section 2: a page elsewhere may link here, and not look inside."""
    foreign = request.headers.get("Sec-Fetch-Site", "") in _FOREIGN
    mode, target = request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest")
    if foreign and (mode, target) != ("navigate", "document"):
        raise Refused(RULE, "another site's page may not read this")


def _check_operation() -> None:
    # RFC 6454, section 7.3: a browser says where a POST comes from, and no page can keep it from doing so.
    if "Origin" in request.headers or "Sec-Fetch-Site" in request.headers:
        raise Refused(RULE, "operations are for commands; a browser may only read the status page")
    if request.mimetype != _JSON:
        raise UnsupportedMediaType(HTTPStatus.UNSUPPORTED_MEDIA_TYPE.phrase)


def is_nobodys(host: str) -> bool:
    """Whether a Host field names what nobody can let point to another machine: an IP address, or a name without a dot.

    Names below ``localhost`` mean this machine too (RFC 6761, section 6.3).
    """
    name, colon, port = host.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        name = host
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(_WORD.match(name.lower().removesuffix(".localhost")))
    return True
