"""AMD's key distribution service on loopback: its URLs, and answers that a test chooses."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Says:
    """One answer: `length` is what the header states, `drip` sends the body in pieces with `pause` before each."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    drip: int = 0
    pause: Callable[[], object] = lambda: None
    gate: threading.Event | None = None


class StandIn:
    """A server; `answers` has what it says, by path with query, else 404. `asked` counts requests."""

    def __init__(self):
        self.answers: dict[str, Says] = {}
        self.asked: Counter[str] = Counter()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                stand_in.asked[self.path] += 1
                stand_in.heads.append(dict(self.headers))
                says = stand_in.answers.get(self.path, Says(404))
                if says.gate is not None:
                    says.gate.wait(20)
                self.send_response(says.status)
                for name, value in says.headers.items():
                    self.send_header(name, value)
                self.send_header(
                    "Content-Length", str(len(says.body) if says.length is None else says.length)
                )
                self.end_headers()
                step = says.drip or len(says.body) or 1
                try:
                    for start in range(0, len(says.body), step):
                        says.pause()
                        self.wfile.write(says.body[start : start + step])
                        self.wfile.flush()
                except OSError:
                    self.close_connection = True

            def log_message(self, *words):
                pass

        self.heads: list[dict[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
