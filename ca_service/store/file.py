"""The file of an SQLite database: can what is written into it be found again?"""

import os
import weakref
from collections.abc import Callable

from ca_service.judgment import Unavailable


class DatabaseFile:
    """Where the file of a database lies, and which one it was when it was opened.

    A file that is moved, deleted or replaced is still written by every process that has it open. What a server commits
    then is lost when it ends, or lies where nobody looks.

    Args:
        path: as the database's URL names it; None if it lies in no file of ours, and nothing is to be checked.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._opened: tuple[int, int] | None = None
        self._let_go: Callable[[], object] | None = None
        self._log = ""
        self._logged = False

    def opened(self, *_about: object) -> None:
        """To be called whenever it was opened: the first one counts, until `forget`."""
        if self._path is not None and self._opened is None:
            # As long as this is held, no file that comes in its place gets its number. With O_PATH, because the end of
            # any other descriptor would end SQLite's locks.
            self._let_go = weakref.finalize(self, os.close, os.open(self._path, os.O_PATH | os.O_CLOEXEC))
            # Where a link leads, which is where SQLite keeps it.
            self._log = os.path.realpath(self._path) + "-wal"
            # Last: other threads go by it.
            self._opened = _identity(self._path)

    def forget(self) -> None:
        """Nobody has it open any more."""
        if self._let_go is not None:
            self._let_go()
        self._opened, self._logged, self._let_go = None, False, None

    def check(self) -> None:
        """Whether the file that is open is the one that others find; to be called in a write transaction.

        Raises:
            Unavailable: another one lies there, or none, or its write-ahead log is gone (code ``moved``).
        """
        if self._path is None or self._opened is None:
            return
        logged = os.access(self._log, os.F_OK)
        # Where SQLite cannot have a log, it goes without: then none is missed.
        if _identity(self._path) != self._opened or (self._logged and not logged):
            raise Unavailable(
                "the database cannot be written now: its file was moved, deleted or replaced while it was open",
                code="moved",
                remedy="Put back the file, with its -wal and -shm; or end the server, and bring the database back "
                "with `vtpm-ca db restore`.",
            )
        self._logged = logged


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - it is a text already, and this is done for each write
    except OSError:
        return None
    return status.st_dev, status.st_ino
