"""The host's process: a UNIX socket that SVSMs connect to, in the place of vsock port 1995.

One connection carries one exchange: negotiation and attestation, or one relayed request. An exchange that fails is
over; the host goes on.
"""

import contextlib
import logging
import os
import socket
import stat
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vtpm.errors import UnavailableError, UsageError, VtpmError
from vtpm.host.behaviour import Behaviour
from vtpm.wire.aproxy import (
    HEADER_SIZE,
    AttestationRequest,
    AttestationResponse,
    RelayRequest,
    frame,
    frame_length,
    parse_first,
)
from vtpm.wire.errors import WireError

EXCHANGE_S: Final = 120.0
"""Longest wait for a whole message of an SVSM, in seconds."""

MOST_CONNECTIONS: Final = 64
"""Exchanges at a time; further connections wait in the queue."""

_QUEUE: Final = 1024
_CHUNK: Final = 64 * 1024
_log = logging.getLogger("vtpm.host")


class _Gone(Exception):
    """The SVSM hung up."""


class _Channel:
    """Frames over one connection."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self._connection = connection
        self._timeout = timeout_s

    def receive(self) -> bytes:
        """One payload; the whole of it within the timeout, so that a slow peer holds no thread."""
        deadline = time.monotonic() + self._timeout
        return self._read(frame_length(self._read(HEADER_SIZE, deadline)), deadline)

    def send(self, payload: bytes) -> None:
        self._connection.settimeout(self._timeout)
        self._connection.sendall(frame(payload))

    def _read(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            part = self._connection.recv(min(_CHUNK, size - len(data)))
            if not part:
                raise _Gone
            data += part
        return bytes(data)


class HostProxy:
    """Serves SVSMs at a UNIX socket, each connection in a thread of its own; a context manager.

    Args:
        path: where the socket is made; a socket that an earlier host left there is replaced.
        behaviour: what is done with the messages.
        timeout_s: longest wait for a message of an SVSM.
    """

    def __init__(self, path: Path, behaviour: Behaviour, *, timeout_s: float = EXCHANGE_S) -> None:
        self._path = path
        self._behaviour = behaviour
        self._timeout = timeout_s
        self._listener: socket.socket | None = None
        self._stopping = threading.Event()
        self._slots = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def bind(self) -> None:
        """Make the socket; connections queue from here on.

        Raises:
            UsageError: something else is at the path, or its directory cannot be written.
        """
        try:
            if self._path.exists() and not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise UsageError(f"{self._path} exists and is no socket")
            self._path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listener.bind(str(self._path))
                self._path.chmod(0o600)
                listener.listen(_QUEUE)
            except OSError:
                listener.close()
                raise
        except OSError as error:
            raise UsageError(f"{self._path}: {error.strerror or error}") from error
        self._listener = listener

    def serve(self) -> None:
        """Serve until `stop`; `bind` comes first."""
        listener = self._listener
        if listener is None:
            raise UnavailableError("the host's socket is not bound")
        while not self._stopping.is_set():
            self._slots.acquire()
            try:
                connection, _ = listener.accept()
            except OSError:
                self._slots.release()
                if self._stopping.is_set():
                    return
                # Out of descriptors, or the peer was gone already: the next one may fare better.
                _log.warning("a connection could not be accepted")
                self._stopping.wait(0.1)
                continue
            with self._lock:
                if self._stopping.is_set():
                    # It came while `stop` ended the others, and nobody else would end it.
                    connection.close()
                    return
                self._open.add(connection)
            threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def stop(self) -> None:
        """End the service and every exchange; the socket's file is removed."""
        self._stopping.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                # close alone leaves a thread in accept.
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            with contextlib.suppress(OSError):
                os.unlink(self._path)  # noqa: PTH108 - as bind made it
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        self.bind()
        self._thread = threading.Thread(target=self.serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serve_one(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._exchange(_Channel(connection, self._timeout))
        except _Gone:
            _log.info("the SVSM hung up")
        except (WireError, VtpmError, OSError) as error:
            _log.warning("exchange failed: %s", error)
        except Exception as error:  # noqa: BLE001 - whatever a peer provokes, the other exchanges go on
            _log.error("exchange failed: %s", type(error).__name__)
        finally:
            with self._lock:
                self._open.discard(connection)
            self._slots.release()

    def _exchange(self, channel: _Channel) -> None:
        first = parse_first(channel.receive())
        if isinstance(first, RelayRequest):
            channel.send(self._behaviour.relay(first).encode())
            return
        session = self._behaviour.open_session()
        with contextlib.closing(session):
            # Where the broker gives no challenge, the channel is closed: the protocol has no word for it.
            channel.send(self._behaviour.negotiation(session.challenge()).encode())
            request = AttestationRequest.parse(channel.receive())
            try:
                release = session.release(request, self._behaviour.resource(request))
                answer = self._behaviour.delivery(request, release)
            except UnavailableError:
                # An absent broker is not one that says no; again the channel is closed for want of a word.
                raise
            except (WireError, VtpmError) as error:
                _log.warning("no key: %s", error)
                answer = AttestationResponse(success=False)
            channel.send(answer.encode())
