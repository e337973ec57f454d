"""The status page of a real server: over its operator socket, and in a real browser behind a forwarded port."""

import contextlib
import json
import select
import shutil
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request

import pytest
from html_pages import Page

from ca_service.cli.channel import ask_server, get_from_server, operator_socket

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
)  # fmt: skip


class Forward:
    """A port of loopback that leads to the operator socket, as ``ssh -L`` makes one."""

    def __init__(self, directory) -> None:
        self._path = str(operator_socket(directory))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://localhost:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._run, daemon=True)]
        self._threads[0].start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._relay, args=(near,), daemon=True))
                self._threads[-1].start()

    def _relay(self, near: socket.socket) -> None:
        """Until either side ends."""
        with near, socket.socket(socket.AF_UNIX) as far, contextlib.suppress(OSError):
            far.connect(self._path)
            others = {near: far, far: near}
            while True:
                readable, _, _ = select.select([near, far], [], [], 60)
                for source in readable:
                    part = source.recv(1 << 16)
                    if not part:
                        return
                    others[source].sendall(part)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)


@pytest.fixture
def forwarded(ca, serve):
    server = serve(ca)
    made = Forward(ca)
    yield server, made.base
    server.end(signal.SIGTERM)
    made.close()


def refused(request) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=20)  # noqa: S310 - our own server
    with refusal.value as answer:
        return answer.code, json.loads(answer.read())["code"]


def test_the_page_of_a_server(ca, forwarded):
    server, base = forwarded
    status, body = get_from_server(ca, "/status")
    page = Page(body.decode())
    assert (status, page.faults) == (200, [])
    for words in ("elsewhere/vtpm/x", "kbs.resource", "1 admitted, 1 refused", "clone"):
        assert words in body.decode()
    with urllib.request.urlopen(base + "/", timeout=20) as answer:  # noqa: S310 - our own server
        assert answer.url == base + "/status"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert refused(f"http://127.0.0.1:{server.port}/status") == (404, "not-found")

    # What a page elsewhere could have the browser send over the forwarded port.
    target, policies = base + "/operator/v1/policy-apply", len(ask_server(ca, "policy-log", {}))
    body = json.dumps({"text": "schema = 1\n"}).encode()
    for headers, expected in (
        ({"Content-Type": "text/plain", "Origin": "https://evil.example"}, (403, "refused")),
        ({"Content-Type": "application/json", "Sec-Fetch-Site": "same-site"}, (403, "refused")),
        ({"Content-Type": "text/plain"}, (415, "unsupported-media-type")),
        ({"Content-Type": "application/json", "Host": "evil.example"}, (400, "host")),
    ):
        request = urllib.request.Request(target, body, headers)  # noqa: S310 - our own server
        assert refused(request) == expected
    assert len(ask_server(ca, "policy-log", {})) == policies


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [400, 1280])
def test_in_a_browser(forwarded, tmp_path, width):
    """It is drawn, with its style, and the browser finds nothing to complain about."""
    _, base = forwarded
    words = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000"]

    def look(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run([*words, *more, base + "/status"], capture_output=True, timeout=100, check=True)

    drawn = look("--dump-dom")
    page = Page(drawn.stdout.decode())
    assert "elsewhere/vtpm/x" in page.text
    # What breaks the policy of the page is said on the console.
    assert b"CONSOLE" not in drawn.stderr
    picture = tmp_path / "page.png"
    look(f"--screenshot={picture}", "--hide-scrollbars")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000
