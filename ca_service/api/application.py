"""The application factory."""

from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, request

from ca_service.api import browsers, paths, problems
from ca_service.api.calls import DOCUMENT
from ca_service.api.document import document
from ca_service.api.enrolment import enrolment
from ca_service.api.log import log
from ca_service.api.metrics import metrics
from ca_service.api.negotiation import methods_of
from ca_service.api.ocsp import ocsp
from ca_service.api.operator import operator
from ca_service.api.page import page
from ca_service.api.publication import publication
from ca_service.api.services import Services
from ca_service.api.surfaces import ALL_SURFACES, Surface
from ca_service.api.watching import watch
from vtpm.wire.enrollment import MAX_BODY

_ALWAYS = ("/healthz", "/metrics", DOCUMENT.rule)
"""What is answered even when the database has turned out to be an old one; so is the status page, which says so."""


class _Application(Flask):
    """Flask, with an answer to OPTIONS that has no content and says so, and without coroutines."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Flask asks this before each call of a view or hook, and looks whether it is a coroutine; none of ours is."""
        return func

    def make_default_options_response(self) -> Response:
        """Say which methods there are."""
        response = super().make_default_options_response()
        response.status_code = HTTPStatus.NO_CONTENT
        response.headers["Allow"] = methods_of(response.allow)
        del response.headers["Content-Type"]
        return response


def create_app(services: Services, surfaces: Collection[Surface] = ALL_SURFACES) -> Flask:
    """Make the Flask application of a CA, with the paths of these surfaces and no others.

    Each listener has an application of its own, so that which paths exist there is no matter of what a client sends.

    The caller runs `Enroller.recover` first: a process that serves has closed what a dead one left open.
    """
    app = _Application("ca_service", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.config["MAX_FORM_MEMORY_SIZE"] = 0
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.url_map.strict_slashes = True
    # Else what is not there would be a redirect to a place that the client's Host field names.
    app.url_map.merge_slashes = False
    paths.install(app)
    watch(app, services.tally, services.budget)
    problems.install(app)
    if Surface.OPERATION in surfaces:
        browsers.guard(app)

    @app.before_request
    def on_the_present_database() -> None:
        # An old database gives out old lists and certificates as if they were in force.
        if request.path not in _ALWAYS and request.blueprint != "page":
            services.enroller.desk.log.check_going()

    if Surface.ENROLMENT in surfaces:
        app.register_blueprint(enrolment(services))
    if Surface.PUBLICATION in surfaces:
        app.register_blueprint(publication(services))
        app.register_blueprint(ocsp(services))
        app.register_blueprint(log(services))
    if not {Surface.ENROLMENT, Surface.OPERATION}.isdisjoint(surfaces):
        app.register_blueprint(document())
    if Surface.OPERATION in surfaces:
        app.register_blueprint(operator(services))
        app.register_blueprint(metrics(services))
        app.register_blueprint(page(services))

    @app.after_request
    def common_headers(response: Response) -> Response:
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["X-Content-Type-Options"] = "nosniff"
        if g.get("varies"):
            response.vary.add("Accept")
        return response

    return app
