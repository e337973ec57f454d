"""The listeners of `vtpm-ca serve`: from its options to who may come where, and for what."""

import socket
from dataclasses import dataclass
from pathlib import Path

from ca_service.api import Services, Surface, create_app
from ca_service.cli.access import user_name
from ca_service.cli.channel import operator_socket
from ca_service.judgment import BadRequest
from ca_service.operations import MAX_REQUEST
from ca_service.service import (
    Bounds,
    Listener,
    Tls,
    TlsFiles,
    certified_operator,
    check_bind,
    parse_address,
    unix_operator,
)
from vtpm.wire.enrollment import MAX_BODY

OPERATORS = Bounds(threads=4, connections=64, per_client=16, body=MAX_REQUEST, buffered=64 << 20)
PUBLICATION = Bounds(threads=8, body=MAX_BODY)
ENROLMENT = Bounds(threads=16, body=MAX_BODY)


@dataclass(frozen=True)
class Address:
    """Where to listen, and with which certificate."""

    address: str
    tls: Tls | None = None


@dataclass(frozen=True)
class Addresses:
    """Where each kind of client comes. None: what is published is where to enrol; operators have their socket alone."""

    enrolment: Address
    publication: Address | None
    operation: Address | None


def enrolment_address(bind: str, certificate: Path | None, key: Path | None) -> Address:
    """From --bind, --tls-cert and --tls-key; raises `BadRequest`."""
    if (certificate is None) != (key is None):
        raise BadRequest("--tls-cert", "goes together with --tls-key")
    address = check_bind(bind, tls=certificate is not None)
    if certificate is None or key is None:
        return Address(address)
    return Address(address, Tls(TlsFiles(certificate, key)))


def publication_address(publish: str | None, bind: str) -> Address | None:
    """From --publish, beside --bind; raises `BadRequest`."""
    if not publish:
        return None
    # What is published is signed and for everybody, so it may leave the machine as it is.
    address, _ = parse_address("--publish", publish)
    if address == parse_address("--bind", bind)[0]:
        raise BadRequest(
            "--publish", "is the same address as --bind", remedy="Leave it out to publish there."
        )
    return Address(address)


def operator_address(
    bind: str | None, certificate: Path | None, key: Path | None, authorities: Path | None
) -> Address | None:
    """From --operator-bind, --operator-cert, --operator-key and --operator-ca; raises `BadRequest`."""
    if not bind and certificate is None and key is None and authorities is None:
        return None
    if not bind or certificate is None or key is None or authorities is None:
        raise BadRequest(
            "--operator-bind", "goes together with --operator-cert, --operator-key and --operator-ca"
        )
    address, _ = parse_address("--operator-bind", bind)
    return Address(address, Tls(TlsFiles(certificate, key, authorities, "--operator")))


def listeners_of(addresses: Addresses, directory: Path, services: Services) -> tuple[Listener, ...]:
    """Each surface where it belongs. Operators' paths are on no listener that others can reach."""
    publication, operation = addresses.publication, addresses.operation
    public = {Surface.ENROLMENT} if publication else {Surface.ENROLMENT, Surface.PUBLICATION}
    # What is public is here too: a health check asks where nobody else can crowd it out.
    operators = create_app(services, {Surface.OPERATION, Surface.PUBLICATION})
    enrolment = addresses.enrolment
    found = [
        Listener("enrolment", enrolment.address, create_app(services, public), ENROLMENT, tls=enrolment.tls),
        Listener(
            "operator socket",
            f"unix:{operator_socket(directory)}",
            operators,
            OPERATORS,
            operator=_unix_name,
        ),
    ]
    if publication:
        public_app = create_app(services, {Surface.PUBLICATION})
        found.append(Listener("publication", publication.address, public_app, PUBLICATION))
    if operation:
        found.append(
            Listener(
                "operators",
                operation.address,
                operators,
                OPERATORS,
                tls=operation.tls,
                operator=certified_operator,
            )
        )
    return tuple(found)


def _unix_name(connection: socket.socket) -> str | None:
    uid = unix_operator(connection)
    return None if uid is None else user_name(uid)
