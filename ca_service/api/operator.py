"""What operators do through the running server: over the CA's Unix socket, or by a certificate of their own.

Which connection is an operator's, and whose, the listener has found out (`ca_service.service`). On the listeners for
others these paths do not exist.
"""

import json

from flask import Blueprint, Response

from ca_service.api.asked import asked
from ca_service.api.calls import JSON, OPERATION
from ca_service.api.problems import respond
from ca_service.api.services import Services
from ca_service.judgment import BadRequest, NotFound, VtpmCaError
from ca_service.operations import MAX_REQUEST, NO_OPERATION
from ca_service.service import OPERATOR
from vtpm.wire.encoding import canonical, parse_json


def operator(services: Services) -> Blueprint:
    """The blueprint of the operations: ``POST /operator/v1/<name>`` with a JSON object of parameters."""
    blueprint = Blueprint("operator", __name__)

    @blueprint.before_request
    def only_operators() -> None:
        request = asked()
        name = request.environ.get(OPERATOR)
        if not isinstance(name, str) or not name:
            raise NotFound("there is nothing here")
        request.by = name

    @blueprint.errorhandler(VtpmCaError)
    def explain(error: VtpmCaError) -> Response:
        """An operator also learns what to do about it."""
        response = respond(error)
        if error.remedy:
            response.data = canonical({**json.loads(response.data), "remedy": error.remedy})
        return response

    @OPERATION.on(blueprint)
    def operation(name: str) -> Response:
        request = asked()
        parameters = parse_json(request.content(MAX_REQUEST) or b"{}", most=MAX_REQUEST)
        if not isinstance(parameters, dict):
            raise BadRequest("", "must be a JSON object")
        try:
            result = services.operations(name, request.by, parameters)
        except BadRequest as error:
            if error.code != NO_OPERATION:
                raise
            # What is named wrongly is the path.
            raise NotFound(error.detail, code=NO_OPERATION) from None
        # Not in canonical form: the members keep the order in which people want to read them.
        return Response(json.dumps({"result": result}), mimetype=JSON)

    return blueprint
