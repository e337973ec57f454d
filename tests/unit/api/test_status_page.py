"""The status page: who may see it, what it says, and how it is made."""

import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import enrollment_world as w
import pytest
from html_pages import Page

from ca_service.api import Services, Surface, create_app
from ca_service.api.page import rendering
from ca_service.judgment import Refused, Unavailable
from ca_service.operations.activity import Activity, Day, Hour
from ca_service.operations.health import CHECKS
from ca_service.operations.health_model import Status
from ca_service.operations.overview import LEFT_OUT, HealthKeeper, cheap_checks
from ca_service.profiles import serial_hex
from ca_service.store import DecisionRow, Verdicts

OPERATOR = {"vtpm_ca.operator": "alice"}
CSS = Path(rendering.__file__).with_name("status.css").read_text()


def asking(client):
    """GETs as an operator's browser over a forwarded socket."""
    return lambda path: client.get(path, environ_overrides=OPERATOR)


@pytest.fixture
def ask(app):
    return asking(app.test_client())


def _world(ceremony, directory):
    shutil.copytree(ceremony.directory, directory)
    return w.World(directory, ceremony.authority)


@pytest.fixture(scope="module")
def calm(ceremony, tmp_path_factory):
    """A CA that has done nothing; tests leave it as it is."""
    world = _world(ceremony, tmp_path_factory.mktemp("calm") / "world")
    store = world.new_store()
    world.apply(store, world.policy())
    yield asking(create_app(Services(store, world.enroller(store))).test_client())
    store.close()


@pytest.fixture(scope="module")
def busy(ceremony, tpm, tmp_path_factory):
    """One that has issued to a TPM, refused two requests, raised an alarm, and revoked a certificate."""
    world = _world(ceremony, tmp_path_factory.mktemp("busy") / "world")
    store = world.new_store()
    world.apply(store, world.policy())
    enroller = world.enroller(store)
    issued = w.certificates(w.issue(world, enroller, tpm))
    for boot in (w.Boot(resource="elsewhere/vtpm/x", secret=bytes(32)), w.Boot(counter=0)):
        with pytest.raises(Refused):
            enroller.enroll(world.body(enroller.new_nonce().nonce, tpm, boot))
    serial = serial_hex(issued[0].serial_number)
    w.operate(world, store, "cert-revoke", serial=serial, reason="keyCompromise", cause="<b>", yes=True)
    yield asking(create_app(Services(store, enroller)).test_client())
    store.close()


def read(response, status=200):
    assert response.status_code == status, response.text
    assert response.mimetype == "text/html"
    page = Page(response.text)
    assert page.faults == []
    return page


def link(page, start):
    return next(target for target in page.links if target.startswith(start))


class TestWhoMaySee:
    PATHS = (
        "/",
        "/status",
        "/status/refusals",
        "/status/certificates",
        "/status/find?q=a",
        "/status/instances/1",
    )

    def test_for_others_it_does_not_exist(self, client):
        for path in self.PATHS:
            response = client.get(path)
            assert (response.status_code, response.mimetype) == (404, "application/problem+json"), path
            assert "test-ca" not in response.text

    @pytest.mark.parametrize("surface", [Surface.ENROLMENT, Surface.PUBLICATION])
    def test_it_is_on_no_listener_for_others(self, services, surface):
        other = asking(create_app(services, {surface}).test_client())
        for path in self.PATHS:
            assert other(path).status_code == 404

    def test_nothing_can_be_done_with_it(self, client):
        for method in ("post", "put", "delete", "patch"):
            response = getattr(client, method)("/status", environ_overrides=OPERATOR)
            assert response.status_code == 405

    def test_what_a_browser_is_told(self, calm):
        for path in ("/status", "/status/refusals", "/status/decisions/none"):
            headers = calm(path).headers
            policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
            assert policy == {
                "default-src": "'none'",
                "style-src": "'self'",
                "form-action": "'self'",
                "base-uri": "'none'",
                "frame-ancestors": "'none'",
            }
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"

    def test_the_root_leads_to_it(self, calm):
        response = calm("/")
        # Not by the name in the Host field.
        assert (response.status_code, response.headers["Location"]) == (302, "/status")

    def test_its_style_is_its_own(self, calm):
        page = read(calm("/status"))
        style = calm(next(x for x in page.links if x.endswith(".css")))
        assert (style.status_code, style.mimetype) == (200, "text/css")
        assert style.text == CSS
        assert "url(" not in CSS
        assert "@import" not in CSS


class TestWhatItSays:
    def test_a_ca_that_has_done_nothing(self, calm):
        text = read(calm("/status")).text
        assert "Nothing has been refused." in text
        assert "There has been none." in text
        read(calm("/status/refusals"))
        read(calm("/status/certificates"))

    def test_a_ca_that_works(self, busy):
        page = read(busy("/status"))
        for words in (
            "test-ca",
            "simulation CA",
            # An alarm, and what it is about.
            "ledger.counter",
            "rollback",
            "default/vtpm/guest-a of org-kbs",
            # The refusals: reason, what was wanted, what was seen, what to do.
            "kbs.resource",
            "elsewhere/vtpm/x",
            "the store's counter went back",
            "Correct its pattern there",
            "vtpm-ca instance reset",
            "in force",
            "ek CA, generation 1",
            "OCSP responder",
            "not offered",
            "Issuances under way",
            "(reads the whole database)",
        ):
            assert words in page.text, words
        rows = [
            given
            for tag, given in page.attributes
            if tag == "th" and given.get("data-label") == "Serial number"
        ]
        assert len(rows) == 3
        strips = [given["aria-label"] for tag, given in page.attributes if tag == "svg"]
        assert strips == ["1 admitted, 2 refused"] + ["0 admitted, 0 refused"] * 6

    def test_its_links_lead_to_what_they_name(self, busy):
        page = read(busy("/status"))
        decision = read(busy(link(page, "/status/decisions/")))
        assert "Said no: 1" in decision.text
        certificate = read(busy(link(page, "/status/certificates/")))
        assert "Entry of the log" in certificate.text
        instance = read(busy(link(page, "/status/instances/")))
        assert "lives here" in instance.text
        for target in {target for target in page.links if target.startswith("/")} - {"/status/find"}:
            assert busy(target).status_code == 200, target

    def test_a_revoked_certificate(self, busy):
        targets = [x for x in read(busy("/status")).links if x.startswith("/status/certificates/")]
        texts = [read(busy(target)).text for target in targets]
        revoked = [text for text in texts if "keyCompromise" in text]
        assert len(texts) == 3
        assert len(revoked) == 1
        assert "revoked by alice: <b>" in revoked[0]

    def test_what_is_looked_for_is_found(self, busy):
        page = read(busy("/status"))
        decision, certificate = link(page, "/status/decisions/"), link(page, "/status/certificates/")
        instance = link(page, "/status/instances/")
        serial = certificate.rpartition("/")[2]
        colons = ":".join(re.findall("..", serial)).upper()
        for words, target in (
            (decision.rpartition("/")[2], decision),
            (serial, certificate),
            (f" {colons}  ", certificate),
            ("org-kbs default/vtpm/guest-a", instance),
        ):
            response = busy("/status/find?q=" + words.replace(" ", "+").replace(":", "%3A"))
            assert (response.status_code, response.headers.get("Location")) == (302, target), words

    @pytest.mark.parametrize(
        "path",
        [
            "/status/find?q=",
            "/status/find",
            "/status/find?q=ff",
            "/status/find?q=-1",
            "/status/find?q=a+b+c",
            "/status/find?q=" + "f" * 5000,
            "/status/decisions/none",
            "/status/decisions/" + "a" * 400,
            "/status/certificates/ff",
            "/status/certificates/FF",
            "/status/instances/99",
            "/status/instances/x",
            "/status/instances/" + "9" * 30,
        ],
    )
    def test_what_is_not_there(self, calm, path):
        page = read(calm(path), 404)
        assert "there is no" in page.text

    @pytest.mark.parametrize(
        "path",
        [
            "/status/refusals?before=x",
            "/status/refusals?before=2026-11-26T08:00:00Z",
            "/status/refusals?before=2026-13-26T08:00:00Z,aa",
            "/status/refusals?before=,aa",
            "/status/certificates?before=-1",
            "/status/certificates?before=1e3",
            "/status/certificates?before=" + "9" * 40,
        ],
    )
    def test_a_place_that_is_none(self, calm, path):
        assert "before" in read(calm(path), 400).text

    def test_pages_go_on_where_the_last_one_ended(self, services, ask, world):
        with services.store.write() as tx:
            for number in range(45):
                # Many of one second.
                at = world.time + timedelta(seconds=number // 10)
                tx.decisions.add(replace(_decision(at), id=f"{number:032x}"))
        seen, target = [], "/status/refusals"
        while target:
            page = read(ask(target))
            seen += [x.rpartition("/")[2] for x in page.links if x.startswith("/status/decisions/")]
            target = next(
                (
                    given["href"]
                    for tag, given in page.attributes
                    if tag == "a" and given.get("rel") == "next"
                ),
                "",
            )
        assert [int(name, 16) for name in seen] == list(reversed(range(45)))


def _decision(at):
    return DecisionRow("", at, "enroll", 0, "kbs.listed", "[]", 1, "00", "ee", "org", "a/b/c", "")


class TestWhenSomethingIsWrong:
    def test_the_database_cannot_be_read(self, services):
        class Gone:
            url = services.store.url

            def read(self):
                raise Unavailable("the database cannot be read now")

            check = check_writable = read

        client = create_app(replace(services, store=Gone())).test_client()
        page = read(client.get("/status", environ_overrides=OPERATOR), 503)
        assert "The database cannot be read" in page.text
        assert "critical" in page.text
        # What does not need it is there.
        assert "permissions" in page.text
        other = read(client.get("/status/refusals", environ_overrides=OPERATOR), 503)
        assert "the database cannot be read now" in other.text

    def test_a_server_that_has_stopped_says_so(self, services, client, ask):
        services.enroller.desk.log.stop("the database is older than what this CA has done")
        assert client.post("/operator/v1/echo", json={}, environ_overrides=OPERATOR).status_code == 503
        page = read(ask("/status"))
        assert "This server issues nothing any more" in page.text
        assert "the database is older than what this CA has done" in page.text

    def test_what_is_stored_of_a_decision_is_damaged(self, services, ask, world):
        with services.store.write() as tx:
            for number, trace in enumerate(("", "{", "[1]", "[{}]", '{"a":1}', "[" * 100_000)):
                tx.decisions.add(replace(_decision(world.time), id=f"{number:032x}", trace=trace))
            tx.alarms.add("clone", "", "[", world.time)
            tx.alarms.add("clone", "", '{"newcomer":1}', world.time)
        assert "Two instances show the same TPM" in read(ask("/status")).text
        for number in range(6):
            assert "cannot be read" in read(ask(f"/status/decisions/{number:032x}")).text


class TestWords:
    def test_the_headline(self):
        assert rendering.headline({}) == "All is well"
        assert rendering.headline({Status.OK: 3}) == "All is well"
        assert rendering.headline({Status.WARNING: 1, Status.OK: 3}) == "1 warning"
        found = {Status.WARNING: 2, Status.CRITICAL: 2, Status.UNKNOWN: 1}
        assert rendering.headline(found) == "2 critical, 1 not known, 2 warnings"

    def test_how_long_ago(self):
        now = datetime(2026, 11, 26, 8, tzinfo=UTC)
        for seconds, words in (
            (0, "now"), (1, "1 second ago"), (119, "119 seconds ago"), (-120, "in 2 minutes"),
            (7200, "2 hours ago"), (-86_400 * 2, "in 2 days"),
        ):  # fmt: skip
            assert rendering.apart(now - timedelta(seconds=seconds), now) == words
        assert rendering.apart(None, now) == ""

    def test_bars_stay_within_their_strip(self):
        at = datetime(2026, 11, 26, tzinfo=UTC)
        numbers = [(0, 0), (1, 0), (0, 1), (10_000, 1), (1, 10_000), (9_999, 9_999)]
        hours = tuple(Hour(at.replace(hour=n), Verdicts(*pair)) for n, pair in enumerate(numbers))
        day = Day(at, Verdicts(0, 0), hours)
        bars = rendering.strip(day, rendering.peak([day]))
        assert [bar.x for bar in bars] == [4, 8, 12, 16, 20]
        for bar in bars:
            assert 0 <= bar.refused_y <= bar.admitted_y <= rendering.STRIP_HEIGHT
            assert bar.admitted >= 2 or bar.refused >= 2
        # One among ten thousand is seen.
        assert min(bars[2].refused, bars[3].admitted) >= 2


class TestCost:
    def test_the_dear_checks_are_left_out(self):
        assert set(LEFT_OUT) < set(CHECKS)
        made = {check.id for check in cheap_checks()}
        assert made == set(CHECKS) - set(LEFT_OUT) - {"server"}

    def test_health_is_looked_at_once_in_a_while(self, services):
        now = [1000.0]
        made = []

        class Context:
            at = datetime(2026, 11, 26, tzinfo=UTC)

            def __getattr__(self, name):
                made.append(name)
                now[0] += 0.1
                raise Unavailable("not here")

        keeper = HealthKeeper(lambda: now[0])
        first = keeper.read(Context())
        took, count = now[0] - 1000.0, len(made)
        assert keeper.read(Context()) is first
        now[0] += 49 * took
        assert keeper.read(Context()) is first
        assert len(made) == count
        now[0] += 2 * took
        assert keeper.read(Context()) is not first

    def test_hours_that_are_over_are_counted_once(self, monkeypatch):
        asked = []

        def hourly(_tx, since, until):
            assert until - since == timedelta(hours=1)
            asked.append(since)
            return Verdicts(1, 2)

        monkeypatch.setattr("ca_service.operations.activity.hourly", hourly)
        activity, at = Activity(), datetime(2026, 11, 26, 8, 30, tzinfo=UTC)
        days = activity.read(None, at)
        assert len(asked) == len(set(asked)) == 6 * 24 + 9
        assert [len(day.hours) for day in days] == [9, 24, 24, 24, 24, 24, 24]
        assert days[0].verdicts == Verdicts(9, 18)
        asked.clear()
        activity.read(None, at)
        assert asked == [at.replace(minute=0)]
        asked.clear()
        # Another node's clock may be a little behind.
        activity.read(None, at.replace(hour=9, minute=2))
        assert asked == [at.replace(hour=8, minute=0), at.replace(hour=9, minute=0)]
        asked.clear()
        # A clock that was put back counts what comes again.
        activity.read(None, at - timedelta(days=1))
        assert at.replace(minute=0) - timedelta(days=1) in asked
        asked.clear()
        activity.read(None, at)
        assert at.replace(hour=7, minute=0) in asked


class TestColours:
    """WCAG 2.2, 1.4.3 and 1.4.11."""

    @staticmethod
    def sets():
        blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
        light, dark, printed = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks)
        return {"light": light, "dark": light | dark, "print": light | printed}

    @staticmethod
    def contrast(one, two):
        def luminance(colour):
            parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
            linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        high, low = sorted((luminance(one), luminance(two)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    @pytest.mark.parametrize("name", ["light", "dark", "print"])
    def test_text_can_be_read(self, name):
        colours = self.sets()[name]
        kinds = ("ok", "warning", "unknown", "critical", "quiet")
        pairs = [(ink, ground) for ink in ("ink", "soft", "link") for ground in ("paper", "ground")]
        pairs += [(kind, f"{kind}-ground") for kind in kinds] + [(kind, "paper") for kind in kinds]
        for ink, ground in pairs:
            assert self.contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        for shape in ("admitted", "refused"):
            assert self.contrast(colours[shape], colours["paper"]) >= 3, shape
