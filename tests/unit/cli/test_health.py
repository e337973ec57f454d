"""`vtpm-ca health-check`: with a server and without one, for people and for scripts, by its exit code."""

import json
import signal
import threading
from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from ca_service.cli.channel import write_facts
from ca_service.operations.health import CHECKS


def rows(done) -> dict[str, dict[str, str]]:
    return {row["check"]: row for row in json.loads(done.out)["checks"]}


def test_the_list_needs_no_ca(here):
    done = here("health-check", "--list", "--json")
    assert done.code == 0
    assert [row["check"] for row in json.loads(done.out)] == list(CHECKS)
    done = here("health-check", "--list", "--set", "crl=9d,8d")
    assert "warning below 9d, critical below 8d" in done.out


def test_without_a_server(here, ca):
    done = here("health-check", "--json", "--dir", ca)
    found = rows(done)
    assert list(found) == list(CHECKS)
    assert (done.code, json.loads(done.out)["status"]) == (6, "critical")
    wanting = {name: row["status"] for name, row in found.items() if row["status"] != "ok"}
    assert wanting == {"server": "critical", "alarms": "warning", "backup": "notice"}
    assert found["server"]["detail"] == "no server runs on this directory"
    people = here("health-check", "--dir", ca)
    assert people.code == 6
    assert "what to do\n  server: Start it" in people.out


@pytest.mark.parametrize(
    ("only", "code"),
    [
        (("policy",), 0),
        (("backup", "policy"), 4),
        (("alarms", "backup"), 5),
        (("alarms", "server"), 6),
    ],
)
def test_graded_exit_codes(here, ca, only, code):
    words = [word for name in only for word in ("--only", name)]
    done = here("health-check", *words, "--json", "--dir", ca)
    assert (done.code, set(rows(done))) == (code, set(only))
    if code == 0:
        assert "all is well" in here("health-check", *words, "--dir", ca).out


def test_what_cannot_be_looked_at_is_told_apart(here, ca):
    """The server that works on another database is down: nothing here is the database."""
    write_facts(ca, own_database=False)
    done = here("health-check", "--only", "crl", "--only", "alarms", "--json", "--dir", ca)
    assert (done.code, {row["status"] for row in rows(done).values()}) == (3, {"unknown"})
    assert "VTPM_CA_DATABASE" in rows(done)["crl"]["remedy"]
    (ca / "ca.sqlite3").unlink()
    named = {"VTPM_CA_DATABASE": f"sqlite:///{ca}/ca.sqlite3"}
    done = here("health-check", "--only", "crl", "--only", "schema", "--json", "--dir", ca, env=named)
    assert (done.code, rows(done)["schema"]["status"], rows(done)["crl"]["status"]) == (
        6,
        "critical",
        "unknown",
    )


def test_a_database_of_the_past_is_told_and_no_obstacle(here, ca):
    facts = ca / "state" / "kept.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"epoch": 99}))
    done = here("health-check", "--json", "--dir", ca)
    assert rows(done)["rollback"]["status"] == "critical"
    assert rows(done)["policy"]["status"] == "ok"


@pytest.mark.parametrize(
    ("jump", "wrong"),
    [
        (timedelta(days=-1), {"clock", "crl", "issuers"}),
        (timedelta(days=366), {"crl", "root-crl", "server"}),
    ],
    ids=["back", "forward"],
)
def test_a_wrong_clock(here, ca, jump, wrong):
    """Nothing crashes, and what is wrong is named: a list that is stale, or of a time that is yet to come."""
    with time_machine.travel(datetime.now(UTC) + jump):
        done = here("health-check", "--json", "--dir", ca)
    found = rows(done)
    assert done.code == 6
    assert {name for name, row in found.items() if row["status"] == "critical"} == wrong | {"server"}
    assert "unknown" not in {row["status"] for row in found.values()}
    if jump.days > 0:
        assert "has ended" in found["crl"]["detail"]


def test_without_a_passphrase_keys_are_looked_for(here, ca):
    done = here("health-check", "--only", "keys", "--dir", ca, env={"VTPM_CA_PASSPHRASE_FILE": None})
    assert (done.code, "not tried for want of a passphrase" in done.out) == (0, True)


def test_what_hangs_is_told_and_hides_nothing_before_it(here, ca, monkeypatch):
    """A disk or a database that does not answer, not even with an error."""
    go_on = threading.Event()
    monkeypatch.setattr("ca_service.operations.health_database.os.statvfs", lambda _path: go_on.wait(60))
    monkeypatch.setattr("ca_service.cli.health._PATIENCE_S", 1.0)
    words = [word for name in ("schema", "disk", "policy") for word in ("--only", name)]
    try:
        done = here("health-check", *words, "--json", "--dir", ca)
    finally:
        go_on.set()
    found = {name: row["status"] for name, row in rows(done).items()}
    assert (done.code, found) == (3, {"schema": "ok", "disk": "unknown", "policy": "unknown"})
    assert "within 1 seconds" in rows(done)["policy"]["detail"]


def test_a_server_that_may_not_be_asked(here, ca, monkeypatch):
    def refused(_self):
        raise PermissionError

    monkeypatch.setattr("ca_service.cli.channel._UnixConnection.connect", refused)
    done = here("health-check", "--only", "server", "--only", "policy", "--json", "--dir", ca)
    found = rows(done)
    assert (done.code, found["server"]["status"], found["policy"]["status"]) == (3, "unknown", "ok")
    assert found["server"]["remedy"] == "Be the user that runs the server."


@pytest.mark.parametrize(
    "words",
    [
        ("--only", "nothing"),
        ("--set", "nothing=1"),
        ("--set", "policy=1"),
        ("--set", "crl"),
        ("--set", "crl=1GiB"),
        ("--set", "crl=1d,2d"),
        ("--only", "--json"),
    ],
)
def test_usage(here, ca, words):
    done = here("health-check", *words, "--dir", ca)
    assert (done.code, done.out) == (2, "")


def test_no_ca(here, tmp_path):
    assert here("health-check").code == 2
    assert here("health-check", "--dir", tmp_path).code == 2


def test_by_a_server(here, ca, serve):
    server = serve(ca)
    done = here("health-check", "--json", "--dir", ca, "--set", "disk=4MiB,2MiB")
    found = rows(done)
    assert list(found) == list(CHECKS)
    assert {name: row["status"] for name, row in found.items() if row["status"] != "ok"} == {
        "alarms": "warning",
        "backup": "notice",
    }
    assert done.code == 5
    assert "signs" in found["keys"]["detail"]
    assert found["disk"]["threshold"] == "warning below 4MiB, critical below 2MiB"
    backup = here("db", "backup", ca.parent / "backup", "--dir", ca)
    assert backup.code == 0
    assert here("health-check", "--only", "server", "--only", "backup", "--dir", ca).code == 0
    server.end(signal.SIGTERM)
    assert here("health-check", "--only", "server", "--dir", ca).code == 6
