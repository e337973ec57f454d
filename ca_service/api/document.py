"""The OpenAPI document, as it was written when the release was made."""

import hashlib
from importlib.resources import files
from typing import Final

from flask import Blueprint, Response, request

from ca_service.api.calls import DOCUMENT, JSON

FILE: Final = "openapi.json"
"""Its name in this package."""

_AGE_S: Final = 3_600


def document() -> Blueprint:
    """The blueprint of the document."""
    blueprint = Blueprint("document", __name__)
    content = files("ca_service.api").joinpath(FILE).read_bytes()
    tag = hashlib.sha256(content).hexdigest()

    @DOCUMENT.on(blueprint)
    def openapi() -> Response:
        response = Response(content, mimetype=JSON)
        response.headers["Cache-Control"] = f"public, max-age={_AGE_S}"
        response.set_etag(tag)
        response.make_conditional(request.environ)
        return response

    return blueprint
