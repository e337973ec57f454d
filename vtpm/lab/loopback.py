"""A WSGI application on a free loopback port, for as long as a block runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from wsgiref.types import WSGIApplication

from werkzeug.serving import WSGIRequestHandler, make_server

_HOST = "127.0.0.1"
_POLL_S = 0.02


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the lab tells what happened."""


@contextmanager
def served(app: WSGIApplication) -> Iterator[str]:
    """Serve `app`; yields its base URL."""
    server = make_server(_HOST, 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_S,), daemon=True)
    thread.start()
    try:
        yield f"http://{_HOST}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
