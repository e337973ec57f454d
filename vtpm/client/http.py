"""The CA over HTTP, for clients that have a network."""

from vtpm.errors import UnavailableError
from vtpm.wire.enrollment import MAX_BODY

_MAX_REPLY = 4 * MAX_BODY


class HttpTransport:
    """Carries requests to the CA at `base_url`; `timeout_s` bounds connecting and each pause in the answer."""

    def __init__(self, base_url: str, timeout_s: float = 30.0) -> None:
        self._base = base_url.rstrip("/")
        self._timeout = timeout_s

    def call(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Send one request and return status and body of the answer.

        Raises:
            UnavailableError: the CA cannot be reached, or its answer is larger than any that it gives.
        """
        import requests  # noqa: PLC0415 - most who use this package have no network, and are started once per boot

        headers = {"Content-Type": "application/json"} if body else {}
        try:
            with requests.request(
                method,
                self._base + path,
                data=body,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as answer:
                content = answer.raw.read(_MAX_REPLY + 1, decode_content=True)
                status = answer.status_code
        except (requests.RequestException, OSError) as error:
            raise UnavailableError(f"the CA at {self._base} cannot be reached") from error
        if len(content) > _MAX_REPLY:
            raise UnavailableError(f"the answer of the CA at {self._base} is too large")
        return status, content
