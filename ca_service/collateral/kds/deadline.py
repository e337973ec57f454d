"""An end to a connection at a given time, in whatever phase it is.

The time limits of sockets count anew for each piece, so a peer that sends a byte now and then, in the TLS handshake or
the head of an answer, could hold a thread for hours.
"""

import contextlib
import socket
import ssl
import threading
import traceback
from collections.abc import Mapping
from typing import Any, Self

from requests.adapters import HTTPAdapter

from ca_service.judgment import Unavailable


class Deadline(HTTPAdapter):
    """Connects for one request, and cuts the connection off if it is not closed in time.

    Args:
        seconds: from the connection on; connecting has its own time limit.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._guard = threading.Lock()
        self._twins: list[socket.socket] = []
        self._timers: list[threading.Timer] = []
        self.passed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for timer in self._timers:
            timer.cancel()
        with self._guard:
            while self._twins:
                self._twins.pop().close()
        self.close()

    def get_connection_with_tls_context(
        self, request: Any, verify: Any, proxies: Mapping[str, str] | None = None, cert: Any = None
    ) -> Any:
        """As the parent, with connections that are watched."""
        pool: Any = super().get_connection_with_tls_context(
            request, verify, None if proxies is None else dict(proxies), cert
        )
        kind: Any = pool.ConnectionCls

        def new(connection: Any) -> socket.socket:
            made: socket.socket = kind._new_conn(connection)  # noqa: SLF001 - the one place below TLS and proxies
            self._watch(made)
            return made

        def connect(connection: Any) -> None:
            try:
                kind.connect(connection)
            except OSError as error:
                _close_abandoned(error)
                raise

        pool.ConnectionCls = type(kind.__name__, (kind,), {"_new_conn": new, "connect": connect})
        return pool

    def _watch(self, connection: socket.socket) -> None:
        # TLS takes the socket itself over; a duplicate ends the same connection.
        try:
            twin = connection.dup()
        except OSError:
            connection.close()
            raise
        with self._guard:
            self._twins.append(twin)
        timer = threading.Timer(self._seconds, self._end, (twin,))
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:
            connection.close()
            raise Unavailable("the system has no thread for another request", code="kds") from None
        self._timers.append(timer)

    def _end(self, twin: socket.socket) -> None:
        with self._guard:
            if twin in self._twins:
                self.passed = True
                with contextlib.suppress(OSError):
                    twin.shutdown(socket.SHUT_RDWR)


def _close_abandoned(error: BaseException) -> None:
    """Close what `ssl` took over just when the connection was cut off; it leaves that to the collector of garbage."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        taken = frame.f_locals.get("self")
        if isinstance(taken, ssl.SSLSocket):
            taken.close()
