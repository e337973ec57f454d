"""What a listener is: an address, who may come, what is served to them, and how much of it at once."""

import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from ca_service.judgment import BadRequest
from ca_service.service.tls import Tls

Wsgi = Callable[..., Any]
"""A WSGI application (PEP 3333)."""

OPERATOR = "vtpm_ca.operator"
"""Member of the WSGI environment: the name of the operator who asks, as the listener found it out; None for others.

No header can set it: what a client sends gets into the environment under names of its own (PEP 3333).
"""

_MAX_PORT = 65535
_PORT = re.compile(r"[1-9][0-9]{0,4}\Z")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?\Z")


@dataclass(frozen=True)
class Bounds:
    """How much one listener takes on, in each worker process.

    Attributes:
        threads: requests at work at the same time.
        connections: open connections.
        per_client: those of one client address; of an IPv6 client its /64 counts, for that is what one host has.
        body: bytes of a request's content.
        buffered: bytes that all connections together may have waiting, requests and answers.
    """

    threads: int = 16
    connections: int = 1024
    per_client: int = 128
    body: int = 64 << 10
    buffered: int = 32 << 20


@dataclass(frozen=True)
class Patience:
    """How long a client may take, in seconds.

    Attributes:
        first: for the first byte of a connection, and for the TLS handshake.
        request: for a whole request, from its first byte to its last, however they trickle in.
        answer: for taking a whole answer.
        idle: between two requests.
        linger: for closing its side when all is said.
        spared: how long a connection is safe from being closed for another one when there are too many.
    """

    first: float = 10.0
    request: float = 15.0
    answer: float = 30.0
    idle: float = 15.0
    linger: float = 2.0
    spared: float = 0.5


IN_A_HURRY = Patience(first=0.3, request=1.0, answer=3.0, idle=0.3, linger=0.5)
"""When the server stops: nobody is waited for who has not begun to ask."""


@runtime_checkable
class FromFiles(Protocol):
    """What a listener has read from files: its TLS, the list of its operators."""

    def renew(self) -> None:
        """Read them again; raises `BadRequest`, and keeps what there was, if they cannot be used."""

    def concerns(self, at: datetime) -> list[str]:
        """What is doubtful about them: sentences for people."""


@dataclass(frozen=True)
class Listener:
    """One address and what is behind it.

    Attributes:
        name: for people.
        address: ``HOST:PORT`` or ``unix:PATH``, as gunicorn writes it.
        application: what answers here.
        bounds: how much it takes on.
        patience: how long clients may take.
        tls: certificate and key; None for plain HTTP.
        operator: of a listener for operators: gives the operator's name of a connection, or None if it has none.
    """

    name: str
    address: str
    application: Wsgi = field(repr=False)
    bounds: Bounds = Bounds()
    patience: Patience = Patience()
    tls: Tls | None = None
    operator: Callable[[socket.socket], str | None] | None = None

    @property
    def files(self) -> tuple[FromFiles, ...]:
        """What is read again on SIGHUP."""
        return tuple(each for each in (self.tls, self.operator) if isinstance(each, FromFiles))

    @property
    def local(self) -> bool:
        """Whether it is a Unix socket."""
        return self.address.startswith("unix:")


def parse_address(option: str, bind: str) -> tuple[str, bool]:
    """An address as gunicorn writes it, and whether it is loopback.

    Raises:
        BadRequest: it is no address; `option` names where it was given.
    """
    host, _, port = bind.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not (_PORT.match(port) and int(port) <= _MAX_PORT):
        raise BadRequest(option, f"{bind} must be ADDRESS:PORT, for example 127.0.0.1:8443")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        if not _HOST_NAME.match(host):
            raise BadRequest(option, f"{bind} must be ADDRESS:PORT, for example [::1]:8443") from None
        return f"{host}:{port}", host == "localhost"
    shown = f"[{bare}]" if address.version == 6 else bare  # noqa: PLR2004 - IPv6
    return f"{shown}:{port}", address.is_loopback


def check_bind(bind: str, *, tls: bool, option: str = "--bind", remedy: str = "") -> str:
    """The address to listen on, as gunicorn writes it; refuses one that leaves the machine without TLS.

    Raises:
        BadRequest: with the remedy.
    """
    address, loopback = parse_address(option, bind)
    if not loopback and not tls:
        raise BadRequest(
            option,
            f"{bind} is not loopback, so it needs TLS",
            remedy=remedy or "Give --tls-cert and --tls-key.",
        )
    return address
