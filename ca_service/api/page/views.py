"""The pages: an overview, and one for each refusal, certificate and instance that it leads to."""

import hashlib
import re
from datetime import datetime
from importlib.resources import files
from typing import Any, Final

from flask import Blueprint, Response, redirect, request, url_for

from ca_service.api.asked import asked
from ca_service.api.page.rendering import environment, headline
from ca_service.api.problems import problem_of, respond
from ca_service.api.services import Services
from ca_service.judgment import BadRequest, NotFound, VtpmCaError
from ca_service.operations import overview as o
from ca_service.operations.activity import Activity
from ca_service.operations.health_model import HealthContext
from ca_service.profiles import serial_hex
from ca_service.service import OPERATOR
from ca_service.store import certificate, certificates_of, certified, decision, decisions_of, refusals
from vtpm.wire.errors import WireError
from vtpm.wire.message_fields import parse_time, time_text

_POLICY: Final = (
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
_CSS: Final = (files("ca_service.api.page") / "status.css").read_bytes()
_CSS_NAME: Final = hashlib.sha256(_CSS).hexdigest()[:16]
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_SERIAL: Final = re.compile(r"[0-9a-f]{1,40}\Z")
_POSITION: Final = re.compile(r"[0-9]{1,18}\Z")
_INSTANCE: Final = re.compile(r"[0-9]{1,18}\Z")


def page(services: Services) -> Blueprint:
    """The blueprint of the status page."""
    blueprint = Blueprint("page", __name__)
    pages = _Pages(services)

    @blueprint.before_request
    def only_operators() -> None:
        if not request.environ.get(OPERATOR):
            raise NotFound("there is nothing here")
        asked().let_in = True

    @blueprint.after_request
    def headers(response: Response) -> Response:
        response.headers.update(_HEADERS)
        return response

    @blueprint.errorhandler(VtpmCaError)
    def explain(error: VtpmCaError) -> Response:
        if not asked().let_in:
            # Whoever was turned away at the door does not even see whose it is.
            return respond(error)
        problem = problem_of(error)
        return pages.show("problem.html", problem.status, problem=problem, remedy=error.remedy)

    blueprint.add_url_rule("/", "root", lambda: redirect(url_for("page.overview")))
    blueprint.add_url_rule("/status", "overview", pages.overview)
    blueprint.add_url_rule("/status/refusals", "refusals", pages.refusals)
    blueprint.add_url_rule("/status/certificates", "certificates", pages.certificates)
    blueprint.add_url_rule("/status/decisions/<decision_id>", "decision", pages.decision)
    blueprint.add_url_rule("/status/certificates/<serial>", "certificate", pages.certificate)
    blueprint.add_url_rule("/status/instances/<number>", "instance", pages.instance)
    blueprint.add_url_rule("/status/find", "find", pages.find)
    blueprint.add_url_rule(f"/status/{_CSS_NAME}.css", "style", _style)
    return blueprint


def _style() -> Response:
    response = Response(_CSS, mimetype="text/css")
    # Its name is made of its content.
    response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
    return response


class _Pages:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._environment = environment()
        self._health, self._activity = o.HealthKeeper(), Activity()

    def show(self, template: str, status: int = 200, **values: object) -> Response:
        """A page by its template."""
        authority = self._services.authority
        text = self._environment.get_template(template).render(
            ca_id=authority.ca_id,
            mode=authority.mode,
            organization=authority.organization,
            now=self._now(),
            stopped=self._services.enroller.desk.log.stopped,
            url_for=url_for,
            **values,
        )
        return Response(text, status, mimetype="text/html")

    def _now(self) -> datetime:
        return self._services.enroller.desk.now()

    def _context(self) -> HealthContext:
        services, authority = self._services, self._services.authority
        desk = services.enroller.desk
        return HealthContext(
            authority,
            lambda: authority,
            lambda: services.store,
            desk.now(),
            desk.judge.collateral,
            services.store.url,
        )

    def overview(self) -> Response:
        """The first page. Whatever is wrong, it says so instead of failing."""
        context = self._context()
        health = self._health.read(context)
        found = o.attempt(lambda: self._read(context))
        unread = found if isinstance(found, str) else ""
        return self.show(
            "overview.html",
            503 if unread else 200,
            health=health,
            headline=headline(health.counts),
            left_out=o.LEFT_OUT,
            unread=unread,
            ocsp=self._services.authority.publication.ocsp,
            root_ends=self._services.authority.root.not_valid_after_utc,
            **({} if isinstance(found, str) else found),
        )

    def _read(self, context: HealthContext) -> dict[str, Any]:
        with self._services.store.read() as tx:
            return {
                "lists": o.read_lists(tx, context),
                "days": self._activity.read(tx, context.at),
            }

    def refusals(self) -> Response:
        """Refusals, the newest first; ``before``: time and id of the last one of the page before."""
        text = request.args.get("before", "")
        with self._services.store.read() as tx:
            rows = refusals(tx, o.PAGE + 1, _place(text) if text else None)
        further = rows[o.PAGE - 1] if len(rows) > o.PAGE else None
        return self.show(
            "refusals.html",
            lines=[o.decision_line(row) for row in rows[: o.PAGE]],
            first=not text,
            older="" if further is None else f"{time_text(further.at)},{further.id}",
        )

    def certificates(self) -> Response:
        """Certificates, the newest first; ``before``: a position in the log."""
        text = request.args.get("before", "")
        if text and not _POSITION.match(text):
            raise BadRequest("before", "must be a position in the log")
        with self._services.store.read() as tx:
            head = tx.log.head()
            size = 0 if head is None else head.size
            end = min(int(text), size) if text else size
            rows = certified(tx, o.PAGE, end=end, window=o.WINDOW)
        # What lies between is no certificate, so the next page begins behind it.
        last = rows[-1].position if len(rows) == o.PAGE else max(0, end - o.WINDOW)
        return self.show(
            "certificates.html",
            lines=[o.certificate_line(row) for row in rows],
            first=not text,
            window=o.WINDOW,
            older=str(last) if last else "",
        )

    def decision(self, decision_id: str) -> Response:
        """A decision with every check that was made for it."""
        with self._services.store.read() as tx:
            row = decision(tx, decision_id) if _ID.match(decision_id) else None
        if row is None:
            raise NotFound("there is no decision with this id")
        return self.show("decision.html", line=o.decision_line(row), findings=o.finding_lines(row.trace))

    def certificate(self, serial: str) -> Response:
        """A certificate, with its revocation if it is revoked."""
        with self._services.store.read() as tx:
            row = certificate(tx, serial) if _SERIAL.match(serial) else None
            revocation = None if row is None else tx.revocations.get(row.issuer, row.serial)
        if row is None:
            raise NotFound("there is no certificate with this serial number")
        return self.show("certificate.html", line=o.certificate_line(row), revocation=revocation)

    def instance(self, number: str) -> Response:
        """An instance: who lives there, its certificates, its last decisions."""
        if not _INSTANCE.match(number):
            raise NotFound("there is no instance with this number")
        with self._services.store.read() as tx:
            row = tx.ledger.instances_by_id([int(number)]).get(int(number))
            if row is None:
                raise NotFound("there is no instance with this number")
            decided = decisions_of(tx, row.kbs_id, row.resource, row.salt, o.PAGE)
            issued, tpms = certificates_of(tx, row.id, o.PAGE), tx.ledger.tpms(row.id)
        return self.show(
            "instance.html",
            row=row,
            tpms=tpms[: -o.PAGE - 1 : -1],
            decisions=[o.decision_line(found) for found in decided],
            certificates=[o.certificate_line(found) for found in issued],
        )

    def find(self) -> Any:
        """Lead to what a person has the name of: a decision, a certificate, or an instance."""
        words = request.args.get("q", "").split()
        with self._services.store.read() as tx:
            match words:
                case [kbs_id, resource]:
                    instance = tx.ledger.instance(kbs_id, resource)
                    if instance is not None:
                        return redirect(url_for("page.instance", number=instance.id))
                case [word]:
                    if _ID.match(word) and decision(tx, word) is not None:
                        return redirect(url_for("page.decision", decision_id=word))
                    serial = _serial(word)
                    if serial and certificate(tx, serial) is not None:
                        return redirect(url_for("page.certificate", serial=serial))
        raise NotFound(
            "there is no decision, certificate or instance with this name",
            remedy="Give a decision's id, a certificate's serial number in hex, or a KBS's id and a resource.",
        )


def _place(text: str) -> tuple[datetime, str]:
    at, _, decision_id = text.partition(",")
    if not _ID.match(decision_id):
        raise BadRequest("before", "must be a time and the id of a decision")
    try:
        return parse_time(at, "before"), decision_id
    except WireError as error:
        raise BadRequest(error.path, error.problem) from None


def _serial(word: str) -> str:
    """A serial number as the database has it, of one as OpenSSL and others write it; empty for none."""
    try:
        found = serial_hex(int(word.replace(":", ""), 16))
    except (ValueError, OverflowError):
        return ""
    return found if _SERIAL.match(found) else ""
