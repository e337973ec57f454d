"""The KBS over HTTP: Trustee's paths, cookie, statuses and error bodies (protocol version 0.4.0)."""

import logging

from flask import Flask, Response, json, request
from werkzeug.exceptions import HTTPException

from vtpm.kbs.broker import Broker, Credentials
from vtpm.kbs.directory import Kbs
from vtpm.kbs.errors import RcarError
from vtpm.kbs.sessions import Clock, Entropy, Session
from vtpm.wire.rcar import MAX_BODY, challenge_message, problem, token_message

COOKIE = "kbs-session-id"
PREFIX = "/kbs/v0/"
_BEARER = "Bearer "

_log = logging.getLogger("vtpm.kbs")


def create_app(kbs: Kbs, clock: Clock, entropy: Entropy) -> Flask:
    """The WSGI application of one KBS.

    Sessions live in it, so one process serves a KBS at a time; threads are fine.

    Args:
        kbs: keys, policy and resources.
        clock: the present time, aware.
        entropy: random bytes for nonces and seals.
    """
    app = Flask("vtpm.kbs", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    broker = Broker(kbs, clock, entropy)
    app.extensions["kbs-broker"] = broker

    def answer(path: str) -> Response:
        return _answer(broker, path)

    app.add_url_rule(
        f"{PREFIX}<path:path>",
        "answer",
        answer,
        methods=["GET", "POST", "PUT", "DELETE"],
        provide_automatic_options=False,
    )
    app.add_url_rule("/healthz", "healthz", lambda: Response(status=200))
    app.register_error_handler(RcarError, _on_refusal)
    app.register_error_handler(Exception, _on_accident)
    return app


def _answer(broker: Broker, path: str) -> Response:
    plugin, *rest = path.split("/")
    cookie = request.cookies.get(COOKIE)
    match request.method, plugin:
        # Trustee looks at the first segment alone.
        case "POST", "auth":
            session = broker.auth(request.get_data())
            return _with_cookie(_reply(challenge_message(session.nonce)), session)
        case "POST", "attest":
            session = broker.attest(cookie, request.get_data())
            return _with_cookie(_reply(token_message(session.token or "")), session)
        case "GET", "resource":
            return _reply(broker.resource("/".join(rest), Credentials(cookie, _bearer())).to_json())
        case "POST" | "DELETE", "resource":
            detail = "admin access denied for endpoint resource: there is none over HTTP"
            raise RcarError("AdminAuthAccess", detail, rule="kbs.admin")
        case _, "resource":
            raise RcarError("PluginInternalError", "Plugin internal error", rule="kbs.method")
        case _:
            raise RcarError("PluginNotFound", f"Plugin {_shown(plugin)} not found", status=404)


def _bearer() -> str | None:
    header = request.headers.get("Authorization", "")
    return header.removeprefix(_BEARER) if header.startswith(_BEARER) else None


def _shown(text: str) -> str:
    """A name from outside, fit for an error body."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:64])


def _reply(value: dict[str, object], status: int = 200) -> Response:
    return Response(json.dumps(value), status=status, content_type="application/json")


def _with_cookie(response: Response, session: Session) -> Response:
    # Expires is the only attribute that Trustee sets.
    response.set_cookie(COOKIE, session.id, expires=session.expires, path=None)
    return response


def _on_refusal(error: RcarError) -> Response:
    _log.warning("refused %s: %s %s", error.variant, error.rule, error.detail)
    return _reply(problem(error.variant, error.detail), error.status)


def _on_accident(error: Exception) -> Response:
    if isinstance(error, HTTPException):
        status = error.code or 500
        return _reply(problem("HTTPFailed", error.name), status)
    # The class alone: what an unforeseen error says may be anything.
    _log.error("failed: %s", type(error).__name__)
    return _reply(problem("PluginInternalError", "internal error"), 500)
