"""From errors to problem documents (RFC 9457), by one table.

What the table does not know becomes a generic 500: its text goes to the log and never leaves the process.
"""

from http import HTTPStatus

import structlog
from flask import Flask, Response, has_request_context
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from ca_service.api.asked import asked
from ca_service.api.journal import KIND
from ca_service.api.negotiation import NotOffered, NotTaken, methods_of
from ca_service.api.whole import Whole
from ca_service.judgment import BadRequest, Conflict, NotFound, Refused, TooMany, Unavailable, VtpmCaError
from ca_service.service import OPERATOR
from ca_service.store import Taken
from vtpm.wire.encoding import canonical
from vtpm.wire.enrollment import PROBLEM_MEDIA_TYPE, PROBLEM_TYPE, Problem
from vtpm.wire.errors import WireError

RETRY_AFTER_S = 1
"""What ``Retry-After`` says with 503."""

_MOST_DETAIL = 512


_TABLE: tuple[tuple[type[Exception], HTTPStatus, str], ...] = (
    (BadRequest, HTTPStatus.BAD_REQUEST, "The request is malformed"),
    (Refused, HTTPStatus.FORBIDDEN, "The request is refused"),
    (Conflict, HTTPStatus.CONFLICT, "The request contradicts an earlier one"),
    (NotFound, HTTPStatus.NOT_FOUND, "There is no such object"),
    (TooMany, HTTPStatus.TOO_MANY_REQUESTS, "Too many requests"),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE, "The service cannot do this now"),
    (Taken, HTTPStatus.SERVICE_UNAVAILABLE, "The service cannot do this now"),
)

_HTTP = {
    HTTPStatus.BAD_REQUEST: ("malformed", "The request is malformed", "it cannot be read"),
    HTTPStatus.NOT_FOUND: ("not-found", "There is no such object", "there is nothing at this path"),
    HTTPStatus.METHOD_NOT_ALLOWED: (
        "method-not-allowed",
        "The method is not allowed here",
        "the field Allow has those that are",
    ),
    HTTPStatus.NOT_ACCEPTABLE: ("not-acceptable", "No form that the client takes", "see Accept"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        "too-large",
        "The request is too large",
        "the content is larger than this call takes",
    ),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: (
        "unsupported-media-type",
        "The content has another form",
        "see Content-Type",
    ),
}
"""Code, title and detail of what the framework refuses."""

_log = structlog.get_logger(__name__)


def _printable(text: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:_MOST_DETAIL])


def _told(error: VtpmCaError) -> str:
    """What lies where on the CA's machine is for its operators to know, and for the log."""
    inside = isinstance(error, Unavailable) and "/" in error.detail
    if inside and not (has_request_context() and asked().environ.get(OPERATOR)):
        return "the service cannot do this now; its log says why"
    return error.detail


def _problem(error: VtpmCaError, status: HTTPStatus, title: str) -> Problem:
    return Problem(
        type=PROBLEM_TYPE + error.code,
        title=title,
        status=int(status),
        detail=_printable(_told(error)),
        code=error.code,
        rule=error.rule if isinstance(error, Refused) else "",
        decision_id=error.decision_id if isinstance(error, Refused) else "",
        pointer=_printable(error.path) if isinstance(error, BadRequest) else "",
        retryable=isinstance(error, TooMany | Unavailable | Taken)
        or (isinstance(error, Refused) and error.retryable),
    )


def problem_of(error: Exception) -> Problem:
    """The problem document of an error."""
    if isinstance(error, WireError):
        error = BadRequest(error.path, error.problem)
    if isinstance(error, VtpmCaError):
        for kind, status, title in _TABLE:
            if isinstance(error, kind):
                if isinstance(error, Taken):
                    error = Unavailable("the CA is too busy with this")
                return _problem(error, status, title)
    if isinstance(error, HTTPException) and error.code in _HTTP:
        status = HTTPStatus(error.code)
        code, title, detail = _HTTP[status]
        if isinstance(error, NotOffered | NotTaken):
            detail = error.detail
        return Problem(PROBLEM_TYPE + code, title, int(status), detail, code)
    return Problem(
        type=PROBLEM_TYPE + "internal",
        title="Internal error",
        status=int(HTTPStatus.INTERNAL_SERVER_ERROR),
        detail="the CA failed to answer; its log says why",
        code="internal",
    )


def respond(error: Exception) -> Response:
    """The response for an error; logs once what the client does not get to see."""
    problem = problem_of(error)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        kind = f"request failed {type(error).__name__}"
        _log.error("request failed", exc_info=error, **{KIND: kind})
    if has_request_context():
        asked().problem = _for_the_log(problem, error)
    response = Whole(canonical(problem.to_json()), problem.status, content_type=PROBLEM_MEDIA_TYPE)
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = methods_of(error.valid_methods)
    if isinstance(error, NotTaken):
        response.headers["Accept"] = error.taken
    if problem.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        wait = error.retry_after_s if isinstance(error, TooMany) else RETRY_AFTER_S
        response.headers["Retry-After"] = str(wait)
    return response


def _for_the_log(problem: Problem, error: Exception) -> dict[str, str]:
    """What the request's line says of it; why the service cannot do something is the operator's to know.

    So is which limit somebody met: who is refused hears no more than that it was too often.
    """
    reason = getattr(error, "detail", "") if problem.status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    facts = {"code": problem.code, "rule": problem.rule, "decision_id": problem.decision_id, "reason": reason}
    if isinstance(error, TooMany):
        facts |= {"limit": error.limit, "limited": error.limited}
    return {name: value for name, value in facts.items() if value}


def install(app: Flask) -> None:
    """Answer every error of the application by `respond`."""
    app.register_error_handler(Exception, respond)
