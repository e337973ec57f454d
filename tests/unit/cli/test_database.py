"""`vtpm-ca db check|upgrade|backup|restore`."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest


@pytest.fixture
def backup(here, ca, tmp_path):
    path = tmp_path / "backup.sqlite3"
    assert here("db", "backup", path, "--dir", ca).code == 0
    return path


def certificates(here, ca) -> list[dict]:
    return json.loads(here("cert", "list", "--dir", ca, "--json").out)


def state(here, ca, serial: str) -> str:
    return json.loads(here("cert", "show", serial, "--dir", ca, "--json").out)["state"]


def test_check_of_a_good_database(here, ca):
    assert here("db", "check", "--dir", ca).code == 0
    assert json.loads(here("db", "check", "--dir", ca, "--json").out) == []


def test_check_names_what_is_broken(here, ca):
    with closing(sqlite3.connect(ca / "ca.sqlite3")) as database:
        database.execute("UPDATE certificates SET der = NULL")
        database.commit()
    done = here("db", "check", "--dir", ca, "--json")
    assert done.code == 1
    (breach,) = json.loads(done.out)
    assert breach["id"] == "certificate.stored"
    assert breach["count"] == len(breach["examples"]) == 3
    text = here("db", "check", "--dir", ca)
    assert text.code == 1
    assert "what was issued is stored" in text.out


def test_another_schema_is_named_with_the_remedy(here, ca):
    with sqlite3.connect(ca / "ca.sqlite3") as database:
        database.execute("UPDATE alembic_version SET version_num = '0003'")
    database.close()
    done = here("db", "check", "--dir", ca)
    assert done.code == 3
    assert "vtpm-ca db upgrade" in done.err


def test_a_later_schema_is_left_to_the_later_release(here, ca):
    with sqlite3.connect(ca / "ca.sqlite3") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    done = here("db", "upgrade", "--dir", ca)
    assert done.code == 3
    assert "Run that release" in done.err


def test_upgrade_leaves_a_good_database_as_it_is(here, ca):
    before = here("cert", "list", "--dir", ca, "--json").out
    assert here("db", "upgrade", "--dir", ca).code == 0
    assert here("cert", "list", "--dir", ca, "--json").out == before


def test_upgrade_makes_no_database(here, ca):
    (ca / "ca.sqlite3").unlink()
    assert here("db", "upgrade", "--dir", ca).code == 3
    assert not (ca / "ca.sqlite3").exists()


def test_upgrade_makes_no_database_of_an_empty_file(here, ca):
    (ca / "ca.sqlite3").write_bytes(b"")
    done = here("db", "upgrade", "--dir", ca)
    assert done.code == 3
    assert "vtpm-ca db restore" in done.err
    with closing(sqlite3.connect(ca / "ca.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_a_backup_while_the_server_runs(serve, here, ca, tmp_path):
    serve(ca)
    done = here("db", "backup", tmp_path / "b", "--dir", ca, "--json")
    assert done.code == 0
    assert json.loads(done.out)["rows"]["certificates"] == len(certificates(here, ca))
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    assert here("db", "backup", tmp_path / "b", "--dir", ca).code == 1
    restore = here("db", "restore", tmp_path / "b", "--dir", ca)
    assert restore.code == 3
    assert "another process works on this CA" in restore.err


def test_a_restore_is_a_dry_run_until_yes(here, ca, backup):
    serial = certificates(here, ca)[0]["serial"]
    assert here("cert", "revoke", serial, "--dir", ca, "--yes").code == 0
    before = (ca / "ca.sqlite3").read_bytes()
    done = here("db", "restore", backup, "--dir", ca)
    assert done.code == 0
    assert "dry run" in done.out
    assert (ca / "ca.sqlite3").read_bytes() == before
    done = here("db", "restore", backup, "--dir", ca, "--yes", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    assert (told["done"], told["epoch"], told["revocations_kept"]) == (True, 2, 1)
    assert state(here, ca, serial) == "revoked"
    assert here("db", "check", "--dir", ca).code == 0
    assert here("audit", "verify", "--dir", ca).code == 0


def test_a_lost_database_is_restored_with_the_published_list(here, ca, backup, tmp_path, serve):
    serial = certificates(here, ca)[0]["serial"]
    here("cert", "revoke", serial, "--dir", ca, "--yes")
    with closing(sqlite3.connect(ca / "ca.sqlite3")) as database:
        query = "SELECT der FROM crls WHERE issuer = (SELECT issuer FROM certificates WHERE serial = ?)"
        (der,) = database.execute(query + " ORDER BY number DESC", (serial,)).fetchone()
    (tmp_path / "list.crl").write_bytes(der)
    (tmp_path / "no.crl").write_bytes(b"none")
    (ca / "ca.sqlite3").unlink()
    assert here("db", "restore", backup, "--dir", ca, "--crl", tmp_path / "no.crl", "--yes").code == 1
    assert here("db", "restore", backup, "--dir", ca, "--crl", tmp_path / "absent.crl", "--yes").code == 2
    assert here("db", "restore", tmp_path / "absent", "--dir", ca, "--yes").code == 2
    assert here("db", "restore", backup, "--dir", ca, "--crl", tmp_path / "list.crl", "--yes").code == 0
    assert state(here, ca, serial) == "revoked"
    serve(ca)


def test_an_old_copy_is_refused_with_the_remedy(here, ca, backup, tmp_path):
    shutil.copyfile(ca / "ca.sqlite3", tmp_path / "old")
    assert here("db", "restore", backup, "--dir", ca, "--yes").code == 0
    shutil.copyfile(tmp_path / "old", ca / "ca.sqlite3")
    for command in (("check",), ("backup", tmp_path / "another")):
        done = here("db", *command, "--dir", ca)
        assert done.code == 3
        assert "vtpm-ca db restore" in done.err


def test_what_is_no_backup(here, ca, tmp_path):
    (tmp_path / "text").write_text("a text")
    for path in (tmp_path / "text", tmp_path / "nowhere", ca / "ca.sqlite3"):
        done = here("db", "restore", path, "--dir", ca, "--yes")
        assert done.code in (1, 2)
        assert str(path) in done.err
