"""A CA of an earlier release: it is upgraded whole, and its policy admits nothing that it does not state."""

import json
import re
import shutil
import sqlite3
import urllib.request
from contextlib import closing

import pytest

from ca_service.judgment import Refused
from ca_service.keys import load_public
from ca_service.policy import load
from ca_service.store import open_store

_KNOWN_SINCE_0_3 = 9
"""What release 0.3 asks of a launch that states its measurement, and 0.2 did not."""


def _as_0_2(text):
    """A policy document with what release 0.2 knew: launches without demands, no platforms."""
    text = text[: text.index("[[platform]]")]
    return re.sub(r"^(guest_policy|platform|unconstrained) = .*\n", "", text, flags=re.MULTILINE)


@pytest.fixture
def old(ca, worked_ca, stage):
    """The directory of the CA, with a policy of release 0.2 in force; and its text."""
    text = _as_0_2(stage.w.World.policy(worked_ca))
    assert "platform" not in text
    store = open_store(f"sqlite:///{ca}/ca.sqlite3")
    with store.write() as tx:
        tx.policies.append(load(text).digest, text, worked_ca.time, "release 0.2")
    store.close()
    return ca, text


def test_it_can_be_read_and_not_be_applied_again(here, old, tmp_path):
    directory, text = old
    shown = here("policy", "show", "--dir", directory)
    assert (shown.code, shown.out.strip()) == (0, text.strip())
    (tmp_path / "old.toml").write_text(text)
    for command in (("policy", "check"), ("policy", "apply", "--dir", directory)):
        done = here(*command, tmp_path / "old.toml")
        assert done.code == 1
        assert 'launch[0].host_data: must be stated, or "host-data" named in unconstrained' in done.err
        assert "launch[0].platform: must name a platform" in done.err
        assert done.err.count("launch[0].") == _KNOWN_SINCE_0_3


def test_the_server_starts_and_says_what_is_open(serve, old):
    server = serve(old[0])
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (warning,) = (line for line in lines if line["event"] == "enrolments are refused")
    assert "launch[0]" in warning["reason"]


def test_it_admits_nobody(old, worked_ca, stage):
    store = open_store(f"sqlite:///{old[0]}/ca.sqlite3")
    enroller = worked_ca.enroller(store)
    try:
        with pytest.raises(Refused) as refusal:
            stage.w.issue(worked_ca, enroller, stage.w.SoftTpm(), stage.w.Boot(resource="default/vtpm/new"))
        assert refusal.value.rule.startswith(("launch.", "platform."))
    finally:
        enroller.desk.liveness.close()
        store.close()


def everything(directory):
    """All files of a CA's directory but its locks, and all rows of its database."""
    files = {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and "sqlite3" not in path.name and path.parent.name != "run"
    }
    with closing(sqlite3.connect(directory / "ca.sqlite3")) as database:
        return files, list(database.iterdump())


def test_before_the_upgrade_nothing_works_and_the_remedy_is_named(here, released):
    before = everything(released)
    for words in (("serve", "--bind", "127.0.0.1:1"), ("db", "check"), ("cert", "list"), ("audit", "verify")):
        done = here(*words, "--dir", released)
        assert done.code in (1, 3), words
        assert "vtpm-ca db upgrade" in done.err, words
    assert everything(released) == before


@pytest.mark.parametrize("given", [b"mistyped\n", None])
def test_an_upgrade_needs_the_passphrase(here, released, tmp_path, given):
    before = everything(released)
    file = tmp_path / "passphrase"
    if given is not None:
        file.touch(mode=0o600)
        file.write_bytes(given)
    name = None if given is None else str(file)
    done = here("db", "upgrade", "--dir", released, env={"VTPM_CA_PASSPHRASE_FILE": name})
    assert done.code in (1, 2)
    assert "passphrase" in done.err
    assert everything(released) == before


def test_an_upgrade_that_found_no_database_can_be_done_again(here, released):
    database = released / "ca.sqlite3"
    shutil.move(database, released.parent / "elsewhere")
    done = here("db", "upgrade", "--dir", released)
    assert done.code == 3
    assert "is missing" in done.err
    shutil.move(released.parent / "elsewhere", database)
    assert here("db", "upgrade", "--dir", released).code == 0
    after = everything(released)
    assert here("db", "upgrade", "--dir", released).code == 0
    assert everything(released) == after
    # What the old server's end left open, the new one closes when it starts.
    (breach,) = json.loads(here("db", "check", "--dir", released, "--json").out)
    assert breach["id"] == "intent.closed"


def post(server, path: str, body: bytes = b""):
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}",
        data=body,
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own server
        return answer.status, answer.read()


def test_it_serves_after_the_upgrade(here, serve, release, released, stage):
    before = {row["serial"]: row["der"] for row in release.rows("certificates")}
    done = here("db", "upgrade", "--dir", released)
    assert done.code == 0
    assert "the log old-ca/log has a key" in done.out
    server = serve(released)
    world = release.world(released.parent, f"sqlite:///{released}/ca.sqlite3", load_public(released))
    world.time = stage.now()

    def enrol(tpm, boot):
        nonce = json.loads(post(server, "/v1/nonces")[1])["nonce"]
        return post(server, "/v1/enrollments", world.body(nonce, tpm, boot))

    status, reply = enrol(release.tpm("good"), release.boot("good"))
    assert (status, stage.w.ders(reply)) == (200, release.certificates("good"))
    tpm = stage.w.SoftTpm()
    status, challenge = enrol(tpm, stage.w.Boot(resource="default/vtpm/new", secret=b"new".ljust(32)))
    assert status == 201
    enrolment, answer = stage.w.answer(tpm, challenge)
    status, reply = post(server, f"/v1/enrollments/{enrolment}/activation", answer)
    assert (status, len(stage.w.ders(reply))) == (200, 3)
    issued = json.loads(here("cert", "list", "--dir", released, "--limit", "100", "--json").out)
    assert len({row["serial"] for row in issued} - set(before)) == 3
    assert here("audit", "verify", "--dir", released).code == 0
    assert here("db", "check", "--dir", released).code == 0
