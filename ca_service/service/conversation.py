"""What a worker process says and hears on its connections: from the first byte of a request to the last of its answer.

All of it happens in the process's loop and never waits, but for handshakes and the application, which threads do.
"""

import selectors
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog

from ca_service.service.answer import answer
from ca_service.service.connection import Connection, Gone, Phase, Wait
from ca_service.service.request import FULL, NOT_AN_OPERATOR, Head, Refusal, read_head

_READ: Final = selectors.EVENT_READ
_EVENTS: Final = {Wait.READ: selectors.EVENT_READ, Wait.WRITE: selectors.EVENT_WRITE}

_MOST_REQUESTS: Final = 1000
"""Of one connection."""

_MOST_DRAINED: Final = 1 << 20
_MOST_READS: Final = 16
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_log = structlog.get_logger(__name__)


class Conversations:
    """The part of a worker that serves connections.

    Attributes:
        alive: False when the process is to end.
        poller: waits for sockets.
        method_queue: through which threads give work back to the loop, and wake it.
        answered: connections that threads give back without waking it.
    """

    alive: bool
    poller: selectors.BaseSelector
    method_queue: Any
    answered: deque[Connection]

    def _turn(self, connection: Connection) -> None:
        """The socket of a connection is ready for what it waits for."""
        if connection.phase is Phase.SHAKING:
            # What has come stays in the socket until the thread reads it.
            self._watch(connection, 0)
            self._step(connection, self._hand_over, self._shake)
        elif connection.phase is Phase.WORKING:
            # It sends more before it has its answer, or has gone. Whoever gives it back sees that nobody watches it.
            self._watch(connection, 0)
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

    def _identify(self, connection: Connection) -> None:
        listener = connection.gate.listener
        if listener.operator is not None:
            connection.operator = listener.operator(connection.socket)
            connection.refused = connection.operator is None

    # --- work for threads -----------------------------------------------------------------------------------------

    def _hand_over(self, connection: Connection, job: Callable[..., object], *arguments: object) -> None:
        """Let a thread of the listener have the connection; `job` gives it back."""
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
        try:
            wait = connection.shake()
        except Gone as gone:
            self._back(connection, self._unshaken, str(gone))
        else:
            self._back(connection, self._shaken, wait)

    def _back(self, connection: Connection, step: Callable[..., object], *arguments: object) -> None:
        """Give a connection back to the loop, which goes on with it."""
        self.method_queue.defer(self._step, connection, step, *arguments)

    def _take_back(self) -> None:
        """Go on with the connections that were given back without a word."""
        while self.answered:
            self._step(self.answered.popleft(), self._sent, None)

    def _unshaken(self, connection: Connection, why: str) -> None:
        """An operator whose certificate has expired learns little from his side; so the log has it."""
        connection.gate.count(why)
        self._close(connection)

    def _shaken(self, connection: Connection, wait: Wait | None) -> None:
        gate = connection.gate
        if wait is None:
            self._identify(connection)
            gate.enter(connection, Phase.IDLE, time.monotonic())
            self._watch(connection, _READ)
            # A request that came with the end of the handshake no longer makes the socket readable.
            self._turn(connection)
            return
        # The time limit is for the whole handshake. It is looked at here too: whoever sends a piece just before each
        # look at the time is at work whenever the others are looked at.
        gate.enter(connection, Phase.SHAKING, connection.connected_at)
        if connection.deadline <= time.monotonic():
            self._close(connection)
            return
        self._watch(connection, _EVENTS[wait])

    def _work(self, connection: Connection, head: Head, content: bytes) -> None:
        """In a thread: the application, and as much of the response as the client takes at once."""
        listener = connection.gate.listener
        connection.served += 1
        found = answer(listener.application, head, content, connection.who, partial(self._last, connection))
        connection.keep = found.keep
        connection.put(found.parts)
        wait = connection.send()
        if wait is None and connection.keep and not connection.ahead:
            # Nothing is to be done before the client asks again, and that wakes the loop. First this, then the look;
            # the loop does it the other way round, so one of the two sees what the other has done.
            self.answered.append(connection)
            if not connection.events:
                self.method_queue.defer(self._take_back)
        else:
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
            if not self._fits(connection):
                self._refuse(connection, FULL)
                return
            if self._advance(connection):
                return

    def _advance(self, connection: Connection) -> bool:
        """Go on with what has come; says whether the connection waits for something else than more of it."""
        if connection.head is None:
            bounds = connection.gate.listener.bounds
            head = read_head(connection.inbox, bounds.body)
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
        self._hand_over(connection, self._work, head, content)
        return True

    def _fits(self, connection: Connection) -> bool:
        """Whether there is memory for what a connection has waiting, if need be that of those who take longest."""
        gate = connection.gate
        while not gate.account(connection):
            other = gate.longest_held(connection)
            if other is None:
                return False
            gate.count("too-many-others")
            self._close(other)
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
        within = self._fits(connection)
        if wait is not None:
            if not within:
                raise Gone
            if connection.phase is not Phase.WRITING:
                gate.enter(connection, Phase.WRITING, now)
            self._watch(connection, _EVENTS[wait])
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
        if connection.ahead:
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
