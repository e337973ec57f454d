"""OCSP over HTTP (RFC 6960, appendix A; RFC 5019, sections 5 and 6 for what caches may keep).

Whatever goes wrong with a request is said in OCSP's own words, unsigned as they are; HTTP only says that a request is
too large or of another media type.
"""

import base64
import binascii
import hashlib

import structlog
from flask import Blueprint, Response
from werkzeug.exceptions import HTTPException

from ca_service.api.asked import asked
from ca_service.api.calls import OCSP_GET, OCSP_GET_FROM, OCSP_POST, OCSP_POST_TO, OCSP_RESPONSE
from ca_service.api.limiting import asker
from ca_service.api.problems import respond
from ca_service.api.services import Services
from ca_service.enrollment.pace import RateLimit
from ca_service.judgment import BadRequest, NotFound, TooMany, Unavailable
from ca_service.status import MAX_REQUEST, Failure, Reply, failure_response, parse_request, reply_to
from ca_service.store import Taken

_AGE_S = 600
"""Longest that an answer may be kept, in seconds: so long may a cache hide a revocation."""

_log = structlog.get_logger(__name__)


def ocsp(services: Services) -> Blueprint:
    """The blueprint of the OCSP service; empty for a CA that offers none."""
    blueprint = Blueprint("ocsp", __name__)
    if not services.authority.publication.ocsp:
        return blueprint
    limit = RateLimit(services.limits.requests_per_second, services.limits.burst)

    @blueprint.before_request
    def bound() -> None:
        limit.spend(asker(asked().remote_addr))

    @blueprint.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return respond(error)
        return _answer(failure_response(_failure(error)))

    @OCSP_POST.on(blueprint)
    @OCSP_POST_TO.on(blueprint)
    def posted(skid: str | None) -> Response:
        return _answer(_reply(services, asked().content(MAX_REQUEST), skid).der)

    # What is asked is in Base64, whose slashes may come in pairs.
    @OCSP_GET.on(blueprint)
    @OCSP_GET_FROM.on(blueprint)
    def got(encoded: str, skid: str | None) -> Response:
        try:
            der = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest("request", "must be Base64") from None
        return _cacheable(_reply(services, der, skid))

    return blueprint


def _reply(services: Services, der: bytes, skid: str | None) -> Reply:
    question = parse_request(der)
    with services.store.read() as tx:
        return reply_to(tx, services.authority, question, services.enroller.desk.now(), skid)


def _failure(error: Exception) -> Failure:
    if isinstance(error, BadRequest):
        return Failure.MALFORMED_REQUEST
    if isinstance(error, NotFound):
        return Failure.UNAUTHORIZED
    if isinstance(error, TooMany | Unavailable | Taken):
        return Failure.TRY_LATER
    _log.error("an OCSP request failed", error=type(error).__name__, exc_info=error)
    return Failure.INTERNAL_ERROR


def _answer(der: bytes) -> Response:
    return Response(der, mimetype=OCSP_RESPONSE)


def _cacheable(reply: Reply) -> Response:
    response = _answer(reply.der)
    if reply.lasting:
        life = int((reply.next_update - reply.this_update).total_seconds())
        age = min(_AGE_S, life // 2)
        response.headers["Cache-Control"] = f"max-age={age}, public, no-transform, must-revalidate"
        response.last_modified = reply.this_update
        response.expires = reply.next_update
        response.set_etag(hashlib.sha256(reply.der).hexdigest())
    return response
