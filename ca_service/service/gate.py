"""A listener within one worker process: its socket, its threads, its connections and what they may take together."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from ca_service.service.connection import Connection, Phase
from ca_service.service.listeners import IN_A_HURRY, Listener, Patience

_SHOWN_EVERY_S = 60.0

_log = structlog.get_logger(__name__)


def _waits(patience: Patience) -> dict[Phase, float]:
    """How long a phase may last, in seconds; that of a connection that has asked before."""
    return {
        Phase.SHAKING: patience.first,
        Phase.IDLE: patience.idle,
        Phase.READING: patience.request,
        Phase.WORKING: float("inf"),
        Phase.WRITING: patience.answer,
        Phase.LINGERING: patience.linger,
    }


class Crew:
    """Threads that take jobs one after the other. They are this listener's alone, so none waits for another's clients.

    A job must not raise. The threads end with the process.

    Who puts jobs calls `begin` when he has nothing else to do: a thread that wakes while he still works waits for
    Python's lock, and is woken twice. Each job wakes one thread, where a queue of Python's wakes another one in vain.
    It is the one that has been idle for the shortest time: what it works with is the likeliest to be in caches.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._new: list[Callable[[], None]] = []
        self._guard = threading.Lock()
        self._jobs: deque[Callable[[], None]] = deque()
        self._idle: list[threading.Lock] = []
        for number in range(threads):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def put(self, job: Callable[[], None]) -> None:
        """Have a job done, from the next `begin` on."""
        self._new.append(job)

    def begin(self) -> None:
        """Let threads take what was put."""
        for job in self._new:
            with self._guard:
                self._jobs.append(job)
                wake = self._idle.pop() if self._idle else None
            if wake is not None:
                wake.release()
        self._new.clear()

    def _work(self) -> None:
        wake = threading.Lock()
        wake.acquire()
        while True:
            with self._guard:
                job = self._jobs.popleft() if self._jobs else None
                if job is None:
                    self._idle.append(wake)
            if job is None:
                wake.acquire()
            else:
                job()


class Gate:
    """The connections of a listener.

    Attributes:
        listener: what it is the gate of.
        socket: where new connections come from.
        crew: its threads.
        connections: all that are open.
        waiting: those that wait for their clients.
        buffered: bytes that they have waiting.
        pauses: how often a new connection was just left to another worker.
        again_at: when to accept again, monotonic seconds; None while accepting.
    """

    def __init__(self, number: int, listener: Listener, listening: Any) -> None:
        self.number = number
        self.listener = listener
        self.socket = listening
        self.crew = Crew(listener.name, listener.bounds.threads)
        self.connections: set[Connection] = set()
        self.waiting: dict[Connection, None] = {}
        self.buffered = 0
        self.pauses = 0
        self.again_at: float | None = None
        self.patience = listener.patience
        self._waits = _waits(listener.patience)
        self._by_client: dict[str, dict[Connection, None]] = {}
        self._turned_away: Counter[str] = Counter()
        self._shown_at = 0.0

    def hurry(self, now: float) -> None:
        """From now on nobody is waited for who has not begun to ask, and for others not long."""
        self.patience, self._waits = IN_A_HURRY, _waits(IN_A_HURRY)
        for connection in self.waiting:
            connection.since = now
            connection.deadline = min(connection.deadline, self._deadline(connection))

    def _deadline(self, connection: Connection) -> float:
        if connection.phase is Phase.IDLE and not connection.served:
            return connection.since + self.patience.first
        return connection.since + self._waits[connection.phase]

    def add(self, connection: Connection) -> None:
        """A new connection."""
        self.connections.add(connection)
        if connection.client is not None:
            self._by_client.setdefault(connection.client, {})[connection] = None

    def enter(self, connection: Connection, phase: Phase, now: float) -> None:
        """A connection waits for something else from now on."""
        self.waiting.pop(connection, None)
        connection.phase, connection.since = phase, now
        connection.deadline = self._deadline(connection)
        if phase is not Phase.WORKING:
            self.waiting[connection] = None

    def remove(self, connection: Connection) -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        self.waiting.pop(connection, None)
        self.buffered -= connection.held
        if connection.client is not None:
            others = self._by_client[connection.client]
            others.pop(connection, None)
            if not others:
                del self._by_client[connection.client]

    def account(self, connection: Connection) -> bool:
        """Count what a connection has waiting; says whether all together are within the bound."""
        held = len(connection.inbox) + connection.waiting_out
        self.buffered += held - connection.held
        connection.held = held
        return self.buffered <= self.listener.bounds.buffered

    def crowded(self, client: str | None) -> bool:
        """Whether this client has all the connections that one may have."""
        return client is not None and len(self._by_client.get(client, ())) >= self.listener.bounds.per_client

    @property
    def full(self) -> bool:
        """Whether there are as many connections as there may be."""
        return len(self.connections) >= self.listener.bounds.connections

    def slowest(self, now: float, client: str | None = None) -> Connection | None:
        """The connection that has waited longest for its client, of one client or of all; None if none has for long."""
        those: Iterable[Connection] = self.waiting
        if client is not None:
            those = (one for one in self._by_client.get(client, ()) if one in self.waiting)
        # Not the first of them: who sends a handshake in pieces comes to the end with each.
        found = min(those, key=lambda one: one.since, default=None)
        return found if found is not None and now - found.since >= self.patience.spared else None

    def longest_held(self, but: Connection) -> Connection | None:
        """The connection that has waited longest for its client, and has bytes waiting; not counting `but`."""
        return next((one for one in self.waiting if one.held and one is not but), None)

    def expired(self, now: float) -> list[Connection]:
        """Those whose clients were waited for long enough."""
        return [connection for connection in self.waiting if connection.deadline <= now]

    def count(self, what: str) -> None:
        """Count somebody who was turned away. They are no line of the log each, or it would grow as they please."""
        self._turned_away[what] += 1

    def show(self, now: float) -> None:
        """Say in the log, once a minute, whether and why clients were turned away."""
        if self._turned_away and now - self._shown_at >= _SHOWN_EVERY_S:
            _log.warning("clients were turned away", listener=self.listener.name, **self._turned_away)
            self._turned_away.clear()
            self._shown_at = now
