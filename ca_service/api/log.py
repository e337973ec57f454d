"""What the log publishes: its newest checkpoint (C2SP tlog-tiles, "Checkpoints")."""

from flask import Blueprint, Response

from ca_service.api.calls import CHECKPOINTS
from ca_service.api.services import Services
from ca_service.judgment import NotFound

_AGE_S = 2
"""How long a checkpoint may be kept, in seconds: it changes with every decision."""


def log(services: Services) -> Blueprint:
    """The blueprint of the log."""
    blueprint = Blueprint("log", __name__)

    @CHECKPOINTS.on(blueprint)
    def checkpoint() -> Response:
        with services.store.read() as tx:
            row = tx.log.head()
        if row is None:
            raise NotFound("the log has no checkpoint yet")
        response = Response(row.checkpoint.encode("utf-8"), content_type="text/plain; charset=utf-8")
        response.headers["Cache-Control"] = f"public, max-age={_AGE_S}"
        return response

    return blueprint
