"""The worker process: one loop that waits for all clients, and threads that only ever see whole requests.

gunicorn's threaded worker reads a request in the thread that answers it, so that a few clients who send a byte a
second hold all threads. Here the loop reads, with a time limit for the whole of it, and sends what a client does not
take at once; threads belong to a listener each. So neither slow nor idle clients keep anybody else waiting, and what
they can make the process hold is bounded by connections and bytes. Of gunicorn's worker the life cycle is left.
"""

import contextlib
import errno
import selectors
import signal
import socket
import time
from collections import deque
from functools import partial
from typing import Final

from gunicorn.config import Config
from gunicorn.workers.gthread import ThreadWorker

from ca_service.service.arbiter import TOLD, UNHEARD
from ca_service.service.board import Board
from ca_service.service.connection import Connection, Gone, Phase
from ca_service.service.conversation import Conversations
from ca_service.service.gate import Gate
from ca_service.service.listeners import IN_A_HURRY
from ca_service.service.request import FULL, TOO_MANY, TOO_SLOW

_READ: Final = selectors.EVENT_READ

_ROUND_S: Final = 0.25
"""Time limits are looked at so often."""

_PAUSE_S: Final = 0.001
_MOST_PAUSES: Final = 5
"""So often a new connection is left to a worker with fewer; then that one may hang, or is about to stop."""

_FULL_PAUSE_S: Final = 0.1
_MOST_ACCEPTED: Final = 16
"""New connections in a row, before those that are there get their turn."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class _NoThreads:
    """gunicorn's worker wants to end a pool of threads of its own."""

    def shutdown(self, *, wait: bool) -> None:
        """Nothing to end."""


class ServiceWorker(Conversations, ThreadWorker):  # type: ignore[misc] # gunicorn has no type information
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

    def init_signals(self) -> None:
        """Hear the parent, and what it was told since this process began. A terminal's signals are for the parent."""
        super().init_signals()
        for number in (signal.SIGHUP, signal.SIGINT, *UNHEARD):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)

    def run(self) -> None:
        """Serve until told to stop, then finish what is at work."""
        listeners = self.app.service.listeners
        self._gates = [
            Gate(number, listener, listening)
            for number, (listener, listening) in enumerate(zip(listeners, self.sockets, strict=True))
        ]
        self.answered = deque()
        self._looked_at = -_ROUND_S
        self.poller.register(self.method_queue.fileno(), _READ, self.method_queue.run_callbacks)
        for gate in self._gates:
            gate.socket.setblocking(False)
            self._accept_again(gate)
        while self.alive and self.is_parent_alive():
            self._round()
        self._stop()

    # --- the loop -------------------------------------------------------------------------------------------------

    def _round(self) -> None:
        self._write_up()
        now = time.monotonic()
        self._take_back()
        wake = min(
            (gate.again_at for gate in self._gates if gate.again_at is not None), default=now + _ROUND_S
        )
        for gate in self._gates:
            gate.crew.begin()
        ready = self.poller.select(max(0.0, min(wake - now, _ROUND_S)))
        self._take_back()
        for key, _ in ready:
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
            self.notify()
            self._look_at_the_time(now)

    def _write_up(self) -> None:
        self.board.write(self.place, [len(gate.connections) for gate in self._gates])

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
                # A network's error is of the connection that is no more (accept(2)); it must not end this process.
                gate.count(errno.errorcode.get(error.errno or 0, "accept"))
                if error.errno in _EXHAUSTED:
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
        gate.enter(connection, Phase.SHAKING if connection.secure else Phase.IDLE, connection.connected_at)
        # The kernel has a limit on what it watches for us, too.
        self._step(connection, self._watch, _READ)
        if not connection.secure:
            self._step(connection, self._identify)

    # --- the end --------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Finish what is at work, and let nobody wait for an answer who was told that he may ask."""
        self.alive = False
        for gate in self._gates:
            if gate.again_at is None:
                self.poller.unregister(gate.socket)
            gate.again_at = None
            # Those who are connected already, as they see it, are served; then it is closed for good. Other processes
            # may go on listening, so whoever keeps coming must not keep this one from its end.
            begun = time.monotonic()
            while self._accept(gate) and time.monotonic() - begun < IN_A_HURRY.first:
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
