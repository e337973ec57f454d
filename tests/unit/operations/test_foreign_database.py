"""Another CA's database is neither replaced nor upgraded, whatever release wrote it.

Two CAs on one server, and the wrong name in the environment: PostgreSQL keeps no copy of what was there, and a schema
has no way back.
"""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from old_releases import Release

from ca_service.enrollment import Limits
from ca_service.judgment import BadRequest, Unavailable
from ca_service.operations import upgrade_database
from ca_service.operations.backup import make_backup, plan_restore, restore
from ca_service.operations.kept import keep_state
from ca_service.store import Store, named_issuers

ALL = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7")


@pytest.fixture
def ca(desk):
    return replace(desk.world.authority, directory=desk.world.directory / "ca")


@pytest.fixture
def file(desk, ca, tmp_path):
    keep_state(ca, desk.store)
    path = tmp_path / "backup.sqlite3"
    make_backup(ca, desk.store, path, desk.world.time)
    return path


@pytest.fixture(params=ALL)
def foreign(request, databases):
    """The database of a CA of a release: the release, and the URL."""
    released, url = Release(request.param), databases.new()
    released.put_database(url)
    return released, url


def content(url: str) -> dict[str, list[str]]:
    store, tables = Store(url), sa.MetaData()
    with store.read() as tx:
        tables.reflect(tx.connection)
        found = {
            table.name: sorted(repr(tuple(row)) for row in tx.connection.execute(table.select()))
            for table in tables.sorted_tables
        }
    store.close()
    return found


def test_it_is_left_as_it_is(desk, ca, file, foreign):
    _, url = foreign
    before = content(url)
    for doing in (
        partial(plan_restore, ca, url, file),
        partial(restore, ca, url, file, at=desk.world.time, entropy=os.urandom, limits=Limits()),
        partial(upgrade_database, ca, url),
    ):
        with pytest.raises(BadRequest, match="is the one of another CA") as error:
            doing()
        assert error.value.code == "authority"
    assert content(url) == before


def test_it_says_whose_it_is_in_each_table_that_does(foreign):
    """A CA that has issued nothing yet has revocation lists, and one whose lists are lost has certificates."""
    released, url = foreign
    tables = {"issuers": "skid", "crls": "issuer", "certificates": "issuer"}
    present = [name for name in tables if name in released.tables]
    engine = sa.create_engine(url)
    store = Store(url)
    for kept in present:
        for name in present:
            with engine.begin() as connection:
                if name != kept:
                    connection.exec_driver_sql(f"ALTER TABLE {name} RENAME TO other_{name}")
        wanted = {row[tables[kept]] for row in released.rows(kept)}
        assert named_issuers(store) == wanted != set()
        for name in present:
            with engine.begin() as connection:
                if name != kept:
                    connection.exec_driver_sql(f"ALTER TABLE other_{name} RENAME TO {name}")
    store.close()
    engine.dispose()


def test_an_own_one_of_an_earlier_schema_may_be_replaced(desk, ca, file, databases):
    """After an upgrade that went wrong, for example."""
    server = databases.new()
    options = {"at": desk.world.time, "entropy": os.urandom, "limits": Limits()}
    restore(ca, server, file, **options)
    engine = sa.create_engine(server)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0008'")
    engine.dispose()
    plan_restore(ca, server, file)


def test_what_is_damaged_is_nobody_s(desk, ca, file):
    """That is what restores are for."""
    desk.store.close()
    path = Path(desk.world.url.removeprefix("sqlite:///"))
    path.write_bytes(path.read_bytes()[:100] + os.urandom(path.stat().st_size - 100))
    store = Store(desk.world.url)
    with pytest.raises(Unavailable):
        named_issuers(store)
    store.close()
    restore(ca, desk.world.url, file, at=desk.world.time, entropy=os.urandom, limits=Limits())
