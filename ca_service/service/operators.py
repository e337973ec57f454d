"""Who an operator is, by the socket he comes over: the kernel says it of a Unix socket, a certificate of TLS."""

import hashlib
import os
import re
import socket
import ssl
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from ca_service.judgment import BadRequest
from ca_service.service.tls import written_by_others

_CREDENTIALS = struct.Struct("3i")
_MOST_NAME = 64
_MOST_FILE: Final = 1 << 20
_DIGEST: Final = "sha256:"
_HEX: Final = re.compile(r"[0-9a-f]{64}\Z")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


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
    if len(found) != 1 or (uris and not _URI.match(uris[0])):
        return None
    (name,) = found
    return name if _may_be_recorded(name) else None


def _may_be_recorded(name: str) -> bool:
    return name.isascii() and name.isprintable() and 0 < len(name) <= _MOST_NAME


@dataclass(frozen=True)
class Listed:
    """Operators of a list.

    Attributes:
        names: as `operator_named` gives them; each certificate with such a name counts.
        digests: SHA-256 of single certificates (DER), in hexadecimal.
    """

    names: frozenset[str]
    digests: frozenset[str]

    def has(self, name: str, certificate: bytes) -> bool:
        """Whether this certificate (DER), which has this name, is of a listed operator."""
        return name in self.names or hashlib.sha256(certificate).hexdigest() in self.digests


def parse_list(option: str, text: str) -> Listed:
    """A list of operators: one a line, by name or by ``sha256:`` and a certificate's digest; ``#`` begins a remark.

    The digest may be written as openssl prints fingerprints, with colons and in capitals. An empty list is none: it
    would look as if it let nobody in, or everybody.

    Raises:
        BadRequest: with the line's number; `option` names where the file was given.
    """
    names, digests = set(), set()
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if entry.lower().startswith(_DIGEST):
            digest = entry[len(_DIGEST) :].replace(":", "").lower()
            if not _HEX.match(digest):
                raise BadRequest(option, f"line {number}: sha256: must be followed by 64 hexadecimal digits")
            digests.add(digest)
        elif _may_be_recorded(entry) and (entry.startswith("CN=") or _URI.match(entry)):
            names.add(entry)
        else:
            raise BadRequest(
                option,
                f"line {number} must be CN=NAME, a URI, or sha256:DIGEST of the operator's certificate",
            )
    if not names and not digests:
        raise BadRequest(
            option, "names no operator", remedy="Leave the option out to let all certificates in."
        )
    return Listed(frozenset(names), frozenset(digests))


class OperatorList:
    """The operators whom a file lists, by their client certificates; read again when the server is told so (SIGHUP)."""

    def __init__(self, path: Path, option: str) -> None:
        self.path = path
        self.option = option
        self.listed = self._read()

    def __call__(self, connection: socket.socket) -> str | None:
        """The operator's name, as `certified_operator` finds it; None if he is not listed."""
        name = certified_operator(connection)
        if name is None or not isinstance(connection, ssl.SSLSocket):
            return None
        certificate = connection.getpeercert(binary_form=True) or b""
        return name if self.listed.has(name, certificate) else None

    def renew(self) -> None:
        """Take what is in the file now; raises `BadRequest`, and stays with what there was, if it cannot be used."""
        self.listed = self._read()

    def concerns(self, _at: datetime) -> list[str]:
        """What is doubtful about the file: sentences for people."""
        return written_by_others(self.option, self.path)

    def _read(self) -> Listed:
        try:
            with self.path.open("rb") as file:
                text = file.read(_MOST_FILE + 1).decode("ascii")
        except OSError as error:
            raise BadRequest(self.option, f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise BadRequest(self.option, "must be ASCII") from None
        if len(text) > _MOST_FILE:
            raise BadRequest(self.option, "is larger than 1 MiB")
        return parse_list(self.option, text)
