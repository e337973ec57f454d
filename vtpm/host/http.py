"""HTTP as the host does it: bounded in size and time, no redirects, no proxies from the environment."""

import time
from dataclasses import dataclass
from typing import Final

import requests

from vtpm.errors import UnavailableError

CONNECT_S: Final = 5.0
SILENCE_S: Final = 30.0
TOTAL_S: Final = 45.0
_CHUNK: Final = 64 * 1024


@dataclass(frozen=True)
class Reply:
    """Status and body of an HTTP response."""

    status: int
    body: bytes


class HttpClient:
    """Requests to one server, with that server's cookies; for one thread, and to be closed.

    Args:
        base: URL without a path, for example `http://127.0.0.1:8480`.
        most: largest response body in bytes.
    """

    def __init__(self, base: str, *, most: int) -> None:
        self._base = base.rstrip("/")
        self._most = most
        self._session = requests.Session()
        self._session.trust_env = False

    def close(self) -> None:
        """Give the connections up."""
        self._session.close()

    def call(self, method: str, path: str, body: bytes = b"") -> Reply:
        """Make one request; a body goes out as JSON.

        Raises:
            UnavailableError: no server there, too slow, or too large an answer.
        """
        deadline = time.monotonic() + TOTAL_S
        try:
            with self._session.request(
                method,
                self._base + path,
                data=body or None,
                headers={"Content-Type": "application/json"} if body else {},
                timeout=(CONNECT_S, SILENCE_S),
                allow_redirects=False,
                stream=True,
            ) as response:
                received = bytearray()
                for chunk in response.iter_content(_CHUNK):
                    received += chunk
                    if len(received) > self._most or time.monotonic() > deadline:
                        raise UnavailableError("the server's answer is too large or too slow")
                return Reply(response.status_code, bytes(received))
        except (requests.RequestException, OSError) as error:
            # The class alone: requests puts the whole URL into its sentence.
            raise UnavailableError(f"the server cannot be reached ({type(error).__name__})") from error
