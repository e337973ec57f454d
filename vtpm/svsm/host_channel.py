"""The SVSM's end of the channel to the host: libaproxy 0.1.0 and the relay to the CA.

One connection carries one exchange. Everything that comes back is the host's word.
"""

import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from vtpm.errors import UnavailableError
from vtpm.wire import aproxy
from vtpm.wire.errors import WireError

T = TypeVar("T")
_HEADER = 8
_KBS = "Boot again once the key broker is up and the host reaches it; nothing has changed."


class _Connection:
    """One framed exchange; a context manager that closes the socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise UnavailableError("the host does not answer") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._socket.recv(min(size - len(data), 65536))
            if not part:
                raise UnavailableError("the host closed the channel")
            data += part
        return bytes(data)

    def ask(self, message: bytes, parse: Callable[[bytes], T]) -> T:
        """Send one frame and read the one that answers it."""
        try:
            self._socket.sendall(aproxy.frame(message))
            return parse(self._receive(aproxy.frame_length(self._receive(_HEADER))))
        except OSError as error:
            raise UnavailableError("the channel to the host broke") from error
        except WireError as error:
            raise UnavailableError(f"the host's message cannot be read: {error}") from error


class HostChannel:
    """Where the SVSM reaches its host.

    Args:
        path: the host's UNIX socket, the simulator's stand-in for vsock port 1995.
        timeout_s: longest pause within an exchange.
    """

    def __init__(self, path: Path, timeout_s: float = 60.0) -> None:
        self._path = path
        self._timeout = timeout_s

    def attest(
        self, answer: Callable[[aproxy.NegotiationResponse], aproxy.AttestationRequest]
    ) -> aproxy.AttestationResponse:
        """Negotiate, let `answer` make the attestation for what the host asked, and return the host's reply."""
        with _Connection(self._path, self._timeout) as connection:
            try:
                negotiation = connection.ask(
                    aproxy.NegotiationRequest().encode(), aproxy.NegotiationResponse.parse
                )
            except UnavailableError as error:
                raise UnavailableError(
                    f"no challenge came from the key broker: {error.detail}", remedy=_KBS
                ) from error
            request = answer(negotiation).encode()
            try:
                return connection.ask(request, aproxy.AttestationResponse.parse)
            except UnavailableError as error:
                raise UnavailableError(
                    f"no key came from the key broker: {error.detail}", remedy=_KBS
                ) from error

    def call(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Have the host relay one request to the CA; status 0 says that it could not. See `CaTransport`."""
        with _Connection(self._path, self._timeout) as connection:
            reply = connection.ask(
                aproxy.RelayRequest(method, path, body).encode(), aproxy.RelayResponse.parse
            )
        return reply.status, reply.body
