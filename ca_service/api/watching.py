"""What is kept of each request: its place in the counts, and one line in the log.

A request has an id of our own, also in its answer; what a client calls its request is nobody's business here. Lines
about requests that prove nothing come out of a budget (see `journal`), so a flood fills nothing; the counts have all.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

import structlog
from flask import Flask, Response

from ca_service.api import noting
from ca_service.api.asked import Asked, asked
from ca_service.api.journal import KIND, UNPROVEN, LineBudget
from ca_service.api.tally import Tally
from ca_service.enrollment.observing import Alarmed, Certified, Decided, Enrolled, Event, Unproven
from ca_service.service import OPERATOR

REQUESTS = "requests"
SECONDS = "seconds"
SECONDS_SUM = "seconds_sum"
DECISIONS = "decisions"
CERTIFICATES = "certificates"
REFUSALS = "refusals"
ALARMS = "alarms"
KDS = "kds"

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the classes of durations, in seconds; what takes longer is in the last class."""

LONGER = "+Inf"

_CLASSES = (*map(str, BOUNDS), LONGER)

OTHER = "other"
"""The route of everything that leads nowhere, and the method of everything that we do not know."""

_BROKEN = HTTPStatus.INTERNAL_SERVER_ERROR
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
_SPOKEN = frozenset({"enrolment", "operator"})
"""Blueprints of which each request is logged. All else is asked all the time, or by everybody: only what fails is."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Counted:
    """The observer of a server: counts what happens, and lets the line of the request say which decision it was.

    Attributes:
        tally: where it is counted.
    """

    tally: Tally

    def __call__(self, event: Event) -> None:
        """See `ca_service.enrollment.observing`."""
        match event:
            case Unproven(rule):
                self.tally.add(REFUSALS, (rule,))
                noting.note(rule=rule)
            case Decided(stage, admitted, rule, decision_id):
                self.tally.add(DECISIONS, (stage, "admitted" if admitted else "refused", rule))
                # Now the request has proven something, and what it made the CA store has limits of its own.
                known = {"rule": rule} if rule else {}
                noting.note(**{UNPROVEN: False}, decision_id=decision_id, **known)
            case Enrolled(enrollment_id):
                noting.note(enrollment_id=enrollment_id)
            case Certified(enrollment_id, certificates):
                self.tally.add_all((CERTIFICATES, each, 1.0) for each in certificates)
                noting.note(**{UNPROVEN: False}, enrollment_id=enrollment_id)
            case Alarmed(kind):
                self.tally.add(ALARMS, (kind,))


def count_kds(tally: Tally) -> Callable[[bool], None]:
    """What tells the counts whether a VCEK that was asked for came."""
    return lambda came: tally.add(KDS, ("fetched" if came else "failed",))


def route_of(rule: object) -> str:
    """A URL rule as a label: ``/v1/enrollments/{enrollment_id}``; `OTHER` for none."""
    return OTHER if rule is None else _route(str(rule))


@lru_cache(maxsize=256)
def _route(text: str) -> str:
    while "<" in text:
        before, _, rest = text.partition("<")
        inner, _, after = rest.partition(">")
        text = f"{before}{{{inner.rpartition(':')[2]}}}{after}"
    return text


def watch(app: Flask, tally: Tally, budget: LineBudget) -> None:
    """Count and log the requests of an application; to be called before anything else is registered."""

    @app.before_request
    def begin() -> None:
        request = asked()
        # By who asks and not by what for: over TCP, anybody may ask for an operation.
        marks = {} if request.environ.get(OPERATOR) else {UNPROVEN: True}
        noting.begin(request_id=request.request_id, **marks)

    @app.after_request
    def end(response: Response) -> Response:
        request = asked()
        seconds, status = time.monotonic() - request.begun, response.status_code
        route = route_of(request.url_rule)
        method = request.method if request.method in _METHODS else OTHER
        _count(tally, route, method, status, seconds)
        if _is_spoken_of(request, route, status):
            _write(request, route, method, status, seconds)
        for kind, number in budget.overdue():
            noting.note(**{UNPROVEN: False})
            _log.info("lines left out", of=kind, suppressed=number)
        return response


def _count(tally: Tally, route: str, method: str, status: int, seconds: float) -> None:
    tally.add_all(
        [
            (REQUESTS, (route, method, str(status)), 1.0),
            (SECONDS, (route, _CLASSES[bisect_left(BOUNDS, seconds)]), 1.0),
            (SECONDS_SUM, (route,), seconds),
        ]
    )


def _is_spoken_of(request: Asked, route: str, status: int) -> bool:
    if status >= _BROKEN:
        return True
    return route == OTHER or request.blueprint in _SPOKEN


def _write(request: Asked, route: str, method: str, status: int, seconds: float) -> None:
    facts: dict[str, object] = {
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1000, 1),
        "client": request.remote_addr or "unix",
        **_named(request.view_args or {}),
        **request.problem,
    }
    if request.by:
        facts["by"] = request.by
    say = _log.error if status >= _BROKEN else _log.info
    kind = f"{route} {status} {facts.get('rule') or noting.noted().get('rule') or facts.get('code', '')}"
    say("request", **{KIND: kind}, **facts)


def _named(view_args: Mapping[str, object]) -> dict[str, object]:
    """What the path names: the enrolment of an activation, the operation of an operator."""
    found = {"enrollment_id": view_args.get("enrollment_id"), "operation": view_args.get("name")}
    return {name: value for name, value in found.items() if value is not None}
