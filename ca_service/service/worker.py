"""The worker process: one loop that waits for all clients, and threads that only ever see whole requests.

gunicorn's threaded worker reads a request in the thread that answers it, so that a few clients who send a byte a
second hold all threads. Here the loop reads, with a time limit for the whole of it, and sends what a client does not
take at once; threads belong to a listener each. So neither slow nor idle clients keep anybody else waiting, and what
they can make the process hold is bounded by connections and bytes. Of gunicorn's worker the life cycle is left.
"""

import contextlib
import errno
import selectors
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog
from gunicorn.config import Config
from gunicorn.workers.gthread import ThreadWorker

from ca_service.service.answer import Answer, answer
from ca_service.service.board import Board
from ca_service.service.connection import Connection, Gone, Phase, Wait
from ca_service.service.gate import Gate
from ca_service.service.request import (
    FULL,
    NOT_AN_OPERATOR,
    TOO_MANY,
    TOO_SLOW,
    Refusal,
    read_head,
)

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_EVENTS: Final = {Wait.READ: _READ, Wait.WRITE: _WRITE}

_ROUND_S: Final = 0.25
"""Time limits are looked at so often."""

_PAUSE_S: Final = 0.001
_MOST_PAUSES: Final = 5
"""So often a new connection is left to a worker with fewer; then that one may hang, or is about to stop."""

_FULL_PAUSE_S: Final = 0.1
_MOST_ACCEPTED: Final = 16
"""New connections in a row, before those that are there get their turn."""

_MOST_REQUESTS: Final = 1000
_MOST_DRAINED: Final = 1 << 20
_MOST_READS: Final = 16
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_log = structlog.get_logger(__name__)


class _NoThreads:
    """gunicorn's worker wants to end a pool of threads of its own."""

    def shutdown(self, *, wait: bool) -> None:
        """Nothing to end."""


class ServiceWorker(ThreadWorker):  # type: ignore[misc] # gunicorn has no type information
    """A worker process of the CA's service. The server's `Service` says what its listeners are.

    Attributes:
        board: where it writes up its connections, for the other workers.
        place: its place there.
    """

    cfg: Config
    board: Board
    place: int | None = None

    @classmethod
    def check_config(cls, cfg: Config, log: object) -> None:
        """Nothing: gunicorn's own limits on connections and threads are not used."""

    def get_thread_pool(self) -> _NoThreads:
        """None; each listener has threads of its own."""
        return _NoThreads()

    def run(self) -> None:
        """Serve until told to stop, then finish what is at work."""
        listeners = self.app.service.listeners
        self._gates = [
            Gate(number, listener, listening)
            for number, (listener, listening) in enumerate(zip(listeners, self.sockets, strict=True))
        ]
        self._looked_at = time.monotonic()
        self.poller.register(self.method_queue.fileno(), _READ, self.method_queue.run_callbacks)
        for gate in self._gates:
            gate.socket.setblocking(False)
            self._accept_again(gate)
        while self.alive and self.is_parent_alive():
            self._round()
        self._stop()

    # --- the loop -------------------------------------------------------------------------------------------------

    def _round(self) -> None:
        self.notify()
        self._write_up()
        now = time.monotonic()
        wake = min(
            (gate.again_at for gate in self._gates if gate.again_at is not None), default=now + _ROUND_S
        )
        for key, _ in self.poller.select(max(0.0, min(wake - now, _ROUND_S))):
            if isinstance(key.data, Connection):
                self._turn(key.data)
            else:
                key.data(key.fileobj)
        now = time.monotonic()
        for gate in self._gates:
            if gate.again_at is not None and gate.again_at <= now:
                self._accept_again(gate)
        if now - self._looked_at >= _ROUND_S:
            self._looked_at = now
            self._look_at_the_time(now)

    def _write_up(self) -> None:
        self.board.write(self.place, (len(gate.connections) for gate in self._gates))

    def _look_at_the_time(self, now: float) -> None:
        for gate in self._gates:
            for connection in gate.expired(now):
                if connection.phase is Phase.READING:
                    self._refuse(connection, TOO_SLOW)
                else:
                    if connection.phase is Phase.WRITING:
                        gate.count("slow-reader")
                    self._close(connection)
            gate.show(now)

    def _turn(self, connection: Connection) -> None:
        """The socket of a connection is ready for what it waits for."""
        if connection.phase is Phase.SHAKING:
            self._step(connection, self._hand_over, self._shake)
        elif connection.phase is Phase.WRITING:
            self._step(connection, self._send)
        elif connection.phase is Phase.LINGERING:
            self._step(connection, self._drain)
        else:
            self._step(connection, self._read)

    def _step(self, connection: Connection, step: Callable[..., object], *arguments: object) -> None:
        """Do something for a connection; whatever goes wrong costs this connection, and no other."""
        if connection.closed:
            # Closed for another one in this same round.
            return
        try:
            step(connection, *arguments)
        except Gone:
            self._close(connection)
        except Exception:  # noqa: BLE001 - the loop must go on for all others
            _log.exception("a connection failed", listener=connection.gate.listener.name)
            self._close(connection)

    def _watch(self, connection: Connection, events: int) -> None:
        if events == connection.events:
            return
        if not connection.events:
            self.poller.register(connection.socket, events, connection)
        elif events:
            self.poller.modify(connection.socket, events, connection)
        else:
            self.poller.unregister(connection.socket)
        connection.events = events

    def _close(self, connection: Connection) -> None:
        if not connection.closed:
            self._watch(connection, 0)
            connection.gate.remove(connection)
            connection.close()

    # --- new connections ------------------------------------------------------------------------------------------

    def _accept_again(self, gate: Gate) -> None:
        gate.again_at = None
        self.poller.register(gate.socket, _READ, partial(self._accept, gate))

    def _pause(self, gate: Gate, seconds: float) -> None:
        self.poller.unregister(gate.socket)
        gate.again_at = time.monotonic() + seconds

    def _accept(self, gate: Gate, _listening: object = None) -> bool:
        """Take new connections, or leave them to a worker that has fewer; says whether there may be more."""
        for _ in range(_MOST_ACCEPTED):
            if self.alive and not gate.listener.local and gate.pauses < _MOST_PAUSES:
                self._write_up()
                if not self.board.least(self.place, gate.number, len(gate.connections)):
                    gate.pauses += 1
                    self._pause(gate, _PAUSE_S)
                    return False
            try:
                connection, peer = gate.socket.accept()
            except BlockingIOError:
                gate.pauses = 0
                return False
            except (ConnectionAbortedError, InterruptedError):
                continue
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                gate.count("no-descriptor")
                self._make_room(gate, None)
                if self.alive:
                    self._pause(gate, _FULL_PAUSE_S)
                return False
            self._admit(gate, connection, peer)
        gate.pauses = 0
        return True

    def _make_room(self, gate: Gate, client: str | None) -> bool:
        """Close the connection that has kept us waiting longest; says whether there was one."""
        slowest = gate.slowest(time.monotonic(), client)
        if slowest is not None:
            gate.count("too-many-others")
            self._close(slowest)
        return slowest is not None

    def _admit(self, gate: Gate, connected: socket.socket, peer: object) -> None:
        try:
            tls = gate.listener.tls
            connection = Connection(gate, connected, peer, None if tls is None else tls.context)
        except (OSError, ValueError):
            # It was broken before it was anything.
            connected.close()
            return
        crowded = gate.crowded(connection.client) and not self._make_room(gate, connection.client)
        if crowded or (gate.full and not self._make_room(gate, None)):
            gate.count(TOO_MANY.code if crowded else FULL.code)
            if not connection.secure:
                connection.put([(TOO_MANY if crowded else FULL).response()])
                with contextlib.suppress(Gone):
                    connection.send()
            connection.close()
            return
        gate.add(connection)
        connection.connected_at = time.monotonic()
        if not connection.secure:
            self._identify(connection)
        gate.enter(connection, Phase.SHAKING if connection.secure else Phase.IDLE, time.monotonic())
        self._watch(connection, _READ)

    def _identify(self, connection: Connection) -> None:
        listener = connection.gate.listener
        if listener.operator is not None:
            connection.operator = listener.operator(connection.socket)
            connection.refused = connection.operator is None

    # --- work for threads -----------------------------------------------------------------------------------------

    def _hand_over(self, connection: Connection, job: Callable[..., object], *arguments: object) -> None:
        """Let a thread of the listener have the connection; `job` gives it back."""
        self._watch(connection, 0)
        connection.gate.enter(connection, Phase.WORKING, time.monotonic())
        connection.gate.crew.put(partial(self._guarded, job, connection, *arguments))

    def _guarded(self, job: Callable[..., object], connection: Connection, *arguments: object) -> None:
        try:
            job(connection, *arguments)
        except Exception as error:  # noqa: BLE001 - a thread that dies would be missed
            if not isinstance(error, Gone):
                _log.exception("a connection failed", listener=connection.gate.listener.name)
            self.method_queue.defer(self._close, connection)

    def _shake(self, connection: Connection) -> None:
        """In a thread, because a handshake costs a signature."""
        self._back(connection, self._shaken, connection.shake())

    def _back(self, connection: Connection, step: Callable[..., object], *arguments: object) -> None:
        """Give a connection back to the loop, which goes on with it."""
        self.method_queue.defer(self._step, connection, step, *arguments)

    def _shaken(self, connection: Connection, wait: Wait | None) -> None:
        gate = connection.gate
        if wait is None:
            self._identify(connection)
            gate.enter(connection, Phase.IDLE, time.monotonic())
            self._watch(connection, _READ)
            # A request that came with the end of the handshake no longer makes the socket readable.
            self._turn(connection)
            return
        # The time limit is for the whole handshake.
        gate.enter(connection, Phase.SHAKING, connection.connected_at)
        self._watch(connection, _EVENTS[wait])

    def _work(self, connection: Connection, request: Any, content: bytes) -> None:
        """In a thread: the application, and as much of the response as the client takes at once."""
        listener = connection.gate.listener
        connection.served += 1
        found: Answer = answer(
            listener.application, request, content, connection.who, self.cfg, partial(self._last, connection)
        )
        connection.keep = found.keep
        connection.put(found.parts)
        wait = connection.send()
        self._back(connection, self._sent, wait)

    def _last(self, connection: Connection) -> bool:
        return not self.alive or connection.served >= _MOST_REQUESTS

    # --- requests -------------------------------------------------------------------------------------------------

    def _read(self, connection: Connection) -> None:
        gate = connection.gate
        while True:
            data = connection.receive()
            if isinstance(data, Wait):
                self._watch(connection, _EVENTS[data])
                return
            if connection.phase is Phase.IDLE:
                gate.enter(connection, Phase.READING, time.monotonic())
            connection.inbox += data
            if not gate.account(connection):
                self._refuse(connection, FULL)
                return
            if self._advance(connection):
                return

    def _advance(self, connection: Connection) -> bool:
        """Go on with what has come; says whether the connection waits for something else than more of it."""
        if connection.head is None:
            bounds = connection.gate.listener.bounds
            head = read_head(connection.inbox, self.cfg, connection.peer, bounds.body)
            if connection.refused and head is not None:
                head = NOT_AN_OPERATOR
            if isinstance(head, Refusal):
                self._refuse(connection, head)
                return True
            if head is None:
                return False
            connection.head = head
            if head.expects and not connection.inbox:
                connection.put([_CONTINUE])
                if connection.send() is not None:
                    # A client that reads nothing after its first bytes is none of ours.
                    raise Gone
        head = connection.head
        if len(connection.inbox) < head.length:
            return False
        content = bytes(connection.inbox[: head.length])
        del connection.inbox[: head.length]
        connection.head = None
        self._hand_over(connection, self._work, head.request, content)
        return True

    def _refuse(self, connection: Connection, refusal: Refusal) -> None:
        """Answer without the application, and close."""
        gate = connection.gate
        gate.count(refusal.code)
        connection.inbox.clear()
        connection.head, connection.keep = None, False
        connection.put([refusal.response()])
        self._step(connection, self._send)

    # --- responses ------------------------------------------------------------------------------------------------

    def _send(self, connection: Connection) -> None:
        self._sent(connection, connection.send())

    def _sent(self, connection: Connection, wait: Wait | None) -> None:
        """A response is sent, as far as the client has taken it."""
        gate, now = connection.gate, time.monotonic()
        within = gate.account(connection)
        if wait is not None:
            if connection.phase is not Phase.WRITING:
                gate.enter(connection, Phase.WRITING, now)
            self._watch(connection, _EVENTS[wait])
            if not within:
                gate.count("slow-reader")
                self._close(gate.slowest(now) or connection)
        elif connection.keep:
            self._next_request(connection, now)
        else:
            connection.finish()
            gate.enter(connection, Phase.LINGERING, now)
            self._watch(connection, _READ)

    def _next_request(self, connection: Connection, now: float) -> None:
        gate = connection.gate
        if connection.inbox:
            # Sent without waiting for the response.
            gate.enter(connection, Phase.READING, now)
            if self._advance(connection):
                return
        else:
            gate.enter(connection, Phase.IDLE, now)
        self._watch(connection, _READ)
        if connection.secure:
            # What was decrypted already no longer makes the socket readable.
            self._turn(connection)

    def _drain(self, connection: Connection) -> None:
        for _ in range(_MOST_READS):
            data = connection.receive()
            if isinstance(data, Wait):
                return
            connection.drained += len(data)
        if connection.drained >= _MOST_DRAINED:
            self._close(connection)

    # --- the end --------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Finish what is at work, and let nobody wait for an answer who was told that he may ask."""
        for gate in self._gates:
            if gate.again_at is None:
                self.poller.unregister(gate.socket)
            gate.again_at = None
            # Those who are connected already, as they see it, are served; then it is closed for good.
            while self._accept(gate):
                pass
            gate.socket.close()
            gate.hurry(time.monotonic())
        self.board.leave(self.place)
        deadline = time.monotonic() + self.cfg.graceful_timeout
        while any(gate.connections for gate in self._gates) and time.monotonic() < deadline:
            self.place = None
            self._round()
        # Whatever a thread still holds ends with the process; so poller and queue stay open for it.
        for gate in self._gates:
            for connection in list(gate.connections):
                self._close(connection)
