"""The service: listeners, each with its own paths, TLS, threads and limits, in worker processes under gunicorn.

`Listener` says what one address is; `serve_until_told` runs a `Server` of them. No request is understood here: each
listener has an application.
"""

from ca_service.service.connection import client_of
from ca_service.service.listeners import OPERATOR, Bounds, Listener, Patience, Wsgi, check_bind, parse_address
from ca_service.service.operators import OperatorList, certified_operator, unix_operator
from ca_service.service.server import Server, Service, serve_until_told
from ca_service.service.tls import Tls, TlsFiles

__all__ = [
    "OPERATOR",
    "Bounds",
    "Listener",
    "OperatorList",
    "Patience",
    "Server",
    "Service",
    "Tls",
    "TlsFiles",
    "Wsgi",
    "certified_operator",
    "check_bind",
    "client_of",
    "parse_address",
    "serve_until_told",
    "unix_operator",
]
