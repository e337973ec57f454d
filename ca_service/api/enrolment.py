"""The ``/v1`` protocol: nonces, enrolments, activations."""

from http import HTTPStatus

from flask import Blueprint, Response

from ca_service.api.asked import asked
from ca_service.api.calls import ACTIVATION, ENROLLMENTS, JSON, NONCES, STATE
from ca_service.api.limiting import asker
from ca_service.api.services import Services
from ca_service.api.whole import Whole
from ca_service.enrollment.pace import RateLimit
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import MAX_BODY


def _json(body: bytes, status: int) -> Response:
    return Whole(body, status, content_type=JSON)


def enrolment(services: Services) -> Blueprint:
    """The blueprint of the enrolment protocol."""
    blueprint = Blueprint("enrolment", __name__)
    enroller = services.enroller
    limit = RateLimit(services.limits.requests_per_second, services.limits.burst)

    @blueprint.before_request
    def bound() -> None:
        request = asked()
        if request.method == "POST":
            limit.spend(asker(request.remote_addr))

    @NONCES.on(blueprint)
    def nonces() -> Response:
        return _json(canonical(enroller.new_nonce().to_json()), HTTPStatus.CREATED)

    @ENROLLMENTS.on(blueprint)
    def enrollments() -> Response:
        reply = enroller.enroll(asked().content(MAX_BODY))
        return _json(reply.body, reply.status)

    @ACTIVATION.on(blueprint)
    def activation(enrollment_id: str) -> Response:
        return _json(enroller.activate(enrollment_id, asked().content(MAX_BODY)), HTTPStatus.OK)

    @STATE.on(blueprint)
    def state(enrollment_id: str) -> Response:
        return _json(canonical(enroller.state(enrollment_id).to_json()), HTTPStatus.OK)

    return blueprint
