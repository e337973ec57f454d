"""The database that tests of other packages are given is the one that the migrations make."""

import sqlite3
from contextlib import closing

import remembered_schema
from remembered_schema import every_migration

from ca_service.store import create_store, upgrading


def contents(path):
    """Everything in the file: what there is with its SQL, and all rows."""
    with closing(sqlite3.connect(path)) as database:
        made = database.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
        ).fetchall()
        tables = [name for kind, name, *_ in made if kind == "table"]
        rows = {name: database.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables}  # noqa: S608
        modes = [database.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "journal_mode")]
    return made, rows, modes


def test_it_is_the_same_but_for_the_epoch_s_own_salt_and_time(tmp_path, monkeypatch):
    found = []
    for name, way in (
        ("migrated", every_migration),
        # The first of a process fills the memory, the others come from it.
        ("first", remembered_schema._upgrade),
        ("second", remembered_schema._upgrade),
        ("third", remembered_schema._upgrade),
    ):
        monkeypatch.setattr(upgrading, "upgrade", way)
        create_store(f"sqlite:///{tmp_path / name}").close()
        made, rows, modes = contents(tmp_path / name)
        found.append((made, rows, modes, rows.pop("epochs")))
    assert all(one[:3] == found[0][:3] for one in found)
    assert len(found[0][0]) > 40
    epochs = [epoch for *_, (epoch,) in found]
    assert len({(number, reason) for number, _, _, reason in epochs}) == 1
    assert len({salt for _, salt, _, _ in epochs}) == len(found)
    assert {len(salt) for _, salt, _, _ in epochs} == {64}


def test_one_that_is_not_empty_is_migrated(tmp_path, monkeypatch):
    monkeypatch.setattr(upgrading, "upgrade", remembered_schema._upgrade)
    create_store(f"sqlite:///{tmp_path}/a").close()
    called = []
    monkeypatch.setattr(remembered_schema, "every_migration", called.append)
    create_store(f"sqlite:///{tmp_path}/a").close()
    assert len(called) == 1
