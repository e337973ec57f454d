"""The application factory."""

import secrets

from flask import Flask, Response

from ca_service.api import problems
from ca_service.api.enrolment import enrolment
from ca_service.api.log import log
from ca_service.api.operator import operator
from ca_service.api.publication import publication
from ca_service.api.services import Services
from vtpm.wire.enrollment import MAX_BODY


def create_app(services: Services) -> Flask:
    """Make the Flask application of a CA.

    The caller runs `Enroller.recover` first: a process that serves has closed what a dead one left open.
    """
    app = Flask("ca_service", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.config["MAX_FORM_MEMORY_SIZE"] = 0
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.url_map.strict_slashes = True
    problems.install(app)
    app.register_blueprint(enrolment(services))
    app.register_blueprint(publication(services))
    app.register_blueprint(log(services))
    app.register_blueprint(operator(services))

    @app.after_request
    def common_headers(response: Response) -> Response:
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Request-Id"] = secrets.token_hex(8)
        return response

    return app
