"""The file of a database that is moved, deleted or replaced while somebody has it open."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ca_service.judgment import Unavailable
from ca_service.store import Store, create_store, open_store
from ca_service.store.file import DatabaseFile

AT = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ca.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    made = create_store(f"sqlite:///{path}")
    yield made
    made.close()


def alarms(store: Store) -> list[str]:
    with store.read() as tx:
        return [row.kind for row in tx.alarms.latest(10)]


def raise_alarm(store: Store, kind: str) -> None:
    with store.write() as tx:
        tx.alarms.add(kind, "d1", "{}", AT)


def refuses(store: Store) -> None:
    for write in (lambda: raise_alarm(store, "lost"), store.check_writable):
        with pytest.raises(Unavailable) as caught:
            write()
        assert caught.value.code == "moved"
    assert "lost" not in alarms(store)


def test_a_moved_database_takes_nothing_until_it_is_back(store: Store, path: Path):
    raise_alarm(store, "before")
    away = path.rename(path.with_name("away"))
    refuses(store)
    away.rename(path)
    raise_alarm(store, "after")
    assert alarms(store) == ["after", "before"]


def test_a_deleted_database_takes_nothing(store: Store, path: Path):
    raise_alarm(store, "before")
    path.unlink()
    refuses(store)


def test_a_new_file_is_another_one_even_if_nobody_has_the_old_one_open(path: Path):
    """A file system gives the number of a deleted file to the next one."""
    for file in (path, path.with_name("ca.sqlite3-wal")):
        file.touch()
    known = DatabaseFile(str(path))
    known.opened()
    known.check()
    for _ in range(20):
        path.unlink()
        path.touch()
        with pytest.raises(Unavailable, match="replaced"):
            known.check()


def test_a_copy_in_its_place_is_another_one(store: Store, path: Path):
    """Also for connections that are made afterwards: one process must not write into two files."""
    raise_alarm(store, "before")
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)
    copy.rename(path)
    refuses(store)
    with store.read(), store.read():
        refuses(store)


def test_a_log_that_is_tidied_up_takes_the_commits_with_it(store: Store, path: Path):
    raise_alarm(store, "before")
    path.with_name("ca.sqlite3-wal").unlink()
    refuses(store)


def test_who_opens_it_anew_goes_by_what_lies_there(store: Store, path: Path):
    raise_alarm(store, "before")
    store.close()
    away = path.rename(path.with_name("away"))
    shutil.copyfile(away, path)
    again = open_store(f"sqlite:///{path}")
    raise_alarm(again, "again")
    assert alarms(again) == ["again", "before"]
    again.close()


def test_a_link_may_lead_to_it(path: Path):
    path.symlink_to(path.with_name("elsewhere"))
    linked = create_store(f"sqlite:///{path}")
    raise_alarm(linked, "before")
    path.with_name("elsewhere").rename(path.with_name("away"))
    refuses(linked)
    linked.close()
