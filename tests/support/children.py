"""Processes that a server of tests has forked, and how each ended. Nothing but the standard library is needed."""

import contextlib
import os
import signal


class Children:
    """Forked processes, each the leader of a group of its own."""

    def __init__(self) -> None:
        self._begun: list[int] = []
        self._statuses: dict[int, int] = {}

    def begun(self, pid: int) -> None:
        """One more."""
        # Numbers come again after some ten thousand processes: what is known of this one is another's end.
        self._statuses.pop(pid, None)
        self._begun.append(pid)

    def poll(self, pid: int) -> int | None:
        """How it ended, as `Popen.returncode` says it; None while it runs."""
        if pid not in self._statuses:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._statuses[pid] = os.waitstatus_to_exitcode(status)
        return self._statuses.get(pid)

    def kill(self) -> None:
        """SIGKILL to the groups of those that still run."""
        for pid in self._begun:
            if self.poll(pid) is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
