"""Fixtures that run a test on each kind of database that a CA may lie in.

The topmost conftest imports them. `database` is one empty or prepared database of the test's own; the server for
PostgreSQL is started once per test process, when the first test asks for it.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from postgres_cluster import PostgresCluster

from ca_service.store import create_store

KINDS = ("sqlite", "postgresql")


@dataclass
class Databases:
    """Makes databases of one kind for one test, and removes them again."""

    kind: str
    folder: Path
    cluster: PostgresCluster | None = None
    made: list[str] = field(default_factory=list)

    def new(self, template: str | None = None) -> str:
        """The URL of a new database: without tables, or a copy of the one with this URL, which nobody uses."""
        if self.cluster is None:
            path = self.folder / f"database-{len(self.made)}.sqlite3"
            self.made.append(str(path))
            if template is not None:
                shutil.copyfile(template.removeprefix("sqlite:///"), path)
            return f"sqlite:///{path}"
        name = self.cluster.new_database(None if template is None else _name(template))
        self.made.append(name)
        return self.cluster.url(name)

    def close(self) -> None:
        """Remove what a server keeps; files go with their folder."""
        if self.cluster is not None:
            for name in self.made:
                self.cluster.drop_database(name)


def _name(url: str) -> str:
    return sa.make_url(url).database


@pytest.fixture(scope="session")
def postgres():
    """A server whose commits are not flushed; tests of durability start their own."""
    cluster = PostgresCluster(durable=False)
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory):
    """By kind of database: the URL of one with all tables and no rows, to be copied."""
    return {}


@pytest.fixture(params=KINDS)
def databases(request: pytest.FixtureRequest, tmp_path: Path):
    """Databases of each kind in turn."""
    cluster = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    made = Databases(request.param, tmp_path, cluster)
    yield made
    made.close()


@pytest.fixture
def database(
    databases: Databases, templates: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The URL of a database with all tables and no rows."""
    if databases.kind not in templates:
        maker = Databases(databases.kind, tmp_path_factory.mktemp("template"), databases.cluster)
        url = maker.new()
        create_store(url).close()
        templates[databases.kind] = url
    url = templates[databases.kind]
    if databases.cluster is None:
        return databases.new(url)
    # To make and drop a database takes longer than most tests; the tests of one process share one, one at a time.
    databases.cluster.empty(_name(url))
    return url
