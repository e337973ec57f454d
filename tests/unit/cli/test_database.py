"""`vtpm-ca db check|upgrade`."""

import sqlite3


def test_check_of_a_good_database(here, ca):
    assert here("db", "check", "--dir", ca).code == 0


def test_another_schema_is_named_with_the_remedy(here, ca):
    with sqlite3.connect(ca / "ca.sqlite3") as database:
        database.execute("UPDATE alembic_version SET version_num = '0000'")
    database.close()
    done = here("db", "check", "--dir", ca)
    assert done.code == 3
    assert "vtpm-ca db upgrade" in done.err


def test_upgrade_leaves_a_good_database_as_it_is(here, ca):
    before = here("cert", "list", "--dir", ca, "--json").out
    assert here("db", "upgrade", "--dir", ca).code == 0
    assert here("cert", "list", "--dir", ca, "--json").out == before


def test_upgrade_makes_no_database(here, ca):
    (ca / "ca.sqlite3").unlink()
    assert here("db", "upgrade", "--dir", ca).code == 3
    assert not (ca / "ca.sqlite3").exists()
