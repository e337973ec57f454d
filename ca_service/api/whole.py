"""Responses whose content is there as a whole, and what all of ours say besides it."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from flask import Response

from ca_service.api.asked import asked

_COMPLETE: Final = frozenset({HTTPStatus.OK, HTTPStatus.CREATED})
_NO_SNIFFING: Final = ("X-Content-Type-Options", "nosniff")
_NOT_KEPT: Final = ("Cache-Control", "no-store")


class Whole(Response):
    """A response that has its content and length already, and the fields that all of ours have."""

    def get_wsgi_response(
        self, environ: dict[str, Any]
    ) -> tuple[Iterable[bytes], str, list[tuple[str, str]]]:
        """What is said to the server (PEP 3333)."""
        chunks: Iterable[bytes]
        request = asked()
        if request.varies:
            self.vary.add("Accept")
        if self.status_code in _COMPLETE and request.method != "HEAD" and isinstance(self.response, list):
            chunks, status, fields = self.response, self.status, self.headers.to_wsgi_list()
        else:
            chunks, status, fields = super().get_wsgi_response(environ)
        fields += _NO_SNIFFING, ("X-Request-Id", request.request_id)
        if "Cache-Control" not in dict(fields):
            fields.append(_NOT_KEPT)
        return chunks, status, fields
