"""From release 0.3 to this one: killed at any moment and repeated, put back, and what the old release issued ends."""

import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
import urllib.request
from contextlib import closing

import pytest
from cryptography import x509

from ca_service.cli import main
from ca_service.keys import load_public

_MANY = 40
_FEW = 3


def copy_of(directory, name: str):
    return shutil.copytree(directory, directory.parent / name / "ca")


def upgrading(directory, passphrase_file) -> int:
    """A process that upgrades; returns its number. It has all modules loaded, so it is at work at once."""
    child = os.fork()
    if child:
        return child
    try:
        os.environ.update(VTPM_CA_PASSPHRASE_FILE=str(passphrase_file))
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        sys.argv = ["vtpm-ca", "db", "upgrade", "--dir", str(directory)]
        main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    finally:
        os._exit(9)


def contents(directory):
    """All rows but what an upgrade draws or stamps anew, and the files that it may not change."""
    with closing(sqlite3.connect(directory / "ca.sqlite3")) as database:
        rows = [line for line in database.iterdump() if not line.startswith('INSERT INTO "epochs"')]
    unchanged = {
        path.relative_to(directory): path.read_bytes()
        for folder in ("certs", "private", "offline")
        for path in (directory / folder).iterdir()
        if path.name != "log.sealed"
    }
    return rows, unchanged, sorted(path.name for path in (directory / "private").iterdir())


@pytest.mark.parametrize("tries", [_FEW, pytest.param(_MANY, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_can_be_repeated(here, released, passphrase_file, tries):
    undisturbed = copy_of(released, "undisturbed")
    began = time.monotonic()
    _, status = os.waitpid(upgrading(undisturbed, passphrase_file), 0)
    took = time.monotonic() - began
    assert os.waitstatus_to_exitcode(status) == 0
    expected = contents(undisturbed)
    killed = 0
    for number in range(5 * tries):
        directory = copy_of(released, f"try-{number}")
        child = upgrading(directory, passphrase_file)
        time.sleep(random.uniform(0.0, 1.0) * took)  # noqa: S311 - any moment will do
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
            killed += 1
        else:
            # The machine is faster now than it was.
            took /= 2
        done = here("db", "upgrade", "--dir", directory)
        assert done.code == 0, done
        assert contents(directory) == expected
        assert load_public(directory).log is not None
        shutil.rmtree(directory.parent)
        if killed == tries:
            break
    assert killed == tries


def test_the_released_database_put_back_is_not_taken_for_the_present_one(here, released):
    """Somebody copies the old file over the new one: what was revoked since would be good again."""
    before = released.parent / "before.sqlite3"
    shutil.copy(released / "ca.sqlite3", before)
    assert here("db", "upgrade", "--dir", released).code == 0
    serial = json.loads(here("cert", "list", "--dir", released, "--json").out)[0]["serial"]
    assert here("cert", "revoke", serial, "--dir", released, "--yes").code == 0
    for name in ("ca.sqlite3-wal", "ca.sqlite3-shm"):
        (released / name).unlink(missing_ok=True)
    shutil.copy(before, released / "ca.sqlite3")
    done = here("db", "upgrade", "--dir", released)
    assert done.code == 3
    for words in (("serve", "--bind", "127.0.0.1:1"), ("cert", "list"), ("db", "check")):
        done = here(*words, "--dir", released)
        assert (done.code, "vtpm-ca db restore" in done.err) == (3, True), (words, done)


def test_what_was_saved_before_the_upgrade_can_be_brought_back(here, release, released):
    """Release 0.3 has no backups: a copy of its whole directory is one, after an upgrade of its own."""
    saved = copy_of(released, "saved")
    assert here("db", "upgrade", "--dir", released).code == 0
    serial = json.loads(here("cert", "list", "--dir", released, "--json").out)[0]["serial"]
    assert here("cert", "revoke", serial, "--dir", released, "--yes").code == 0
    (released / "ca.sqlite3").write_bytes(b"nothing is left of it")

    assert here("db", "upgrade", "--dir", saved).code == 0
    backup = released.parent / "backup.sqlite3"
    assert here("db", "backup", backup, "--dir", saved).code == 0
    done = here("db", "restore", backup, "--dir", released, "--yes")
    assert done.code == 0, done
    shown = json.loads(here("cert", "show", serial, "--dir", released, "--json").out)
    assert shown["state"] == "revoked"
    serials = {row["serial"] for row in release.rows("certificates")}
    kept = json.loads(here("cert", "list", "--all", "--limit", "100", "--dir", released, "--json").out)
    assert {row["serial"] for row in kept} == serials
    assert here("audit", "verify", "--dir", released).code == 0


def fetched(server, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=30) as answer:
        return answer.read()


def test_what_the_old_release_issued_is_revoked_and_published(here, serve, release, released):
    """By instance, so by the evidence of then, which the upgrade has read."""
    old = {row["serial"]: row for row in release.rows("certificates")}
    assert here("db", "upgrade", "--dir", released).code == 0
    server = serve(released)
    mine = [x509.load_der_x509_certificate(der) for der in release.certificates("good")]
    done = here("revoke", "--instance", "org-kbs", "default/vtpm/good", "--dir", released, "--yes", "--json")
    assert done.code == 0, done
    public = load_public(released)
    listed: set[int] = set()
    for issuer in public.issuers:
        crl = x509.load_der_x509_crl(fetched(server, f"/crl/{issuer.skid}/0.crl"))
        assert crl.is_signature_valid(issuer.certificate.public_key())
        listed |= {entry.serial_number for entry in crl}
    assert {certificate.serial_number for certificate in mine} <= listed
    assert {int(serial, 16) for serial, row in old.items() if row["state"] == "revoked"} <= listed
    # What is stored of then is as it was, byte for byte.
    with closing(sqlite3.connect(released / "ca.sqlite3")) as database:
        kept = dict(database.execute("SELECT serial, der FROM certificates"))
    assert {serial: row["der"] for serial, row in old.items()} == kept
    assert here("audit", "verify", "--dir", released).code == 0
    assert server.end(signal.SIGTERM) == 0
    assert here("db", "check", "--dir", released).code == 0


def test_a_directory_of_a_later_release_is_refused_with_the_reason(here, empty):
    facts = empty / "ca.toml"
    facts.write_text(facts.read_text() + "\n[quorum]\nmembers = 3\n")
    for words in (("cert", "list"), ("db", "upgrade"), ("serve",)):
        done = here(*words, "--dir", empty)
        assert done.code == 2
        assert "ca.toml.quorum" in done.err
        assert "later release" in done.err


def test_a_database_of_a_later_release_is_refused_with_the_reason(here, empty):
    with closing(sqlite3.connect(empty / "ca.sqlite3")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '0099'")
    for words in (("cert", "list"), ("db", "upgrade"), ("serve",), ("db", "backup", empty / "b")):
        done = here(*words, "--dir", empty)
        assert (done.code, "later" in done.err) == (3, True), done
    assert not (empty / "b").exists()
