"""The KBS as a process: HTTP on one address until interrupted."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import FrameType

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from vtpm.errors import UnavailableError
from vtpm.kbs.app import create_app
from vtpm.kbs.directory import Kbs

_log = logging.getLogger("vtpm.kbs")


class _Handler(WSGIRequestHandler):
    # A client that says nothing does not hold a thread for ever.
    timeout = 30

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - the base class's name
        _log.log(logging.ERROR if type == "error" else logging.DEBUG, message, *args)


def make_kbs_server(kbs: Kbs, host: str = "127.0.0.1", port: int = 0) -> BaseWSGIServer:
    """A threaded HTTP server, bound but not yet serving; `server_port` is its port. For tests and the lab.

    Raises:
        UnavailableError: the address cannot be bound.
    """
    app = create_app(kbs, lambda: datetime.now(UTC), os.urandom)
    try:
        return make_server(host, port, app, threaded=True, request_handler=_Handler)
    except (OSError, SystemExit) as error:
        # werkzeug ends the process when the port is taken.
        raise UnavailableError(f"cannot listen on {host}:{port}") from error


def serve(
    kbs: Kbs, host: str = "127.0.0.1", port: int = 8480, *, say: Callable[[str], None] | None = None
) -> None:
    """Serve a KBS until SIGINT or SIGTERM.

    Args:
        kbs: what is served.
        host: address to bind.
        port: TCP port; 0 lets the system choose.
        say: told one line once the server listens; prints it by default.

    Raises:
        UnavailableError: the address cannot be bound.
    """
    server = make_kbs_server(kbs, host, port)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    line = f"listening on http://{host}:{server.server_port}"
    if say is None:
        print(line, flush=True)  # noqa: T201 - the line that scripts wait for
    else:
        say(line)
    # Returns on KeyboardInterrupt, and closes the socket.
    server.serve_forever()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
