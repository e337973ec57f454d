"""What operators do through the running server. Only requests over the CA's Unix socket get here.

The file permissions of the socket say who may connect; the kernel says who did. Over TCP these paths do not
exist.
"""

import json
import os
import socket
import struct

from flask import Blueprint, Response, g, request

from ca_service.api.problems import respond
from ca_service.api.services import Services
from ca_service.judgment import BadRequest, NotFound, VtpmCaError
from ca_service.operations import MAX_REQUEST
from vtpm.wire.encoding import canonical, parse_json

_CREDENTIALS = struct.Struct("3i")


def operator_uid(environ: "dict[str, object]") -> int | None:
    """The user id of the operator who asks, or None if the request is no operator's.

    An operator comes over a Unix socket, as this process's user or root.

    Args:
        environ: the WSGI environment; gunicorn puts the connection's socket there.
    """
    connection = environ.get("gunicorn.socket")
    if not isinstance(connection, socket.socket) or connection.family != socket.AF_UNIX:
        return None
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return int(uid) if uid in (0, os.geteuid()) else None


def operator(services: Services) -> Blueprint:
    """The blueprint of the operations: ``POST /operator/v1/<name>`` with a JSON object of parameters."""
    blueprint = Blueprint("operator", __name__, url_prefix="/operator/v1")

    @blueprint.before_request
    def only_operators() -> None:
        uid = operator_uid(request.environ)
        if uid is None:
            raise NotFound("there is nothing here")
        g.operator_uid = uid
        request.max_content_length = MAX_REQUEST

    @blueprint.errorhandler(VtpmCaError)
    def explain(error: VtpmCaError) -> Response:
        """An operator also learns what to do about it."""
        response = respond(error)
        if error.remedy:
            response.data = canonical({**json.loads(response.data), "remedy": error.remedy})
        return response

    @blueprint.post("/<name>")
    def operation(name: str) -> Response:
        parameters = parse_json(request.get_data(cache=False) or b"{}", most=MAX_REQUEST)
        if not isinstance(parameters, dict):
            raise BadRequest("", "must be a JSON object")
        result = services.operations(name, g.operator_uid, parameters)
        # Not in canonical form: the members keep the order in which people want to read them.
        return Response(json.dumps({"result": result}), mimetype="application/json")

    return blueprint
