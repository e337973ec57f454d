"""What is counted and logged of requests: bounded labels, one line each, no secret, little of what proves nothing."""

import json
from dataclasses import replace

import enrollment_world as w
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ca_service.api import HttpLimits, create_app
from ca_service.api.journal import KIND_AT_ONCE, LINES_AT_ONCE, LINES_PER_SECOND, LineBudget, configure
from ca_service.api.tally import Tally
from ca_service.api.watching import BOUNDS, Counted, route_of
from ca_service.enrollment import Limits
from ca_service.judgment import VtpmCaError
from ca_service.policy import load
from ca_service.service import OPERATOR
from ca_service.store import IssuerState
from vtpm.wire.enrollment import ChallengeReply, NonceReply

JSON = {"content_type": "application/json"}


OPERATOR_NAME = "alice"


@pytest.fixture
def over_unix():
    return {OPERATOR: OPERATOR_NAME, "REMOTE_ADDR": ""}


@pytest.fixture
def clock():
    """Seconds for the budget of lines, to be moved by the test."""
    return [0.0]


@pytest.fixture
def seen(services, stream, clock):
    """The services with counts and a log of their own."""
    tally, budget = Tally(), LineBudget(lambda: clock[0])
    configure(stream, budget)
    desk = replace(services.enroller.desk, observe=Counted(tally))
    limits = HttpLimits(verdict_s=0.0, requests_per_second=1e6, burst=10**6)
    return replace(services, enroller=w.Enroller(desk), tally=tally, budget=budget, limits=limits)


@pytest.fixture
def client(seen):
    return create_app(seen).test_client()


@pytest.fixture
def lines(stream):
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def scrape(client, over_unix):
    def read() -> dict[tuple[object, ...], float]:
        answer = client.get("/metrics", environ_overrides=over_unix)
        assert answer.status_code == 200
        assert answer.mimetype == "text/plain"
        return {
            (sample.name.removeprefix("vtpm_ca_"), *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    return read


def value(metrics, name: str, **labels: str) -> float:
    return metrics.get((name, *sorted(labels.items())), 0.0)


def new_nonce(client) -> str:
    return NonceReply.parse(client.post("/v1/nonces").data).nonce


def enrol(client, world, tpm) -> tuple[str, bytes, bytes]:
    """Nonce, challenge, certificates: the enrolment's id, the answer to the challenge, and the last reply."""
    first = client.post("/v1/enrollments", data=world.body(new_nonce(client), tpm), **JSON)
    enrollment_id, body = w.answer(tpm, first.data)
    second = client.post(f"/v1/enrollments/{enrollment_id}/activation", data=body, **JSON)
    assert second.status_code == 200
    return enrollment_id, body, second.data


class TestWhoMetWhichLimit:
    """An operator sees it in the request's line; whoever was refused hears of none."""

    NAMES = ("status", "code", "limit", "limited")

    def line(self, lines) -> list[object]:
        last = lines()[-1]
        return [last.get(name) for name in self.NAMES]

    def test_an_address(self, seen, lines):
        limits = HttpLimits(requests_per_second=0.001, burst=1)
        client = create_app(replace(seen, limits=limits)).test_client()
        client.post("/v1/nonces")
        assert "limit" not in lines()[-1]
        answer = client.post("/v1/nonces", environ_overrides={"REMOTE_ADDR": "127.0.0.1"})
        assert self.line(lines) == [429, "too-many-requests", "requests_per_second", "127.0.0.1"]
        assert b"requests_per_second" not in answer.data

    def test_an_instance(self, seen, world, tpm, lines):
        desk = replace(seen.enroller.desk, limits=Limits(instance_enrolments=1))
        client = create_app(replace(seen, enroller=w.Enroller(desk))).test_client()
        enrol(client, world, tpm)
        answer = client.post("/v1/enrollments", data=world.body(new_nonce(client), tpm), **JSON)
        instance = f"org-kbs {w.RESOURCE}"
        assert self.line(lines) == [429, "too-many-requests", "instance_enrolments", instance]
        assert w.RESOURCE.encode() not in answer.data
        assert b"instance_enrolments" not in answer.data

    def test_a_launch(self, seen, world, tpm, lines):
        limits = Limits(refusals_per_hour=1, refusals_at_once=1)
        desk = replace(seen.enroller.desk, limits=limits)
        client = create_app(replace(seen, enroller=w.Enroller(desk))).test_client()
        boot = w.Boot(certify=False)
        for _ in range(2):
            answer = client.post("/v1/enrollments", data=world.body(new_nonce(client), tpm, boot), **JSON)
        assert self.line(lines)[:3] == [429, "too-many-requests", "launch_refusals_per_hour"]
        launch = lines()[-1]["limited"]
        assert len(bytes.fromhex(launch)) == 32
        assert launch.encode() not in answer.data


class TestCounts:
    def test_an_enrolment_and_its_refusals(self, client, world, tpm, scrape):
        enrol(client, world, tpm)
        refused = world.body(new_nonce(client), tpm, w.Boot(resource="elsewhere/vtpm/x"))
        assert client.post("/v1/enrollments", data=refused, **JSON).status_code == 403
        # A stored answer is no new decision.
        assert client.post("/v1/enrollments", data=refused, **JSON).status_code == 403
        forged = world.body(new_nonce(client)[:-4] + "AAAA", tpm)
        assert client.post("/v1/enrollments", data=forged, **JSON).status_code == 403
        found = scrape()
        assert value(found, "decisions_total", stage="enroll", verdict="admitted", rule="") == 1
        assert value(found, "decisions_total", stage="enroll", verdict="refused", rule="kbs.resource") == 1
        assert value(found, "unproven_refusals_total", rule="nonce.genuine") == 1
        for profile, role in (("ek", "ek"), ("iak", "devid"), ("idevid", "devid")):
            assert value(found, "certificates_issued_total", profile=profile, issuer_role=role) == 1
        route = "/v1/enrollments"
        for status, count in (("201", 1), ("403", 3)):
            assert value(found, "http_requests_total", route=route, method="POST", status=status) == count
        assert value(found, "http_request_duration_seconds_count", route=route) == 4
        assert value(found, "http_request_duration_seconds_bucket", route=route, le="+Inf") == 4
        assert value(found, "http_request_duration_seconds_sum", route=route) > 0
        assert value(found, "open_intents") == 0
        assert value(found, "log_leaves") == 5

    def test_how_things_stand(self, client, world, services, scrape):
        found = scrape()
        assert value(found, "policy_version") == 1
        assert value(found, "clock_timestamp_seconds") == world.time.timestamp()
        ek = world.authority.issuer("ek")
        who = {"issuer_role": "ek", "pair": "default", "skid": ek.skid}
        assert value(found, "issuer_state", state="active", **who) == 1
        assert value(found, "crl_this_update_timestamp_seconds", **who) == world.time.timestamp()
        assert value(found, "crl_next_update_timestamp_seconds", **who) > world.time.timestamp()
        end = ek.certificate.not_valid_after_utc.timestamp()
        assert value(found, "ca_certificate_not_after_timestamp_seconds", **who) == end
        floor = {"platform": "simulated", "product": "Milan", "tcb": "reported", "component": "snp"}
        policy = load(world.policy()).platforms["simulated"]
        assert value(found, "tcb_floor", **floor) == next(iter(policy.floors["Milan"])).reported["snp"]
        with services.store.write() as tx:
            tx.issuers.move(ek.skid, IssuerState.TAINTED, world.time)
            tx.policies.append("00", "no policy of this release", world.time, "tests")
        found = scrape()
        assert value(found, "policy_version") == 2
        assert value(found, "issuer_state", state="tainted", **who) == 1
        assert value(found, "tcb_floor", **floor) == 0

    def test_strangers_make_no_labels(self, client, seen):
        for number in range(50):
            client.get(f"/nowhere/{number}")
            client.post(f"/v1/enrollments/{number:x}/activation", data=b"{}", **JSON)
            client.get(f"/v1/certificates/{number:x}")
            client.open("/v1/nonces", method=f"METHOD{number}")
            client.post("/v1/nonces", headers={"X-Request-Id": str(number), "Host": f"h{number}"})
        routes = {count.labels[:2] for count in seen.tally.read() if count.name == "requests"}
        assert routes == {
            ("other", "GET"),
            ("/v1/enrollments/{enrollment_id}/activation", "POST"),
            ("/v1/certificates/{serial}", "GET"),
            ("other", "other"),
            ("/v1/nonces", "POST"),
        }

    def test_only_operators_see_them(self, client):
        for environ in ({}, {OPERATOR: ""}, {"HTTP_VTPM_CA_OPERATOR": "alice"}):
            assert client.get("/metrics", environ_overrides=environ).status_code == 404

    def test_they_are_there_when_the_database_is_not(self, client, seen, scrape, monkeypatch):
        client.get("/healthz")
        seen.enroller.desk.log.stop("the database is older than what this CA has done")

        def gone():
            raise VtpmCaError("the database cannot be read now")

        monkeypatch.setattr(seen.store, "read", gone)
        found = scrape()
        assert value(found, "database_up") == 0
        assert value(found, "database_rolled_back") == 1
        assert value(found, "http_requests_total", route="/healthz", method="GET", status="200") == 1

    def test_routes_and_bounds(self):
        assert route_of("/crl/<hex:skid>/0.crl") == "/crl/{skid}/0.crl"
        assert route_of("/a/<b>/<path:c>") == "/a/{b}/{c}"
        assert route_of(None) == "other"
        assert list(BOUNDS) == sorted(BOUNDS)


class TestLines:
    def test_one_per_request_with_what_it_was_about(self, client, world, tpm, lines):
        enrollment_id, _, _ = enrol(client, world, tpm)
        refused = world.body(new_nonce(client), tpm, w.Boot(resource="elsewhere/vtpm/x"))
        answer = client.post("/v1/enrollments", data=refused, **JSON)
        nonce, enroll, activate, _, refusal = lines()
        assert (nonce["route"], nonce["status"], nonce["client"]) == ("/v1/nonces", 201, "127.0.0.1")
        assert (enroll["status"], enroll["enrollment_id"]) == (201, enrollment_id)
        assert enroll["decision_id"]
        assert (activate["status"], activate["enrollment_id"]) == (200, enrollment_id)
        assert activate["duration_ms"] > 0
        assert (refusal["rule"], refusal["level"]) == ("kbs.resource", "info")
        assert refusal["decision_id"] == answer.json["decision_id"]
        assert refusal["request_id"] == answer.headers["X-Request-Id"]
        assert len({line["request_id"] for line in lines()}) == 5

    def test_the_id_is_ours(self, client, lines):
        answer = client.post("/v1/nonces", headers={"X-Request-Id": "mine\x7f"})
        assert answer.headers["X-Request-Id"] == lines()[0]["request_id"] != "mine"
        assert len(lines()[0]["request_id"]) == 16

    def test_operators(self, client, over_unix, lines):
        client.post("/operator/v1/echo", json={}, environ_overrides=over_unix)
        (line,) = lines()
        assert (line["operation"], line["client"], line["by"]) == ("echo", "unix", OPERATOR_NAME)

    def test_monitoring_is_silent_until_something_fails(self, client, seen, over_unix, lines):
        for path in ("/healthz", "/readyz", "/metrics", "/.well-known/vtpm-ca", "/log/checkpoint"):
            assert client.get(path, environ_overrides=over_unix).status_code == 200
        assert lines() == []
        with seen.store.write() as tx:
            tx.connection.exec_driver_sql("DELETE FROM alembic_version")
        assert client.get("/readyz").status_code == 503
        (line,) = lines()
        assert (line["route"], line["status"], line["code"]) == ("/readyz", 503, "schema")
        assert "schema" in line["reason"]

    def test_a_failure_says_where_and_not_what(self, seen, stream, lines, monkeypatch):
        def broken(_body: bytes):
            raise RuntimeError("the secret is 1234")

        monkeypatch.setattr(seen.enroller, "enroll", broken)
        client = create_app(seen).test_client()
        assert client.post("/v1/enrollments", data=b"{}", **JSON).status_code == 500
        failure, request = lines()
        assert (failure["event"], failure["error"]) == ("request failed", "RuntimeError")
        assert any("api/enrolment.py" in frame for frame in failure["frames"])
        assert failure["request_id"] == request["request_id"]
        assert "1234" not in stream.getvalue()


class TestFloods:
    def test_junk_writes_no_more_than_the_bound(self, client, clock, world, tpm, lines):
        """A hundred thousand would be the same: the bound is one of time, not of requests."""
        forged = world.body(new_nonce(client)[:-4] + "AAAA", tpm)
        seconds, each = 20, 30
        for step in range(seconds * each):
            clock[0] = step / each
            kind = step % 6
            if kind == 0:
                client.post("/v1/nonces")
            elif kind == 1:
                client.post("/v1/enrollments", data=b"{" * step, **JSON)
            elif kind == 2:
                client.get(f"/nowhere/{step}")
            elif kind == 3:
                client.post("/v1/enrollments", data=b"x", content_type=f"text/x{step}")
            elif kind == 4 and step % 60 == 4:
                client.post("/v1/enrollments", data=forged, **JSON)
            else:
                client.get(f"/v1/enrollments/{step:x}")
        assert KIND_AT_ONCE < len(lines()) <= LINES_AT_ONCE + seconds * LINES_PER_SECOND
        assert sum(line.get("suppressed", 0) for line in lines()) > 100

    def test_who_asks_for_operations_and_is_no_operator(self, client, clock, lines):
        for number in range(100):
            assert client.post(f"/operator/v1/policy-{number}", json={}).status_code == 404
        assert len(lines()) == KIND_AT_ONCE

    def test_operators_are_never_left_out(self, client, clock, lines, over_unix):
        for _ in range(100):
            client.post("/operator/v1/echo", json={}, environ_overrides=over_unix)
        assert len(lines()) == 100

    def test_a_stored_refusal_asked_again_and_again(self, client, clock, world, tpm, lines):
        refused = world.body(new_nonce(client), tpm, w.Boot(resource="elsewhere/vtpm/x"))
        for _ in range(100):
            assert client.post("/v1/enrollments", data=refused, **JSON).status_code == 403
        # The first one is a decision of its own; all others are the same answer again.
        assert len([line for line in lines() if line["status"] == 403]) == 1 + KIND_AT_ONCE

    def test_genuine_enrolments_are_logged_meanwhile(self, client, clock, world, tpm, lines):
        for step in range(300):
            client.get(f"/nowhere/{step}")
        enrollment_id, _, _ = enrol(client, world, tpm)
        assert [line["status"] for line in lines() if line.get("enrollment_id") == enrollment_id] == [
            201,
            200,
        ]

    def test_what_was_left_out_is_said_later(self, client, clock, lines):
        for _ in range(KIND_AT_ONCE + 5):
            client.get("/nowhere")
        clock[0] = 100.0
        client.get("/healthz")
        assert (lines()[-1]["event"], lines()[-1]["suppressed"]) == ("lines left out", 5)

    def test_no_line_is_long_or_steers_a_terminal(self, client, stream, over_unix):
        name = "a\x1b[31m" + "b" * 5000
        client.post(f"/operator/v1/{name}", json={}, environ_overrides=over_unix)
        client.post("/v1/enrollments", data=json.dumps({name: 1}).encode(), **JSON)
        assert stream.getvalue()
        assert all(len(line) < 4096 for line in stream.getvalue().splitlines())
        assert "\x1b" not in stream.getvalue()


def test_no_secret_is_ever_logged(seen, client, world, tpm, stream, monkeypatch):
    """A whole enrolment with refusals, wrong answers and failures; every secret that takes part is known here."""
    authority = world.authority
    given = []
    real = type(seen.enroller.desk).activation_secrets
    monkeypatch.setattr(
        type(seen.enroller.desk), "activation_secrets", lambda *a: given.extend(found := real(*a)) or found
    )
    enrollment_id, body, _ = enrol(client, world, tpm)
    nonce = new_nonce(client)
    client.post("/v1/enrollments", data=world.body(nonce, tpm, w.Boot(resource="elsewhere/vtpm/x")), **JSON)
    first = client.post("/v1/enrollments", data=world.body(new_nonce(client), w.SoftTpm(), w.Boot()), **JSON)
    other = ChallengeReply.parse(first.data).id if first.status_code == 201 else enrollment_id
    client.post(f"/v1/enrollments/{other}/activation", data=body, **JSON)

    def broken(*_arguments):
        raise RuntimeError(f"{authority.nonce_key!r} {given!r} {w.PASSPHRASE!r} {body!r}") from ValueError(
            authority.activation_key.hex()
        )

    for name in ("enroll", "activate", "new_nonce"):
        monkeypatch.setattr(seen.enroller, name, broken)
    failing = create_app(seen).test_client()
    failing.post("/v1/nonces")
    failing.post("/v1/enrollments", data=body, **JSON)
    failing.post(f"/v1/enrollments/{enrollment_id}/activation", data=body, **JSON)
    text = stream.getvalue()
    assert text.count("RuntimeError from ValueError") == 3
    assert given
    secrets = [authority.nonce_key, authority.activation_key, authority.log_key.private_bytes_raw(), *given]
    secrets.append(w.PASSPHRASE)
    for secret in secrets:
        for shown in (secret.hex(), w.b64std(secret), repr(secret)[2:-1], secret.decode("latin-1")):
            assert shown.rstrip("=") not in text
