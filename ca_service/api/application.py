"""The application factory."""

from collections.abc import Callable, Collection
from contextvars import Context
from http import HTTPStatus
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter

from ca_service.api import browsers, paths, problems
from ca_service.api.asked import Asked, asked
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
from ca_service.api.whole import Whole
from vtpm.wire.enrollment import MAX_BODY

_ALWAYS = ("/healthz", "/metrics", DOCUMENT.rule)
"""What is answered even when the database has turned out to be an old one; so is the status page, which says so."""


class _NoSession(SessionInterface):
    """No client has a session, whatever cookies it sends."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:  # noqa: ARG002 - Flask's
        """The one that cannot hold anything."""
        return self._none


class _NothingShared:
    """Flask's `g`, which here would be that of all requests: nothing can be put into it."""

    __slots__ = ()


class _Application(Flask):
    """Flask, with an answer to OPTIONS that has no content and says so, and without what we have no use for."""

    request_class = Asked
    response_class = Whole
    session_interface = _NoSession()
    app_ctx_globals_class = _NothingShared  # type: ignore[assignment] # Flask asks nothing else of it

    def __init__(self, name: str) -> None:
        super().__init__(name, static_folder=None)
        self._begun = Context()
        self._begun.run(lambda: self.app_context().push())

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Flask looks at the Host field, too, which clients choose; here the path alone says what is meant."""
        if request is None:
            # Nothing is addressed outside of a request.
            return None
        return MapAdapter(self.url_map, "localhost", "/", "", "http", request.path, request.method)

    def wsgi_app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """Answer in a context of its own, so that what the log knows of a request it does not know of the next.

        The application is there already, so Flask need not make a context of it for each request.
        """
        return self._begun.copy().run(super().wsgi_app, environ, start_response)

    def full_dispatch_request(self) -> Response:
        """Flask's steps from a request to its response, without signals: nobody listens to them here."""
        try:
            found = self.preprocess_request()
            if found is None:
                found = self.dispatch_request()
        except Exception as error:  # noqa: BLE001 - whatever it is has an answer
            found = self.handle_user_exception(error)
        return self.process_response(self.make_response(found))

    def do_teardown_request(self, exc: BaseException | None = None) -> None:
        """Nothing: no request of ours leaves anything open."""

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
    app = _Application("ca_service")
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
        request = asked()
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

    return app
