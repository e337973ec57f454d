"""Who writes: one transaction at a time, and one flush for those that follow each other at once.

A flush takes as long for many transactions as for one. So a thread that has written, and sees another one of its
process wait for the turn, hands the open transaction on to that one and waits for the commit; who has nobody behind
him commits for all. Each but the first writes behind a savepoint: one that fails takes nothing of the others with it.
Nobody waits for company: a writer alone commits at once.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError

from ca_service.judgment import Unavailable
from ca_service.store.backends import BUSY_TIMEOUT_MS
from ca_service.store.sessions import Faults, Session, Sessions
from ca_service.store.statements import opening
from ca_service.store.turns import Turns

MOST: Final = 8
"""Transactions in one commit: the first of them waits for all."""

_LOOK_AGAIN_S: Final = 0.05
"""A thread to which a transaction was handed on may have given up waiting just then."""


class Batch:
    """An open transaction, and those whose writes it holds. All but `wait` is for the thread whose turn it is.

    Attributes:
        session: the transaction.
        size: how many have written in it, those left out who failed.
        joined: how many with those.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.size = self.joined = 1
        self._error: BaseException | None = None
        self._ended: threading.Event | None = None

    def join(self) -> None:
        """One more writes in it; raises `DBAPIError`."""
        self.session.control("SAVEPOINT joined")
        self.size += 1
        self.joined += 1

    def keep(self) -> None:
        """What the last one wrote is committed with the rest; raises `DBAPIError`."""
        if self.size > 1:
            self.session.control("RELEASE SAVEPOINT joined")

    def undo(self) -> None:
        """Take back what the last one wrote, and nothing else; raises `DBAPIError`."""
        if self.size > 1:
            self.session.control("ROLLBACK TO SAVEPOINT joined")
            self.session.control("RELEASE SAVEPOINT joined")
        self.size -= 1

    def hand_on(self) -> None:
        """Make it fit for other hands: whoever wrote in it cannot any more, and may `wait`."""
        self.session = self.session.hand_on()
        self._ended = self._ended or threading.Event()

    def end(self, error: BaseException | None) -> None:
        """The disk has it, or there was an error: tell those who wait."""
        self._error = error
        if self._ended is not None:
            self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, and say whether it came in that time.

        Raises:
            DBAPIError: nothing was written, or the commit is in doubt.
            Unavailable: nothing was written.
        """
        if self._ended is not None and not self._ended.wait(seconds):
            return False
        if isinstance(self._error, DBAPIError) and not isinstance(self._error, IntegrityError):
            raise self._error
        if self._error is not None:
            # What another one met is no answer to this one.
            raise Unavailable("the database cannot be written now")
        return True


class Writers:
    """The threads of a process that write. Safe for threads; not to be used after a fork.

    Args:
        sessions: the process's sessions.
        begin: SQL that begins a transaction for writing.
        turns: shared with other processes; None if the database wakes who waits for it.
        faults: what goes wrong around the beginning; only tests hand something in.
        check: raises if what is written could not be found again.
    """

    def __init__(
        self,
        sessions: Sessions,
        begin: str,
        turns: Turns | None,
        faults: Faults,
        check: Callable[[], None],
    ) -> None:
        self._sessions = sessions
        self._sql, self._point = begin, opening(begin)
        self._turns = turns
        self._faults = faults
        self._check = check
        # A database's own waiting polls or costs a connection; within one process a lock does not.
        self._turn = threading.Lock()
        # By who has the turn: what the one before him has left open.
        self._handed_on: Batch | None = None
        # One element for each that would join; a number could not be changed by threads at the same time.
        self._waiting: deque[None] = deque()

    @contextmanager
    def alone(self) -> Iterator[Session]:
        """A session for whoever commits himself; what he has not committed at the end is rolled back.

        Raises:
            Unavailable: another writer holds the database too long.
            DBAPIError: it cannot be reached.
        """
        deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        while batch := self._take(deadline):
            self._commit_for_others(batch)
        session = self._begin(deadline)
        try:
            yield session
        finally:
            self._leave(session)

    def join(self) -> Batch:
        """Begin to write in a transaction that may be committed with others' writes; `finish` or `undo` must follow.

        Raises:
            Unavailable: another writer holds the database too long; nothing was written.
            DBAPIError: nothing was written.
        """
        deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        self._waiting.append(None)
        try:
            batch = self._take(deadline)
        finally:
            self._waiting.pop()
        if batch is None:
            return Batch(self._begin(deadline))
        try:
            batch.join()
        except BaseException as error:
            self._end(batch, error)
            raise
        return batch

    def finish(self, batch: Batch) -> None:
        """Whoever joined, and kept what he wrote, goes on when it is committed, by him or by another.

        Raises:
            Unavailable: nothing was written.
            DBAPIError: nothing was written, or the commit is in doubt.
        """
        if self._hand_on(batch):
            self._await(batch)
        else:
            self._commit(batch)

    def undo(self, batch: Batch, error: BaseException) -> None:
        """End the turn of one who joined and failed: the others go on without him."""
        try:
            batch.undo()
        except BaseException as lost:
            # Some errors end the whole transaction.
            self._end(batch, error)
            if isinstance(lost, DBAPIError):
                return
            raise
        if not batch.size:
            self._end(batch, error)
        elif self._hand_on(batch):
            # What he met may be a write that is not committed yet: who heard of it now would look for it in vain.
            with suppress(Exception):
                self._await(batch)
        else:
            self._commit_for_others(batch)

    def _take(self, deadline: float) -> Batch | None:
        """Wait until no other thread of this process writes; gives what the one before has left open."""
        if not self._turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise _busy()
        batch, self._handed_on = self._handed_on, None
        return batch

    def _begin(self, deadline: float) -> Session:
        """Begin a transaction when none of the processes that share `Turns` writes; ends the turn if that fails."""
        turns, came = self._turns, False
        try:
            came = turns is None or turns.take(deadline - time.monotonic())
        finally:
            if not came:
                self._turn.release()
        if not came:
            raise _busy()
        session = None
        try:
            self._faults("before " + self._point)
            session = self._sessions.begin(self._sql)
            self._faults("after " + self._point)
            self._check()
        except BaseException:
            self._leave(session)
            raise
        return session

    def _leave(self, session: Session | None) -> None:
        """End the transaction, and the turn."""
        try:
            if session is not None:
                self._sessions.end(session)
        finally:
            if self._turns is not None:
                self._turns.give()
            self._turn.release()

    def _end(self, batch: Batch, error: BaseException | None) -> None:
        """End the batch, and the turn; with an error, nothing of it was written."""
        try:
            self._leave(batch.session)
        finally:
            batch.end(error)

    def _commit(self, batch: Batch) -> None:
        """Commit for all, and end the turn; raises `DBAPIError`."""
        error: BaseException | None = None
        try:
            batch.session.commit()
        except BaseException as failed:
            error = failed
            raise
        finally:
            self._end(batch, error)

    def _commit_for_others(self, batch: Batch) -> None:
        with suppress(Exception):
            # Whoever waits for it is told.
            self._commit(batch)

    def _hand_on(self, batch: Batch) -> bool:
        """Let the next one go on with the batch, if one waits."""
        if not self._waiting or batch.joined >= MOST:
            return False
        batch.hand_on()
        self._handed_on = batch
        self._turn.release()
        return True

    def _await(self, batch: Batch) -> None:
        while not batch.wait(_LOOK_AGAIN_S):
            if self._turn.acquire(blocking=False):
                if self._handed_on is batch:
                    self._handed_on = None
                    self._commit(batch)
                    return
                self._turn.release()


def _busy() -> Unavailable:
    return Unavailable("the database cannot be written now: another writer holds it too long")
