"""What the guest gets: a TPM on two loopback ports that speak as swtpm does, and nothing of swtpm itself.

swtpm's own control channel would hand out the seeds (GET_STATEBLOB) or empty platformAuth (STOP and INIT). So the
SVSM ends both channels here. Data: framed TPM commands are passed on, one at a time, and answered only after
`after_command` has returned, so that no response reaches the guest before the change it reports is durable. Control:
nothing reaches swtpm; see `vtpm.tpm.guest_control`.

The form fits libtss2's swtpm TCTI (``swtpm:host=127.0.0.1,port=P``): it connects once to try the port, sends
SET_LOCALITY 0 on port P+1, and then makes a data connection for each tool that runs.
"""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from vtpm.tpm.errors import TpmError
from vtpm.tpm.esapi import HEADER, MAX_COMMAND
from vtpm.tpm.guest_control import say_goodbye, serve_control
from vtpm.tpm.swtpm import Swtpm

_HOST = "127.0.0.1"
_HIGHEST_PORT = 65534
_TRIES = 64
_BACKLOG = 16
_MAX_CONTROL_CLIENTS = 8

_RC_COMMAND_SIZE = struct.pack(">HII", 0x8001, HEADER, 0x142)
"""Response TPM_RC_COMMAND_SIZE: the command is shorter than a header or longer than the TPM takes."""


class GuestGateway:
    """Serves a TPM to a guest; use as a context manager, or `start` and `stop`.

    Guest connections to the data port are served one after another; a further one waits until the one before it has
    closed, as with swtpm. A connection that ends in the middle of a command leaves the TPM untouched.

    Args:
        tpm: a TPM with power.
        port: data port; the control port is the next one. 0 chooses a free pair.
        after_command: called after each command, before its response is handed out, with the TPM held exclusively.
            What it raises ends the gateway for good (`failure`): the guest must not see a change that was not kept.
    """

    def __init__(self, tpm: Swtpm, *, port: int = 0, after_command: Callable[[], None] | None = None) -> None:
        self._tpm = tpm
        self._after_command = after_command
        self._data, self._control = _listen(port)
        self._port = int(self._data.getsockname()[1])
        self._ended = threading.Event()
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.failure: Exception | None = None

    @property
    def port(self) -> int:
        """The data port; control is the next one."""
        return self._port

    @property
    def tcti(self) -> str:
        """The TCTI configuration for tpm2-tools and others that use libtss2."""
        return f"swtpm:host={_HOST},port={self.port}"

    def start(self) -> Self:
        """Begin to serve."""
        for name, target in (("guest-data", self._accept_data), ("guest-control", self._accept_control)):
            thread = threading.Thread(target=target, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the gateway has ended, by `stop` or by a failure; False if it still serves after `seconds`."""
        return self._ended.wait(seconds)

    def stop(self) -> None:
        """Stop serving and close all connections; a command under way is finished first. Harmless when repeated."""
        self._end()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._data.close()
        self._control.close()

    def _end(self) -> None:
        self._ended.set()
        with self._guard:
            for end in (self._data, self._control, *self._open):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- connections ------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> socket.socket | None:
        """The next connection, known to `_end`; None when serving is over."""
        try:
            connection, _ = listener.accept()
        except OSError:
            return None
        with self._guard:
            if self._ended.is_set():
                connection.close()
                return None
            self._open.add(connection)
        return connection

    def _close(self, connection: socket.socket) -> None:
        with self._guard:
            self._open.discard(connection)
        connection.close()

    def _accept_data(self) -> None:
        while (connection := self._accept(self._data)) is not None:
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._serve_data(connection)
            except OSError:
                pass  # this guest connection broke; the next one is served
            except Exception as error:  # noqa: BLE001 - TPM gone or state not kept: nothing may be served any more
                self.failure = error
                self._end()
            finally:
                self._close(connection)

    def _serve_data(self, connection: socket.socket) -> None:
        while (command := _read_command(connection)) is not None:
            if not command:
                say_goodbye(connection, _RC_COMMAND_SIZE)
                return
            connection.sendall(self._execute(command))

    def _execute(self, command: bytes) -> bytes:
        """Run a command and keep what it changed; OSErrors of the hook are failures, not broken connections."""
        with self._tpm.exclusive():
            response = self._tpm.transmit(command)
            if self._after_command is not None:
                try:
                    self._after_command()
                except OSError as error:
                    raise TpmError(f"the TPM's state could not be kept: {error.strerror}") from error
        return response

    def _accept_control(self) -> None:
        slots = threading.BoundedSemaphore(_MAX_CONTROL_CLIENTS)

        def serve(connection: socket.socket) -> None:
            try:
                with suppress(OSError):
                    serve_control(connection)
            finally:
                self._close(connection)
                slots.release()

        while (connection := self._accept(self._control)) is not None:
            if not slots.acquire(blocking=False):
                self._close(connection)
                continue
            threading.Thread(
                target=serve, args=(connection,), name="guest-control-client", daemon=True
            ).start()


def _listen(port: int) -> tuple[socket.socket, socket.socket]:
    """Two listening sockets on neighbouring ports."""
    tries = _TRIES if port == 0 else 1
    problem = "no two free neighbouring ports were found for the guest's TPM"
    for _ in range(tries):
        data = _bound(port)
        number = int(data.getsockname()[1])
        if number > _HIGHEST_PORT:
            data.close()
            continue
        try:
            return data, _bound(number + 1)
        except TpmError as error:
            data.close()
            problem = error.detail
    raise TpmError(problem)


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise TpmError(f"port {port} cannot be used for the guest's TPM: {error.strerror}") from error
    return listener


def _read_command(connection: socket.socket) -> bytes | None:
    """One framed command; None at the end of the connection, empty if the size it states is impossible."""
    head = _read(connection, HEADER)
    if head is None:
        return None
    size = int.from_bytes(head[2:6], "big")
    if not HEADER <= size <= MAX_COMMAND:
        return b""
    rest = _read(connection, size - HEADER)
    return None if rest is None else head + rest


def _read(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)
