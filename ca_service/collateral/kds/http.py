"""One request, one answer: over HTTP, with bounds on time and size and without following anybody elsewhere."""

from typing import Final

import requests
import urllib3
from requests.auth import AuthBase

from ca_service.collateral.kds.deadline import Deadline
from ca_service.collateral.kds.fetching import Answer
from ca_service.evidence.snp.crl import MAX_CRL
from ca_service.judgment import Unavailable

_CONNECT_S: Final = 3.0
_READ_S: Final = 5.0
_WHOLE_S: Final = 10.0
_PIECE: Final = 16 * 1024
_OK: Final = 200


class _NoCredentials(AuthBase):
    """Keeps passwords that lie in the user's home out of requests."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class HttpFetcher:
    """Fetches over HTTP or HTTPS; a proxy is taken from the environment.

    Args:
        most: longest body in bytes.
        whole_s: longest time from the connection to the end of an answer, in seconds, however it is drawn out;
            connecting and each pause have their own bounds.
    """

    def __init__(
        self,
        *,
        most: int = MAX_CRL,
        whole_s: float = _WHOLE_S,
        read_s: float = _READ_S,
    ) -> None:
        self._most = most
        self._whole_s = whole_s
        self._read_s = read_s

    def __call__(self, url: str) -> Answer:
        """Get what is at `url`. Redirects are answers like others, and are not followed.

        Raises:
            Unavailable: no connection, too slow, too long, or cut off.
        """
        try:
            with Deadline(self._whole_s) as deadline, requests.Session() as session:
                session.mount("https://", deadline)
                session.mount("http://", deadline)
                answer = self._answer(session, url)
                if deadline.passed:
                    # A body without a stated length ends like a whole one when the connection does.
                    raise Unavailable(f"{_host(url)} is too slow", code="kds")
                return answer
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"{_host(url)} gives no answer ({type(error).__name__})", code="kds") from None

    def _answer(self, session: requests.Session, url: str) -> Answer:
        with session.get(
            url,
            timeout=(_CONNECT_S, self._read_s),
            allow_redirects=False,
            stream=True,
            headers={"Accept-Encoding": "identity"},
            auth=_NoCredentials(),
        ) as response:
            body = self._body(response) if response.status_code == _OK else b""
            return Answer(response.status_code, body, response.headers.get("Retry-After", ""))

    def _body(self, response: requests.Response) -> bytes:
        body = bytearray()
        while piece := response.raw.read1(_PIECE):
            body += piece
            if len(body) > self._most:
                raise Unavailable(f"{_host(response.url)} sends more than {self._most} bytes", code="kds")
        return bytes(body)


def _host(url: str) -> str:
    """The part of a URL that an operator needs to know; a chip id is none of the log's business."""
    return url.split("/")[2]
