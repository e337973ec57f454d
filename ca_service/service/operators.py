"""Who an operator is, by the socket he comes over: the kernel says it of a Unix socket, a certificate of TLS."""

import os
import socket
import ssl
import struct
from collections.abc import Mapping
from typing import Any

_CREDENTIALS = struct.Struct("3i")
_MOST_NAME = 64


def unix_operator(connection: socket.socket) -> int | None:
    """The user id of the operator at the other end of a Unix socket: this process's user or root; None for all others.

    The kernel knows who connected (``SO_PEERCRED`` of unix(7)); the socket's mode has kept others out before.
    """
    if connection.family != socket.AF_UNIX:
        return None
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return int(uid) if uid in (0, os.geteuid()) else None


def certified_operator(connection: socket.socket) -> str | None:
    """The operator's name in the client certificate of a TLS connection, as `operator_named` finds it."""
    if not isinstance(connection, ssl.SSLSocket):
        return None
    # What Python calls a certificate is a nest of tuples, which its type does not say.
    certificate: Any = connection.getpeercert()
    return operator_named(certificate or {})


def operator_named(certificate: Mapping[str, Any]) -> str | None:
    """The operator's name in a certificate: its only SAN URI, else ``CN=`` and its only CN.

    Both forms differ from every name of a Unix user, so that no certificate passes for one. The name stands in
    records, so it must be short printable ASCII; None if it is not, or if there is no such name or more than one.

    Args:
        certificate: as ``getpeercert`` of Python's `ssl` gives it.
    """
    uris = [str(value) for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    names = [
        f"CN={value}"
        for relative in certificate.get("subject", ())
        for kind, value in relative
        if kind == "commonName"
    ]
    found = uris or names
    if len(found) != 1 or (uris and ":" not in uris[0]):
        return None
    (name,) = found
    return name if name.isascii() and name.isprintable() and len(name) <= _MOST_NAME else None
