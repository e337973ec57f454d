"""The listeners of `vtpm-ca serve`: from its options to who may come where, and for what."""

import ipaddress
import itertools
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ca_service.api import Services, Surface, create_app
from ca_service.cli.channel import operator_socket
from ca_service.cli.place import user_name
from ca_service.judgment import BadRequest
from ca_service.operations.bounds import MAX_REQUEST
from ca_service.service import (
    Bounds,
    Listener,
    OperatorList,
    Tls,
    TlsFiles,
    Wsgi,
    certified_operator,
    check_bind,
    parse_address,
    unix_operator,
)
from vtpm.wire.enrollment import MAX_BODY

OPERATORS = Bounds(threads=4, connections=64, per_client=16, body=MAX_REQUEST, buffered=64 << 20)
PUBLICATION = Bounds(threads=8, body=MAX_BODY)
ENROLMENT = Bounds(threads=16, body=MAX_BODY)

HEALTH = frozenset({"/healthz", "/readyz"})
"""Paths by which load balancers and the like ask whether the CA is well."""


@dataclass(frozen=True)
class Address:
    """Where to listen, with which certificate, and for whom if not for everybody who gets so far."""

    option: str
    address: str
    tls: Tls | None = None
    operators: OperatorList | None = None


@dataclass(frozen=True)
class Addresses:
    """Where each kind of client comes. None: what is published is where to enrol; operators have their socket alone.

    Raises:
        BadRequest: two of them are one.
    """

    enrolment: Address
    publication: Address | None
    operation: Address | None

    def __post_init__(self) -> None:
        given = [each for each in (self.enrolment, self.publication, self.operation) if each is not None]
        for one, other in itertools.combinations(given, 2):
            if _meet(one.address, other.address):
                remedy = "Give it another port"
                if other is self.publication:
                    remedy += f", or leave {other.option} out to publish where to enrol"
                raise BadRequest(other.option, f"is where {one.option} is", remedy=f"{remedy}.")


def _meet(one: str, other: str) -> bool:
    """Whether two addresses cannot both be listened at. Of host names only their resolver knows more."""
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    if port != other_port:
        return False
    hosts = {_host(host), _host(other_host)}
    # All of IPv6 is all of IPv4, too; the other way round it is not.
    if len(hosts) == 1 or "::" in hosts:
        return True
    return "0.0.0.0" in hosts and not any(":" in each for each in hosts)  # noqa: S104 - nothing is bound here


def _host(host: str) -> str:
    bare = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return bare


def enrolment_address(bind: str, certificate: Path | None, key: Path | None) -> Address:
    """From --bind, --tls-cert and --tls-key; raises `BadRequest`."""
    if (certificate is None) != (key is None):
        raise BadRequest("--tls-cert", "goes together with --tls-key")
    address = check_bind(bind, tls=certificate is not None)
    if certificate is None or key is None:
        return Address("--bind", address)
    return Address("--bind", address, Tls(TlsFiles(certificate, key)))


def publication_address(publish: str | None) -> Address | None:
    """From --publish; raises `BadRequest`."""
    if not publish:
        return None
    # What is published is signed and for everybody, so it may leave the machine as it is.
    address, _ = parse_address("--publish", publish)
    return Address("--publish", address)


def operator_address(
    bind: str | None,
    certificate: Path | None,
    key: Path | None,
    authorities: Path | None,
    listed: Path | None,
) -> Address | None:
    """From --operator-bind, -cert, -key, -ca and -list; raises `BadRequest`."""
    if not bind and all(file is None for file in (certificate, key, authorities, listed)):
        return None
    if not bind or certificate is None or key is None or authorities is None:
        raise BadRequest(
            "--operator-bind", "goes together with --operator-cert, --operator-key and --operator-ca"
        )
    address, _ = parse_address("--operator-bind", bind)
    tls = Tls(TlsFiles(certificate, key, authorities, "--operator"))
    operators = None if listed is None else OperatorList(listed, "--operator-list")
    return Address("--operator-bind", address, tls, operators)


def listeners_of(addresses: Addresses, directory: Path, services: Services) -> tuple[Listener, ...]:
    """Each surface where it belongs. Operators' paths are on no listener that others can reach.

    `HEALTH` is on all of them: what asks whether a listener serves has to ask there.
    """
    publication, operation = addresses.publication, addresses.operation
    # What is public is here too: a health check asks where nobody else can crowd it out.
    operators = create_app(services, {Surface.OPERATION, Surface.PUBLICATION})
    enrolment = addresses.enrolment
    found = [
        Listener("operator socket", _unix_address(directory), operators, OPERATORS, operator=_unix_names())
    ]
    if publication:
        public_app = create_app(services, {Surface.PUBLICATION})
        enrolment_app = _with_health(create_app(services, {Surface.ENROLMENT}), public_app)
        found.append(Listener("publication", publication.address, public_app, PUBLICATION))
    else:
        enrolment_app = create_app(services, {Surface.ENROLMENT, Surface.PUBLICATION})
    if operation:
        operator = operation.operators or certified_operator
        found.append(
            Listener(
                "operators", operation.address, operators, OPERATORS, tls=operation.tls, operator=operator
            )
        )
    return Listener("enrolment", enrolment.address, enrolment_app, ENROLMENT, tls=enrolment.tls), *found


def _with_health(application: Wsgi, public: Wsgi) -> Wsgi:
    """An application that lets another one answer whether the CA is well."""

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        chosen = public if environ.get("PATH_INFO") in HEALTH else application
        return chosen(environ, start_response)

    return answer


def _unix_address(directory: Path) -> str:
    path = str(operator_socket(directory))
    # gunicorn reads two slashes after the colon as the start of a URL, and what follows as a relative path.
    return f"unix:/{path.lstrip('/')}" if path.startswith("//") else f"unix:{path}"


def _unix_names() -> Callable[[socket.socket], str | None]:
    """Gives the name of the user at the other end of a Unix socket, None for who is no operator.

    There are two of them, looked up beforehand: a directory service that does not answer would hold up the loop in
    which all clients are served.
    """
    names = {uid: user_name(uid) for uid in (0, os.geteuid())}

    def name(connection: socket.socket) -> str | None:
        uid = unix_operator(connection)
        return None if uid is None else names.get(uid)

    return name
