"""The table of calls: what there is, on which surface, in which forms, and how it may fail.

The blueprints take their paths from here, and so does the OpenAPI document. `Call.on` puts a view behind a call; before
the view runs, the form of the request is checked and that of the answer chosen, as the call says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Response

from ca_service.api.asked import asked
from ca_service.api.negotiation import check_content, chosen
from ca_service.api.surfaces import Surface

JSON: Final = "application/json"
PKIX_CERT: Final = "application/pkix-cert"
PKIX_CRL: Final = "application/pkix-crl"
PEM_CHAIN: Final = "application/pem-certificate-chain"
OCSP_REQUEST: Final = "application/ocsp-request"
OCSP_RESPONSE: Final = "application/ocsp-response"
CHECKPOINT: Final = "text/plain"
METRICS: Final = "text/plain"
OPEN_METRICS: Final = "application/openmetrics-text"

CACHED: Final = ("ETag", "Cache-Control", "Last-Modified")
"""Header fields of what caches may keep."""

View = Callable[..., Response]


@dataclass(frozen=True)
class Answer:
    """A good answer.

    Attributes:
        means: one sentence.
        forms: media types, the one that a client without a wish gets first; with the name of the message in
            `ca_service.api.contract.messages`, or "" for what is no JSON of ours.
        headers: names of header fields that it has.
    """

    means: str
    forms: Mapping[str, str]
    headers: tuple[str, ...] = ("Cache-Control",)


@dataclass(frozen=True)
class Call:
    """One method on one path.

    Attributes:
        name: of the call, in the document and of the view in its blueprint.
        method: of HTTP; HEAD goes with GET.
        rule: the path as Flask has it.
        surface: where it is served.
        means: one sentence.
        answers: good answers by status.
        problems: how it may fail, besides what any call may meet: statuses.
        takes: media type of its content, "" if it has none.
        message: name of the content's message, as in `Answer`.
        needed: whether there must be content.
        strict: whether a client that takes none of the forms gets 406. Not where general libraries fetch what has one
            form alone: they send whatever they send everywhere (RFC 9110, section 12.5.1 leaves it open).
        defaults: values of variable parts that this path does not have.
        merge_slashes: None, or False for a path whose slashes may come in pairs.
    """

    name: str
    method: str
    rule: str
    surface: Surface
    means: str
    answers: Mapping[int, Answer]
    problems: tuple[int, ...] = ()
    takes: str = ""
    message: str = ""
    needed: bool = True
    strict: bool = True
    defaults: Mapping[str, object] = field(default_factory=dict)
    merge_slashes: bool | None = None

    @property
    def offered(self) -> tuple[str, ...]:
        """Media types of its good answers."""
        return tuple(dict.fromkeys(form for answer in self.answers.values() for form in answer.forms))

    def on(self, blueprint: Blueprint) -> Callable[[View], View]:
        """Put a view behind this call. `chosen_form` tells it which form the client wants."""
        offered = self.offered
        varies = len(offered) > 1

        def add(view: View) -> View:
            @wraps(view)
            def checked(**named: Any) -> Response:
                request = asked()
                if self.takes:
                    check_content(request, self.takes, needed=self.needed)
                request.varies = varies
                request.chosen = chosen(request, offered) if self.strict else offered[0]
                return view(**named)

            options: dict[str, Any] = {"defaults": dict(self.defaults)} if self.defaults else {}
            if self.merge_slashes is not None:
                options["merge_slashes"] = self.merge_slashes
            blueprint.add_url_rule(self.rule, self.name, checked, methods=[self.method], **options)
            return view

        return add


def chosen_form() -> str:
    """The media type that the client of this request wants."""
    return asked().chosen


def _json(means: str, message: str, *headers: str) -> Answer:
    return Answer(means, {JSON: message}, headers or ("Cache-Control",))


_WRONG: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
_UNKNOWN: Final = (HTTPStatus.NOT_FOUND,)

NONCES: Final = Call(
    "nonces",
    "POST",
    "/v1/nonces",
    Surface.ENROLMENT,
    "Get a nonce for evidence. It costs the CA nothing to give one; only a used one is stored.",
    {201: _json("a nonce", "NONCE")},
)
ENROLLMENTS: Final = Call(
    "enrollments",
    "POST",
    "/v1/enrollments",
    Surface.ENROLMENT,
    "Enrol a TPM by evidence about it. The same bytes under the same nonce get the stored answer again.",
    {
        200: _json("the stored certificates of a TPM that the CA knows", "CERTIFICATES"),
        201: _json("challenges, one for each EK", "CHALLENGES"),
    },
    (*_WRONG, HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT),
    takes=JSON,
    message="ENROLLMENT",
)
ACTIVATION: Final = Call(
    "activation",
    "POST",
    "/v1/enrollments/<hex:enrollment_id>/activation",
    Surface.ENROLMENT,
    "Answer the challenges. The same secrets again get the same bytes.",
    {200: _json("certificates of EK, IAK and IDevID", "CERTIFICATES")},
    (*_WRONG, HTTPStatus.FORBIDDEN, *_UNKNOWN, HTTPStatus.CONFLICT),
    takes=JSON,
    message="ACTIVATION",
)
STATE: Final = Call(
    "state",
    "GET",
    "/v1/enrollments/<hex:enrollment_id>",
    Surface.ENROLMENT,
    "See how far an enrolment is.",
    {200: _json("its state", "STATE")},
    _UNKNOWN,
)
DIRECTORY: Final = Call(
    "directory",
    "GET",
    "/.well-known/vtpm-ca",
    Surface.PUBLICATION,
    "See what CA this is: names, hashes of its certificates, paths, limits.",
    {200: _json("the directory", "DIRECTORY")},
)
CA_CERTIFICATE: Final = Call(
    "ca_certificate",
    "GET",
    "/ca/<hex:skid>.cer",
    Surface.PUBLICATION,
    "Get the certificate of the CA with this subject key identifier.",
    {200: Answer("the certificate in DER", {PKIX_CERT: ""}, ("ETag", "Cache-Control"))},
    _UNKNOWN,
    strict=False,
)
CRL: Final = Call(
    "crl",
    "GET",
    "/crl/<hex:skid>/<shard:shard>.crl",
    Surface.PUBLICATION,
    "Get the revocation list in force; certificates name it in their cRLDistributionPoints.",
    {200: Answer("the list in DER, the same bytes until the next", {PKIX_CRL: ""}, CACHED)},
    _UNKNOWN,
    strict=False,
)
CERTIFICATE: Final = Call(
    "certificate",
    "GET",
    "/v1/certificates/<hex:serial>",
    Surface.PUBLICATION,
    "Get an issued certificate by its serial number.",
    {
        200: Answer(
            "the certificate in DER, or with its chain in PEM",
            {PKIX_CERT: "", PEM_CHAIN: ""},
            ("ETag", "Cache-Control", "Vary"),
        )
    },
    _UNKNOWN,
)
HEALTHZ: Final = Call(
    "healthz",
    "GET",
    "/healthz",
    Surface.PUBLICATION,
    "See whether the process answers. Static.",
    {200: _json("it does", "STATUS")},
    strict=False,
)
READYZ: Final = Call(
    "readyz",
    "GET",
    "/readyz",
    Surface.PUBLICATION,
    "See whether the CA could issue now: it signs, writes, and has its lists. 503 names the check that failed.",
    {200: _json("it could", "STATUS")},
    strict=False,
)
CHECKPOINTS: Final = Call(
    "checkpoint",
    "GET",
    "/log/checkpoint",
    Surface.PUBLICATION,
    "Get the log's newest checkpoint, a signed note (C2SP tlog-checkpoint).",
    {200: Answer("the checkpoint in UTF-8", {CHECKPOINT: ""})},
    _UNKNOWN,
    strict=False,
)
_OCSP: Final = {200: Answer("OCSP's answer, or its own kind of failure (RFC 6960)", {OCSP_RESPONSE: ""})}
OCSP_POST: Final = Call(
    "ocsp_post",
    "POST",
    "/ocsp",
    Surface.PUBLICATION,
    "Ask for the status of a certificate of any issuing CA. 404 if the CA has no OCSP.",
    _OCSP,
    (*_UNKNOWN, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    takes=OCSP_REQUEST,
    strict=False,
    defaults={"skid": None},
)
OCSP_POST_TO: Final = Call(
    "ocsp_post_to",
    "POST",
    "/ocsp/<hex:skid>",
    Surface.PUBLICATION,
    "Ask for the status of a certificate of this issuing CA; certificates name this path.",
    _OCSP,
    (*_UNKNOWN, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    takes=OCSP_REQUEST,
    strict=False,
)
OCSP_GET: Final = Call(
    "ocsp_get",
    "GET",
    "/ocsp/<path:encoded>",
    Surface.PUBLICATION,
    "The same by GET (RFC 6960, appendix A): the request in Base64, escaped.",
    _OCSP,
    _UNKNOWN,
    strict=False,
    defaults={"skid": None},
    merge_slashes=False,
)
OCSP_GET_FROM: Final = Call(
    "ocsp_get_from",
    "GET",
    "/ocsp/<hex:skid>/<path:encoded>",
    Surface.PUBLICATION,
    "The same by GET, of this issuing CA.",
    _OCSP,
    _UNKNOWN,
    strict=False,
    merge_slashes=False,
)
OPERATION: Final = Call(
    "operation",
    "POST",
    "/operator/v1/<name>",
    Surface.OPERATION,
    "Do what an operator may do.",
    {200: _json("what came of it", "RESULT")},
    (*_WRONG, HTTPStatus.FORBIDDEN, *_UNKNOWN, HTTPStatus.CONFLICT),
    takes=JSON,
    needed=False,
)
METRIC: Final = Call(
    "scrape",
    "GET",
    "/metrics",
    Surface.OPERATION,
    "Counts and states for Prometheus.",
    {200: Answer("the metrics", {METRICS: "", OPEN_METRICS: ""})},
    _UNKNOWN,
    strict=False,
)
DOCUMENT: Final = Call(
    "openapi",
    "GET",
    "/openapi.json",
    Surface.ENROLMENT,
    "This document. Operators find it on their listeners, too.",
    {200: _json("OpenAPI 3.1", "DOCUMENT", "ETag", "Cache-Control")},
    strict=False,
)

CALLS: Final = (
    NONCES,
    ENROLLMENTS,
    ACTIVATION,
    STATE,
    DIRECTORY,
    CA_CERTIFICATE,
    CRL,
    CERTIFICATE,
    OCSP_POST,
    OCSP_POST_TO,
    OCSP_GET,
    OCSP_GET_FROM,
    CHECKPOINTS,
    HEALTHZ,
    READYZ,
    OPERATION,
    METRIC,
    DOCUMENT,
)
"""All calls, in the order in which people want to read them."""

EVERYWHERE: Final = (400, 406, 408, 411, 413, 414, 415, 417, 429, 431, 500, 503, 505)
"""Statuses that any call may be answered with: the request is no good HTTP, too large, too slow, too much."""
