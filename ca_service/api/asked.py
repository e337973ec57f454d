"""The request at work, and what is remembered of it until its line is in the log."""

import os
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from flask import Request, request
from werkzeug.exceptions import RequestEntityTooLarge


class Asked(Request):
    """A request.

    Attributes:
        begun: when, monotonic seconds.
        request_id: our own id of it.
        chosen: media type that the client wants.
        varies: whether it was asked which one that is.
        by: name of the operator who asks for an operation; else empty.
        let_in: whether an operator is known to ask for a page.
        problem: of a problem document, what the log has of it.
    """

    chosen = ""
    varies = False
    by = ""
    let_in = False
    problem: Mapping[str, str] = MappingProxyType({})

    def __init__(self, environ: dict[str, Any]) -> None:
        super().__init__(environ)
        self.begun = time.monotonic()
        self.request_id = os.urandom(8).hex()

    def content(self, most: int) -> bytes:
        """The content; once only.

        Raises:
            RequestEntityTooLarge: it has more than `most` bytes.
        """
        if not self.environ.get("wsgi.input_terminated"):
            # Another server's: whoever reads beyond the content waits for the client's next request.
            self.max_content_length = most
            return self.get_data(cache=False)
        # Ours has read it as a whole before it asks the application.
        found: bytes = self.environ["wsgi.input"].read(most + 1)
        if len(found) > most:
            raise RequestEntityTooLarge
        return found


def asked() -> Asked:
    """The request that this thread has at work. Flask's own name for it is looked up anew with each attribute."""
    found: Asked = request._get_current_object()  # type: ignore[attr-defined] # noqa: SLF001 - documented for this
    return found
