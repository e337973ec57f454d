"""How a command reaches the CA: through the running server's operator socket, else on the directory itself."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ca_service.cli.channel import NoServer, ask_server
from ca_service.cli.place import open_public
from ca_service.judgment import Unavailable
from ca_service.keys.layout import FACTS_FILE

PATIENCE_S = 5.0
"""How long a command waits for another process that works on the CA and is not (yet, or any more) a server."""

_PAUSE_S = 0.1


class Busy(Unavailable):
    """Another process holds the CA's lock."""


def server_lock(directory: Path) -> Path:
    """The file that the running server, or a command working in its place, holds locked."""
    return directory / "run" / "server.lock"


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Be the only one who works on the CA's directory.

    Raises:
        Busy: a server or another command does.
    """
    path = server_lock(directory)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with path.open("a") as file:
        owner = directory.stat()
        if os.geteuid() == 0:
            # What root leaves behind must not lock the server's user out.
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                "another process works on this CA and does not answer on its operator socket",
                remedy=f"See who holds {path}.",
            ) from None
        yield


def run(directory: Path, operation: str, **arguments: object) -> Any:
    """Perform an operation and return its result.

    Raises:
        VtpmCaError: as the operation says, or the CA cannot be reached or opened.
    """
    if not os.path.isfile(directory / FACTS_FILE):  # noqa: PTH113 - a Path would raise what `open_public` words
        open_public(directory)
    given = {name: value for name, value in arguments.items() if value is not None}
    public, deadline = None, time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask_server(directory, operation, given)
        except NoServer:
            pass
        # Only now: whom a server answers needs nothing of what follows.
        from ca_service.cli.direct import perform_here

        public = public or open_public(directory)
        try:
            with exclusive(directory):
                return perform_here(public, operation, given)
        except Busy:
            # A server that is just starting or ending, or another command.
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE_S)
