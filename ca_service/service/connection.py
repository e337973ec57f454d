"""One client's connection: bytes in, bytes out, and never a wait. Who waits for the socket is the worker's poller."""

import contextlib
import ipaddress
import socket
import ssl
import struct
from collections import deque
from collections.abc import Iterable
from enum import Enum, IntEnum, auto
from functools import lru_cache
from typing import TYPE_CHECKING

from ca_service.service.answer import Client
from ca_service.service.request import Head

if TYPE_CHECKING:
    from ca_service.service.gate import Gate

_READ = 16 << 10
_SENT_AHEAD = 128 << 10
_RESET = struct.pack("ii", 1, 0)
"""For SO_LINGER: what was not sent is dropped."""

_IPV6_HOST = 64


class Phase(IntEnum):
    """What a connection is waiting for. Numbers, which are looked up in a table without a call of Python."""

    SHAKING = auto()
    """The client's part of the TLS handshake."""
    IDLE = auto()
    """The first byte of a request."""
    READING = auto()
    """The rest of a request."""
    WORKING = auto()
    """The application; the only phase in which a thread has it."""
    WRITING = auto()
    """The client to take the response."""
    LINGERING = auto()
    """The client to close its side, so that a reset does not take the response's end away (RFC 9112, section 9.6)."""


class Wait(Enum):
    """Why nothing could be read or written now."""

    READ = auto()
    WRITE = auto()


class Gone(Exception):
    """The client has closed or broken the connection."""


class Connection:
    """A socket, and where its client stands.

    Attributes:
        gate: where it came in.
        connected_at: when, monotonic seconds.
        phase: what it is waiting for; the worker sets it.
        since: when the phase began, monotonic seconds.
        deadline: when it must have ended.
        inbox: what came and is not used yet.
        head: of the request whose content is on its way.
        served: requests that were answered.
        keep: whether it stays open after the present response.
        operator: who the operator is; None for all others.
        refused: the client is no operator where there are only operators.
        drained: bytes thrown away while lingering.
        held: bytes waiting, as the gate has counted them.
    """

    def __init__(
        self, gate: "Gate", connection: socket.socket, peer: object, context: ssl.SSLContext | None
    ) -> None:
        self.gate = gate
        self.connected_at = 0.0
        connection.setblocking(False)
        # What the kernel keeps for a client who does not read is memory, too.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENT_AHEAD)
        self.socket = connection
        self.secure = context is not None
        if context is not None:
            # Wrapping cannot wait, and takes the descriptor over.
            self.socket = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self.peer = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None
        self.client = None if self.peer is None else client_of(self.peer[0])
        self.phase = Phase.IDLE
        self.since = self.deadline = 0.0
        self.events = 0
        self.inbox = bytearray()
        self.outbox: deque[memoryview] = deque()
        self.head: Head | None = None
        self.served = 0
        self.keep = True
        self.operator: str | None = None
        self.refused = False
        self.drained = 0
        self.held = 0
        self.closed = False

    @property
    def who(self) -> Client:
        """The client, as the application may know it."""
        return Client(self.peer, self.operator, self.secure)

    @property
    def waiting_out(self) -> int:
        """Bytes of the response that the client has not taken yet."""
        return sum(map(len, self.outbox))

    @property
    def ahead(self) -> bool:
        """Whether something has come, beyond the present request, that does not make the socket readable."""
        return bool(self.inbox) or (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0)

    def shake(self) -> Wait | None:
        """A step of the TLS handshake: what to wait for, or None when it is done; raises `Gone` that says why."""
        try:
            if isinstance(self.socket, ssl.SSLSocket):
                self.socket.do_handshake()
        except ssl.SSLWantReadError:
            return Wait.READ
        except ssl.SSLWantWriteError:
            return Wait.WRITE
        except (OSError, ValueError) as error:
            raise Gone(_why(error)) from error
        return None

    def receive(self) -> bytes | Wait:
        """What has come; raises `Gone` at the end or when the connection is broken."""
        try:
            data = self.socket.recv(_READ)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            return Wait.READ
        except ssl.SSLWantWriteError:
            return Wait.WRITE
        except (OSError, ValueError) as error:
            raise Gone from error
        if not data:
            raise Gone
        return data

    def put(self, parts: Iterable[bytes]) -> None:
        """Have these bytes sent by `send`."""
        if self.secure:
            # A record of TLS each; so head and a small body share one.
            parts = (b"".join(parts),)
        self.outbox.extend(map(memoryview, filter(None, parts)))

    def send(self) -> Wait | None:
        """Send what the client takes now: what to wait for, or None when all is sent; raises `Gone`."""
        while self.outbox:
            try:
                self._sent(
                    self.socket.send(self.outbox[0]) if self.secure else self.socket.sendmsg(self.outbox)
                )
            except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
                return Wait.WRITE
            except ssl.SSLWantReadError:
                return Wait.READ
            except (OSError, ValueError) as error:
                raise Gone from error
        return None

    def _sent(self, count: int) -> None:
        while self.outbox and count >= len(self.outbox[0]):
            count -= len(self.outbox.popleft())
        if count:
            self.outbox[0] = self.outbox[0][count:]

    def finish(self) -> None:
        """Say that nothing more will come from this side."""
        with contextlib.suppress(OSError, ValueError):
            if isinstance(self.socket, ssl.SSLSocket):
                # Tells the client that the end is no attacker's; its answer is not waited for.
                self.socket.unwrap()
        with contextlib.suppress(OSError, ValueError):
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close it, whatever is under way; of a response that was not taken in time the kernel keeps nothing."""
        self.closed = True
        with contextlib.suppress(OSError):
            if self.phase is Phase.WRITING:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.socket.close()


def _why(error: OSError | ValueError) -> str:
    """Why a handshake failed, in one of the words that OpenSSL has for it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"tls-{error.verify_message}".replace(" ", "-")
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return f"tls-{reason or 'closed'}".replace("_", "-").lower()


@lru_cache(maxsize=1024)
def client_of(host: str) -> str:
    """Whom an address counts for: an IPv4 address, or the /64 of an IPv6 address, for one host has all of that."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((address, _IPV6_HOST), strict=False).network_address)
        address = address.ipv4_mapped
    return str(address)
