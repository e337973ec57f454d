"""The service: listeners, each with its own paths, TLS, threads and limits, in worker processes under gunicorn.

`Listener` says what one address is; `serve_until_told` runs a `Server` of them. No request is understood here: each
listener has an application.
"""

from ca_service.service.listeners import OPERATOR, Bounds, Listener, Patience, check_bind, parse_address
from ca_service.service.operators import certified_operator, unix_operator
from ca_service.service.server import Server, Service, serve_until_told
from ca_service.service.tls import Tls, TlsFiles

__all__ = [
    "OPERATOR",
    "Bounds",
    "Listener",
    "Patience",
    "Server",
    "Service",
    "Tls",
    "TlsFiles",
    "certified_operator",
    "check_bind",
    "parse_address",
    "serve_until_told",
    "unix_operator",
]
